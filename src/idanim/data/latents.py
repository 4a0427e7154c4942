"""Latents beside the shards: every clip goes through the frozen VAE once, not once a step.

For each shard there is one file `<folder>/<fingerprint>/<shard>-<digest>.safetensors` with the posterior of each
clip, `<key>/mean` and `<key>/std`, float16 [C, F, h, w]. The fingerprint covers VAE weights, resolution and frame
sampling, the digest the shard's content; the file says which clips could not be read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from idanim.data.shards import ShardIndex
from idanim.files import atomic_path
from idanim.types import IdanimError
from idanim.video import decode, to_float

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class FrameWindow:
    """Which pixels of a clip are trained on; the window starts at the clip's first frame.

    Attributes:
        num_frames: frames.
        stride: every how many frames of the clip one is taken.
        height: pixels after resizing.
        width: pixels after resizing.
    """

    num_frames: int
    stride: int
    height: int
    width: int

    def read(self, video: bytes) -> Tensor:
        """Decode the window: [F, 3, H, W] float32 in [-1, 1].

        Raises:
            IdanimError: the video can't be decoded or is too short.
        """
        indices = range(0, self.num_frames * self.stride, self.stride)
        frames = [rgb for _, rgb in decode(video, indices)]
        if len(frames) < self.num_frames:
            needed = (self.num_frames - 1) * self.stride + 1
            raise IdanimError(
                f"too short: {self.num_frames} frames at stride {self.stride} need {needed}, "
                f"it gave {len(frames)} of {self.num_frames}"
            )
        pixels = to_float(np.stack(frames))
        if pixels.shape[-2:] != (self.height, self.width):
            pixels = F.interpolate(pixels, (self.height, self.width), mode="bilinear", antialias=True)
        return pixels


class LatentFolder:
    """The latents of one encoder and window.

    Args:
        folder: where the files lie; None puts them in `latents/` beside each shard.
        encoder_fingerprint: names the encoder's weights.
        window: resolution and frame sampling.
    """

    def __init__(self, folder: Path | None, encoder_fingerprint: str, window: FrameWindow) -> None:
        self.folder = folder
        self.window = window
        self.fingerprint = hashlib.sha256(repr((encoder_fingerprint, astuple(window))).encode()).hexdigest()[:16]

    def path(self, shard: ShardIndex) -> Path:
        """The file that belongs to a shard."""
        folder = self.folder or shard.path.parent / "latents"
        return folder / self.fingerprint / f"{shard.path.stem}-{shard.digest}.safetensors"

    def encode_missing(self, shards: Sequence[ShardIndex], encoder: VideoEncoder, max_broken: float) -> None:
        """Encode the shards whose latents are missing, with a progress bar; stops and goes on between shards.

        Raises:
            IdanimError: more than the share `max_broken` of all clips can't be read.
        """
        missing = [shard for shard in shards if not self.path(shard).is_file()]
        total = sum(len(shard.keys) for shard in missing)
        with tqdm(total=total, desc="latents", unit="clip", disable=not missing) as progress:
            for shard in missing:
                self._encode(shard, encoder, progress)
        broken = {key: reason for shard in shards for key, reason in self.broken(shard).items()}
        clips = sum(len(shard.keys) for shard in shards)
        if broken and len(broken) > max_broken * clips:
            listed = "; ".join(f"{key}: {reason}" for key, reason in list(broken.items())[:5])
            raise IdanimError(
                f"{len(broken)} of {clips} clips can't be read, "
                f"more than data.max_broken={max_broken:g} allows: {listed}"
            )

    def _encode(self, shard: ShardIndex, encoder: VideoEncoder, progress: Any) -> None:
        tensors: dict[str, Tensor] = {}
        broken: dict[str, str] = {}
        for key in shard.keys:
            try:
                members = shard.read(key, ["mp4"])
                if "mp4" not in members:
                    raise IdanimError("no member 'mp4'")
                mean, std = encoder.encode_video(self.window.read(members["mp4"])[None])
            except IdanimError as error:
                log.warning("%s: clip %s is left out: %s", shard.path.name, key, error)
                broken[key] = str(error)
            else:
                tensors[f"{key}/mean"] = mean[0].to("cpu", torch.float16).contiguous()
                tensors[f"{key}/std"] = std[0].to("cpu", torch.float16).contiguous()
            progress.update()
        with atomic_path(self.path(shard)) as temporary:
            metadata = {"broken": json.dumps(broken, ensure_ascii=False)}
            safetensors.torch.save_file(tensors, temporary, metadata)

    def broken(self, shard: ShardIndex) -> dict[str, str]:
        """Keys of the clips that could not be encoded → why."""
        return json.loads(self._metadata(self.path(shard)).get("broken", "{}"))

    def read(self, shard: ShardIndex, key: str) -> tuple[Tensor, Tensor]:
        """Mean and std of one clip, float32 [C, F, h, w].

        Raises:
            IdanimError: why the clip has no latents.
        """
        file, names = _open(self.path(shard))
        if f"{key}/mean" not in names:
            raise IdanimError(self.broken(shard).get(key, f"no latents of it in {self.path(shard)}"))
        return file.get_tensor(f"{key}/mean").float(), file.get_tensor(f"{key}/std").float()

    @staticmethod
    def _metadata(path: Path) -> dict[str, str]:
        try:
            with safetensors.safe_open(path, "pt") as file:
                return dict(file.metadata() or {})
        except safetensors.SafetensorError as error:
            raise IdanimError(f"{path}: damaged ({error}); remove it and it is made again") from error


@lru_cache(maxsize=16)
def _open(path: Path) -> tuple[Any, frozenset[str]]:
    file = safetensors.safe_open(path, "pt")
    return file, frozenset(file.keys())
