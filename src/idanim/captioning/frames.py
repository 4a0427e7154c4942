"""Which frames of a clip a model gets to see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from idanim.types import UInt8Array
from idanim.video import read_frames


def median_frame(num_frames: int) -> int:
    """The frame in the middle of a clip (paper §3.3, attribute captions)."""
    return (num_frames - 1) // 2


def even_frames(num_frames: int, count: int) -> list[int]:
    """Up to `count` frames evenly over a clip: the middles of as many equal parts."""
    count = min(count, num_frames)
    return [int((i + 0.5) * num_frames / count) for i in range(count)]


class ClipFrames:
    """Frames of an encoded clip, decoded when first asked for and at most once.

    Args:
        video: the clip's mp4.
        indices: every frame that may be asked for.
        max_px: larger pictures are shrunk to this longer side.
    """

    def __init__(self, video: bytes, indices: Sequence[int], max_px: int) -> None:
        self._video = video
        self._indices = sorted(set(indices))
        self._max_px = max_px
        self._decoded: dict[int, UInt8Array] = {}

    def pictures(self, indices: Sequence[int]) -> tuple[UInt8Array, ...]:
        """Frames [H, W, 3] uint8 RGB."""
        if not self._decoded:
            frames = read_frames(self._video, self._indices)
            self._decoded = {i: _shrunk(rgb, self._max_px) for i, rgb in zip(self._indices, frames, strict=True)}
        return tuple(self._decoded[i] for i in indices)


def _shrunk(rgb: UInt8Array, max_px: int) -> UInt8Array:
    if max(rgb.shape[:2]) <= max_px:
        return rgb
    image = Image.fromarray(rgb)
    image.thumbnail((max_px, max_px), Image.Resampling.BICUBIC)
    return np.array(image)
