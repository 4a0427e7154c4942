"""What a frozen network says of every clip, kept beside the shards: computed once, not once a step.

For each shard there is one file `<folder>/<fingerprint>/<shard>-<digest>.safetensors` with tensors `<key>/<name>`.
The fingerprint covers what computed them and the frame window, the digest the shard's content; the file says which
clips could not be read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from idanim.data.read_ahead import read_ahead
from idanim.data.shards import ShardIndex
from idanim.files import atomic_path, parse_json
from idanim.types import IdanimError, UInt8Array
from idanim.video import decode, to_float

log = logging.getLogger(__name__)

MAX_DECODERS = 8
"""Each decodes 16 frames of 512² in 50 to 170 ms of a core."""
MAX_AHEAD_BYTES = 2**30
"""Of decoded clips that wait, but for one that always may; 16 frames of 512² have 50 MB."""


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
        frames = [self._sized(rgb) for _, rgb in decode(video, indices)]
        if len(frames) < self.num_frames:
            needed = (self.num_frames - 1) * self.stride + 1
            raise IdanimError(
                f"too short: {self.num_frames} frames at stride {self.stride} need {needed}, "
                f"it gave {len(frames)} of {self.num_frames}"
            )
        return torch.cat(frames)

    def _sized(self, rgb: UInt8Array) -> Tensor:
        pixels = to_float(rgb[None])
        if pixels.shape[-2:] != (self.height, self.width):
            pixels = F.interpolate(pixels, (self.height, self.width), mode="bilinear", antialias=True)
        return pixels


def num_decoders(window: FrameWindow) -> int:
    """Threads that decode beside a network: one for each core that this process may use, within bounds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    clip_bytes = window.num_frames * 3 * window.height * window.width * torch.float32.itemsize
    return max(1, min(cores, MAX_DECODERS, MAX_AHEAD_BYTES // clip_bytes - 1))


class ClipCache:
    """Tensors of every clip of some shards, in files beside them.

    Args:
        kind: what the tensors are, the name of the folder beside the shards and of the progress bar.
        folder: where the files lie; None puts them in `<kind>/` beside each shard.
        made_by: names what computes the tensors: another name, another file.
        window: resolution and frame sampling.
    """

    def __init__(self, kind: str, folder: Path | None, made_by: str, window: FrameWindow) -> None:
        self.kind = kind
        self.folder = folder
        self.window = window
        self.fingerprint = hashlib.sha256(repr((made_by, astuple(window))).encode()).hexdigest()[:16]

    def path(self, shard: ShardIndex) -> Path:
        """The file that belongs to a shard."""
        folder = self.folder or shard.path.parent / self.kind
        return folder / self.fingerprint / f"{shard.path.stem}-{shard.digest}.safetensors"

    def fill(
        self, shards: Sequence[ShardIndex], compute: Callable[[Tensor], Mapping[str, Tensor]], max_broken: float
    ) -> None:
        """Compute what is missing, with a progress bar; stops and goes on between shards.

        Args:
            shards: all that will be read.
            compute: the window of a clip, [F, 3, H, W] in [-1, 1] → tensors by name.
            max_broken: allowed share of clips that can't be read.

        Raises:
            IdanimError: more than `max_broken` of all clips can't be read.
        """
        missing = [shard for shard in shards if not self.path(shard).is_file()]
        total = sum(shard.num_clips for shard in missing)
        clips = ((shard, key) for shard in missing for key in shard.keys)
        decoders = num_decoders(self.window)
        windows = read_ahead(clips, self._window, decoders + 1, decoders)
        with tqdm(total=total, desc=self.kind, unit="clip", disable=not missing) as progress, closing(windows):
            for shard in missing:
                self._fill(shard, islice(windows, shard.num_clips), compute, progress)
        broken = {key: reason for shard in shards for key, reason in self.broken(shard).items()}
        num_clips = sum(shard.num_clips for shard in shards)
        if broken and len(broken) > max_broken * num_clips:
            listed = "; ".join(f"{key}: {reason}" for key, reason in list(broken.items())[:5])
            raise IdanimError(
                f"{len(broken)} of {num_clips} clips can't be read, "
                f"more than data.max_broken={max_broken:g} allows: {listed}"
            )

    def _window(self, place: tuple[ShardIndex, str]) -> Tensor | IdanimError:
        """The pixels of one clip, or why there are none."""
        shard, key = place
        try:
            members = shard.read(key, ["mp4"])
            if "mp4" not in members:
                raise IdanimError("no member 'mp4'")
            return self.window.read(members["mp4"])
        except IdanimError as error:
            return error

    def _fill(
        self,
        shard: ShardIndex,
        windows: Iterable[tuple[tuple[ShardIndex, str], Tensor | IdanimError]],
        compute: Callable[[Tensor], Mapping[str, Tensor]],
        progress: Any,
    ) -> None:
        tensors: dict[str, Tensor] = {}
        broken: dict[str, str] = {}
        for (_, key), pixels in windows:
            try:
                if isinstance(pixels, IdanimError):
                    raise pixels
                computed = compute(pixels)
            except IdanimError as error:
                log.warning("%s: clip %s is left out: %s", shard.path.name, key, error)
                broken[key] = str(error)
            else:
                tensors |= {f"{key}/{name}": value.cpu().contiguous() for name, value in computed.items()}
            progress.update()
        with atomic_path(self.path(shard)) as temporary:
            metadata = {"broken": json.dumps(broken, ensure_ascii=False)}
            safetensors.torch.save_file(tensors, temporary, metadata)

    def broken(self, shard: ShardIndex) -> dict[str, str]:
        """Keys of the clips that could not be read → why."""
        path = self.path(shard)
        found = parse_json(_list_of_broken(path), f"{path}: its list of broken clips")
        if not isinstance(found, dict):
            raise IdanimError(f"{path}: damaged; remove it and it is made again")
        return found

    def tensor(self, shard: ShardIndex, key: str, name: str) -> Tensor:
        """One tensor of one clip.

        Raises:
            IdanimError: why the clip has none.
        """
        file, names = _open(self.path(shard))
        if f"{key}/{name}" not in names:
            raise IdanimError(self.broken(shard).get(key, f"no {self.kind} of it in {self.path(shard)}"))
        return torch.from_numpy(file.get_tensor(f"{key}/{name}"))

    def misshapen(self, shard: ShardIndex, key: str, found: Sequence[int], expected: Sequence[object]) -> IdanimError:
        """What to raise when a stored tensor has another shape than it should."""
        return IdanimError(
            f"sample {key!r}: its {self.kind} in {self.path(shard)} have shape {tuple(found)}, expected "
            f"{tuple(expected)}; remove the file and it is made again"
        )


_HEAD_BYTES, _TAIL_BYTES = 4096, 64
_SAID = re.compile(rb'\{"__metadata__":\{"broken":("(?:[^"\\]|\\.)*")\}[,}]')
_END = re.compile(rb"(\d+)\]\}\} *\Z")
"""Where the last tensor ends."""


def _list_of_broken(path: Path) -> bytes | str:
    """JSON. A header names every tensor: where file and header end at the right byte, only its two ends are read."""
    handle = os.open(path, os.O_RDONLY)
    try:
        head, size = os.pread(handle, _HEAD_BYTES, 0), os.fstat(handle).st_size
        tensors_at = 8 + int.from_bytes(head[:8], "little")
        tail = os.pread(handle, _TAIL_BYTES, tensors_at - _TAIL_BYTES) if _TAIL_BYTES < tensors_at <= size else b""
    finally:
        os.close(handle)
    said, end = _SAID.match(head, 8), _END.search(tail)
    if said and end and tensors_at + int(end[1]) == size:
        return str(parse_json(said[1], f"{path}: its header"))
    try:
        with safetensors.safe_open(path, "pt") as file:
            return str((file.metadata() or {}).get("broken", "{}"))
    except safetensors.SafetensorError as error:
        raise IdanimError(f"{path}: damaged ({error}); remove it and it is made again") from error


@lru_cache(maxsize=16)
def _open(path: Path) -> tuple[Any, frozenset[str]]:
    try:
        file = safetensors.safe_open(path, "np")  # as torch's tensors, safetensors 0.8 loses 60 bytes with each
        return file, frozenset(file.keys())
    except safetensors.SafetensorError as error:
        raise IdanimError(f"{path}: damaged ({error}); remove it and it is made again") from error
