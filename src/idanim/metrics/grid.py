"""The grid of an evaluation: every system × person × prompt × seed, each with its place on disk."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from idanim.metrics.prompts import Prompt

NOBODY = ""
"""Identity of a video that was made without a reference."""


@dataclass(frozen=True)
class Cell:
    """One video of the grid.

    Attributes:
        system: what makes it, for instance "adapter" or "no_adapter".
        identity: person in the references; `NOBODY` for a system that takes none.
        prompt: what it shall show.
        seed: of the initial noise.
    """

    system: str
    identity: str
    prompt: Prompt
    seed: int

    @property
    def path(self) -> Path:
        """Relative path of the mp4: readable, and different for different cells."""
        person = "nobody" if self.identity == NOBODY else slug(self.identity)
        return Path(slug(self.system), person, f"{slug(self.prompt.text)}_s{self.seed}.mp4")


def grid(system: str, identities: Iterable[str], prompts: Iterable[Prompt], seeds: Iterable[int]) -> list[Cell]:
    """All cells of one system, person by person. The same seeds for every person and prompt."""
    prompts, seeds = list(prompts), list(seeds)
    return [Cell(system, identity, prompt, seed) for identity in identities for prompt in prompts for seed in seeds]


def slug(text: str) -> str:
    """Text as a file name: letters, digits and "-"; where that loses something, a digest tells texts apart."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:48]
    if plain and plain == text:
        return plain
    return f"{plain or 'text'}-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"
