"""The data contracts that cross package borders: shapes, dtypes, ranges.

Dimension letters used in every tensor file of the project:

B batch · R references per sample · C channels · F frames · H W pixels · h w latent cells ·
L text tokens · Q id tokens (facial latent queries) · N encoder tokens · D feature width
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]


class IdanimError(ValueError):
    """A mistake in the input, told in words: what was got, what was expected, what to do.

    Entry points print its text without a traceback.
    """


class StoppedBySignalError(IdanimError):
    """A run that was told to end, and goes on with the same command; its exit status is `EXIT_STATUS`."""

    EXIT_STATUS = 75  # "temporary failure; try again" of sysexits.h


def listed(names: Collection[object], most: int = 5) -> str:
    """Names for an error text, sorted, no more than a few of them: "a, b and 7 more"."""
    shown = ", ".join(str(name)[:60] for name in sorted(names, key=str)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


CUT_QUERY = "?…"
"""What stands for the query of a URL."""
_SIGN_ON = re.compile(r"""(\w://)(?:[^/\s'"?\#]*|[^/\s'"?\#@:]*:(?!\d+(?:[/?\#\s'",)\]]|$))[^\s'"@]*)@""")
"""Name and password up to the last @ before the path; a password that should have been quoted may reach beyond."""
_QUERY = re.compile(
    r"""(\w://[^\s'"?\#]*)[?\#]
    (?:[^\s'",)\]]|['",)\]](?!['",)\].;:]*(?:\s|$|[\w+.-]+://)))*  # what closes a URL closes it only at an end""",
    re.VERBOSE,
)


def without_secrets(text: str) -> str:
    """A text without the queries, names and passwords of the URLs in it, which may be keys: "https://host/a.tar?…"."""
    return _QUERY.sub(rf"\1{CUT_QUERY}", _SIGN_ON.sub(r"\1", text))


class ClipBatch(NamedTuple):
    """One training batch. A NamedTuple, because Lightning moves those between devices."""

    latents: Tensor
    """[B, C, F, h, w] float32: clean latents x_0 as the backbone wants them (scaled)."""
    references: Tensor
    """[B, R, 3, H, W] float32 in [-1, 1]: reference pictures of the person, RGB."""
    captions: list[str]
    """B prompts; null text ("") is already applied."""
    seeds: Tensor
    """[B] int64 in [0, 2^63): the sample's own seed for noise and timestep."""
    keys: list[str]
    """B clip keys."""
    identities: list[str]
    """B names of persons."""
    landmarks: Tensor | None = None
    """[B, F, 5, 2] float32 pixels of the frames, NaN where no face was found; None where nothing asks for them."""


@dataclass(frozen=True)
class Face:
    """One detected face, in pixels of the picture it was found in.

    Attributes:
        box: (left, top, right, bottom) in pixels; may reach beyond the picture.
        landmarks: [5, 2] float32 pixels: left eye, right eye, nose, left and right mouth corner
            (left and right as seen in the picture).
        score: detection score in [0, 1].
        embedding: [D] float32 of unit length, or None when only detection was asked for.
    """

    box: tuple[float, float, float, float]
    landmarks: FloatArray
    score: float
    embedding: FloatArray | None = None

    @property
    def width_px(self) -> float:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height_px(self) -> float:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]


@dataclass(frozen=True)
class GeneratedClip:
    """One generated video with what it was made from.

    Attributes:
        frames: [F, H, W, 3] uint8 RGB.
        fps: frames per second.
        prompt: the text it was asked to show.
        identity: name of the person shown in the references.
        seed: seed of the initial noise.
    """

    frames: UInt8Array
    fps: float
    prompt: str
    identity: str
    seed: int
