"""Whole files of every kind that the program reads from others, small, for tests that damage them."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from drawn_people import draw_face, make_sample
from PIL import Image

from idanim.data.shards import ShardIndex, write_shard
from idanim.models.checkpoint import CONFIG_KEY, EMA_KEY, write_adapter

STATE = {f"adapter_modules.{i}.to_k_face.weight": torch.linspace(-1, 1, 64).view(8, 8) for i in range(4)}
CONFIG = {"choices": {"backbone": "tiny"}, "values": {"seed": 0, "adapter": {"scale": 1.0}}, "git_sha": "unknown"}


class Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def whole_files(folder: Path) -> dict[str, list[Path]]:
    """Kind → files, each of which its reader takes."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "train-000000.tar", [make_sample(p, num_clips=2) for p in range(2)])
    write_adapter(folder / "adapter.safetensors", STATE, CONFIG)
    torch.save({"state_dict": STATE, EMA_KEY: STATE, CONFIG_KEY: CONFIG, "global_step": 3}, folder / "last.ckpt")
    torch.save({"state_dict": STATE}, folder / "new.bin")
    torch.save({"state_dict": STATE}, folder / "old.bin", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(STATE, folder / "flat.safetensors")
    photo = Image.fromarray(draw_face(3, size=64))
    for ending in ("jpg", "png", "webp", "gif", "bmp", "tiff", "ppm"):
        photo.save(folder / f"photo.{ending}")
    _write_lists(folder)
    groups = {
        "shard": ["train-000000.tar"],
        "checkpoint": ["adapter.safetensors", "last.ckpt"],
        "weights": ["new.bin", "old.bin", "flat.safetensors"],
        "photo": [f"photo.{ending}" for ending in ("jpg", "png", "webp", "gif", "bmp", "tiff", "ppm")],
        "manifest": ["videos.csv", "videos.jsonl"],
        "list": ["clips.csv", "clips.jsonl", "celebvhq.json"],
        "record": ["video.json"],
        "annotations": ["sample.json"],
    }
    return {kind: [folder / name for name in names] for kind, names in groups.items()}


def _write_lists(folder: Path) -> None:
    rows = [
        {"path": f"v{i}.mp4", "prompt": f"a person, {i}", "person": "ada", "seed": i, "width": 32} for i in range(4)
    ]
    clips = [{"path": f"v{i}.mp4", "start": i, "end": i + 2, "box": "0.1 0 0.9 1", "identity": "ada"} for i in range(4)]
    for name, table in (("videos", rows), ("clips", clips)):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        (folder / f"{name}.csv").write_text(text.getvalue())
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    box = {"top": 0.0, "bottom": 1.0, "left": 0.1, "right": 0.9}
    celebv = {f"c{i}": {"ytb_id": f"y{i}", "duration": {"start_sec": 1, "end_sec": 3}, "bbox": box} for i in range(3)}
    (folder / "celebvhq.json").write_text(json.dumps({"clips": celebv}))
    record = {"schema": 1, "prompt": "a person", "identity": "ada", "seed": 3, "made_with": {"steps": 4}}
    (folder / "video.json").write_text(json.dumps(record))
    index = ShardIndex.scan(folder / "train-000000.tar")
    (folder / "sample.json").write_bytes(index.read(index.keys[0], ["json"])["json"])


def bare_pickle(content: Any) -> bytes:
    """As `pickle.dumps` writes it, without torch."""
    return pickle.dumps(content, protocol=2)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that says to have this size, with no more than one pixel of content."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)
