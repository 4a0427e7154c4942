"""Latents of every clip: each goes through the frozen VAE once, not once a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from idanim.data.clip_cache import ClipCache, FrameWindow
from idanim.data.shards import ShardIndex
from idanim.types import IdanimError


class VideoEncoder(Protocol):
    """What encodes pixels: a backbone."""

    @property
    def latent_fingerprint(self) -> str:
        """Names the weights."""
        ...

    def to(self, device: torch.device) -> Any:
        """Move the weights."""
        ...

    def encode_video(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, 3, H, W] in [-1, 1] → mean and std, each [B, C, F, h, w]."""
        ...


class LatentFolder:
    """The posteriors of one encoder and window, float16.

    Args:
        folder: where the files lie; None puts them in `latents/` beside each shard.
        encoder_fingerprint: names the encoder's weights.
        window: resolution and frame sampling.
    """

    def __init__(self, folder: Path | None, encoder_fingerprint: str, window: FrameWindow) -> None:
        self.cache = ClipCache("latents", folder, encoder_fingerprint, window)

    def encode_missing(self, shards: Sequence[ShardIndex], encoder: VideoEncoder, max_broken: float) -> None:
        """Encode the shards whose latents are missing.

        Raises:
            IdanimError: more than the share `max_broken` of all clips can't be read.
        """

        def posterior(pixels: Tensor) -> dict[str, Tensor]:
            mean, std = encoder.encode_video(pixels[None])
            return {"mean": mean[0].half(), "std": std[0].half()}

        self.cache.fill(shards, posterior, max_broken)

    def read(self, shard: ShardIndex, key: str) -> tuple[Tensor, Tensor]:
        """Mean and std of one clip, float32 [C, F, h, w].

        Raises:
            IdanimError: why the clip has no latents.
        """
        mean, std = (self.cache.tensor(shard, key, name).float() for name in ("mean", "std"))
        if mean.ndim != 4 or mean.shape != std.shape or mean.shape[1] != self.cache.window.num_frames:
            expected = ("C", self.cache.window.num_frames, "h", "w")
            raise self.cache.misshapen(shard, key, (*mean.shape, *std.shape), expected)
        # Of numbers that were of half precision a sum can't overflow, and it takes a fraction of the time.
        if not (mean.sum() + std.sum()).isfinite():
            raise IdanimError(f"sample {key!r}: its latents are not finite numbers")
        return mean, std
