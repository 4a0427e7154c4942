"""Where the face is in every frame that is trained on, for losses that look at faces; found once, not once a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from idanim.data.clip_cache import ClipCache, FrameWindow
from idanim.data.shards import ShardIndex
from idanim.types import Face, UInt8Array
from idanim.video import to_uint8


class FaceFinder(Protocol):
    """What finds faces: a face engine."""

    @property
    def name(self) -> str:
        """Engine and pack."""
        ...

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """Find faces in [H, W, 3] uint8, by falling box area."""
        ...


class LandmarkFolder:
    """Landmarks of the largest face of each frame, by one engine.

    Args:
        folder: where the files lie; None puts them in `landmarks/` beside each shard.
        finder: finds faces.
        window: resolution and frame sampling.
        settings: of the finder, beside its name: with others, faces are looked for anew.
    """

    def __init__(self, folder: Path | None, finder: FaceFinder, window: FrameWindow, settings: str = "") -> None:
        self.finder = finder
        self.cache = ClipCache("landmarks", folder, f"{finder.name} {settings}", window)

    def find_missing(self, shards: Sequence[ShardIndex], max_broken: float) -> None:
        """Look for faces in the shards that were not looked at yet.

        Raises:
            IdanimError: more than the share `max_broken` of all clips can't be read.
        """
        self.cache.fill(shards, lambda pixels: {"landmarks": self._find(pixels)}, max_broken)

    def _find(self, pixels: Tensor) -> Tensor:
        found = []
        for rgb in to_uint8(pixels):
            faces = self.finder.detect(rgb)
            found.append(faces[0].landmarks if faces else np.full((5, 2), np.nan, np.float32))
        return torch.from_numpy(np.stack(found)).float()

    def read(self, shard: ShardIndex, key: str) -> Tensor:
        """Landmarks of one clip, float32 [F, 5, 2] in pixels of the window; NaN in frames without a face.

        Raises:
            IdanimError: why the clip has none.
        """
        landmarks = self.cache.tensor(shard, key, "landmarks").float()
        if landmarks.shape != (self.cache.window.num_frames, 5, 2):
            raise self.cache.misshapen(shard, key, landmarks.shape, (self.cache.window.num_frames, 5, 2))
        return landmarks
