"""Files of what a network said of clips: their lists of broken ones, and damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from idanim.data.clip_cache import ClipCache, FrameWindow
from idanim.data.shards import Listing, ShardIndex
from idanim.types import IdanimError

REASONS = {
    "none": {},
    "one": {"clip1": 'clip1: "quoted" \\ and ü, 脸, \n 😀'},
    "many": {f"clip{i}": "too short" for i in range(400)},
}


def write(folder: Path, broken: dict[str, str], num_tensors: int = 3) -> tuple[ClipCache, ShardIndex, Path]:
    cache = ClipCache("sums", folder, "sum", FrameWindow(1, 1, 8, 8))
    shard = ShardIndex(folder / "train-000000.tar", 3, "0" * 16, Listing((), {}))
    path = cache.path(shard)
    path.parent.mkdir()
    tensors = {f"key{i}/sum": torch.arange(7.0 + i).half() for i in range(num_tensors)}
    safetensors.torch.save_file(tensors, path, {"broken": json.dumps(broken, ensure_ascii=False)})
    return cache, shard, path


@pytest.mark.parametrize("num_tensors", [0, 1, 3])
@pytest.mark.parametrize("broken", REASONS.values(), ids=REASONS)
def test_the_list_of_broken_clips_comes_back(broken: dict[str, str], num_tensors: int, tmp_path: Path) -> None:
    cache, shard, _ = write(tmp_path, broken, num_tensors)
    assert cache.broken(shard) == broken


def test_a_header_is_not_gone_through_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, shard, path = write(tmp_path, REASONS["one"], 1000)
    monkeypatch.delattr(safetensors, "safe_open")
    assert cache.broken(shard) == REASONS["one"]
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(AttributeError):  # a file of another size is looked at in full
        cache.broken(shard)


@pytest.mark.parametrize("broken", REASONS.values(), ids=REASONS)
def test_a_file_that_was_cut_or_added_to_is_not_taken_for_a_whole_one(broken: dict[str, str], tmp_path: Path) -> None:
    cache, shard, path = write(tmp_path, broken)
    whole = path.read_bytes()
    for damaged in (
        *(whole[:size] for size in range(0, len(whole), len(whole) // 40)),
        whole[:-1],
        whole + b"0",
        b"\xff" * 99,
    ):
        path.write_bytes(damaged)
        with pytest.raises(IdanimError, match="damaged"):
            cache.broken(shard)
