"""Whose definitions of metrics are reported, and what they may use. F frames.

idanim's own are those of every evaluation; other benchmarks' are in `published_protocols`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from idanim.faces.engine import FaceEngine
from idanim.metrics.people import Person
from idanim.metrics.text_alignment import ClipScorer
from idanim.types import UInt8Array

Figures = dict[str, float | None]


class PromptReader(Protocol):
    """Reads in a video what a prompt asks for: a classifier in place of CLIP, for worlds whose words are few."""

    @property
    def name(self) -> str:
        """Reader and weights; figures of different names never compare."""
        ...

    def asks(self, prompt: str) -> tuple[bool, bool]:
        """Whether a prompt asks for attributes, and whether for an action."""
        ...

    def read(self, frames: UInt8Array, prompt: str) -> tuple[float | None, float | None]:
        """Compare a video with its prompt.

        Args:
            frames: [F, H, W, 3] uint8 RGB.
            prompt: what it was asked to show.

        Returns:
            Share of the asked attributes that are read right, mean over frames; and 1 or 0, whether the action is.
            Each in [0, 1], None where nothing is asked.
        """
        ...


@dataclass(frozen=True)
class Judges:
    """The models that a protocol may use.

    Attributes:
        engine: finds and embeds faces.
        clip: scores texts; None where none is configured.
        reader: reads what prompts ask for; None where none is configured.
    """

    engine: FaceEngine
    clip: ClipScorer | None = None
    reader: PromptReader | None = None


class EvaluationProtocol(Protocol):
    """Somebody's definitions of metrics."""

    @property
    def name(self) -> str:
        """Of the benchmark."""
        ...

    @property
    def flaws(self) -> tuple[str, ...]:
        """What is wrong with its definitions, kept here."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its own networks, which tell their weights apart."""
        ...

    def departures(self, judges: Judges) -> tuple[str, ...]:
        """What is not as there: models that are others, and figures that are None."""
        ...

    def score(
        self, frames: UInt8Array, prompt: str, people: Mapping[str, Person], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video against each of some people.

        Args:
            frames: [F, H, W, 3] uint8 RGB, all of them.
            prompt: what it was asked to show.
            people: those whom it is compared with, by name; their first reference counts.
            judges: the models.

        Returns:
            Person → figure → value.
        """
        ...


@dataclass(frozen=True)
class Idanim:
    """The project's own definitions: every evaluation reports them, so there is nothing to add."""

    name: ClassVar[str] = "idanim"
    flaws: ClassVar[tuple[str, ...]] = ()
    models: ClassVar[tuple[str, ...]] = ()

    def departures(self, judges: Judges) -> tuple[str, ...]:
        """None."""
        return ()

    def score(
        self, frames: UInt8Array, prompt: str, people: Mapping[str, Person], judges: Judges
    ) -> dict[str, Figures]:
        """Nothing; see `EvaluationProtocol.score`."""
        return {person: {} for person in people}


@dataclass(frozen=True)
class ProtocolReport:
    """What `metrics.json` says under `protocol`.

    Attributes:
        name: of the protocol.
        flaws: kept on purpose.
        departures: what is not as in the original.
        models: its own networks that were loaded, by file and digest.
        figures: system → figure → {"mean": over videos, "n": videos}; there is no interval in the originals.
    """

    name: str
    flaws: list[str]
    departures: list[str]
    models: list[str]
    figures: dict[str, dict[str, dict[str, float | int | None]]]


def protocol_report(
    protocol: EvaluationProtocol, figures: Mapping[str, list[Figures]], judges: Judges
) -> ProtocolReport:
    """Means over videos, each counting once, as the originals take them.

    Args:
        protocol: whose figures they are.
        figures: system → figures of each of its videos.
        judges: the models.
    """
    means: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for system, rows in figures.items():
        means[system] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [value for row in rows if (value := row.get(name)) is not None]
            means[system][name] = {"mean": float(np.mean(values)) if values else None, "n": len(values)}
    return ProtocolReport(
        protocol.name, list(protocol.flaws), list(protocol.departures(judges)), list(protocol.models), means
    )
