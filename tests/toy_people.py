"""People and models of the toy world for tests of whole programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from idanim.config import restore
from idanim.models.adapter_file import read_adapter_file, write_official
from idanim.toyworld.make_videos import film
from idanim.toyworld.shipped import shipped

ADAPTER = Path(shipped("adapter.safetensors"))
TOY_BACKBONE = restore("train", {"choices": {"backbone": "toy"}, "values": {}})["backbone"]


def take_photos(folder: Path, names: Sequence[str]) -> list[Path]:
    """A photo of a person each."""
    folder.mkdir(exist_ok=True)
    videos = film(len(names), clips_per_person=1, num_frames=1, size_px=64, seed=20000)
    paths = [folder / name for name in names]
    for path, video in zip(paths, videos, strict=True):
        Image.fromarray(video.frames[0]).save(path)
    return paths


def write_official_file(path: Path) -> Path:
    """The toy adapter as an `animator.ckpt`, in which no configuration is stored."""
    write_official(path, read_adapter_file(ADAPTER).state)
    return path
