"""Damaged files of every kind: read, or refused in words; nothing else, and no more memory than the file is worth."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import KINDS
from hostile_files import whole_files

from idanim.config import restore
from idanim.curation.inputs import find_clips
from idanim.data.sample import from_members, parse_meta
from idanim.data.shards import ShardIndex
from idanim.metrics.manifest import read_manifest
from idanim.metrics.videos import read_record
from idanim.models.checkpoint import read_adapter
from idanim.models.weight_file import read_weights
from idanim.pictures import decode_picture
from idanim.types import IdanimError
from idanim.video import read_frames

NUM_IN_DEFAULT_SUITE, NUM_SLOW = 30, 600
"""For each of the eight kinds of files; the videos of curation have their own."""
MAX_GROWTH_BYTES = 2 * 2**30
MAX_ERROR_CHARS = 2000


def read_shard(path: Path) -> None:
    index = ShardIndex.scan(path)
    for key in index.keys:
        sample = from_members(index.read(key))
        read_frames(sample.video)
        for picture in (sample.first_frame, *sample.faces):
            decode_picture(picture, key)


def read_checkpoint(path: Path) -> None:
    checkpoint = read_adapter(path)
    restore("train", checkpoint.config)
    repr(checkpoint.state)


def read_foreign_weights(path: Path) -> None:
    for tensor in read_weights(path).tensors.values():
        tensor.double().sum()


READERS: dict[str, Callable[[Path], Any]] = {
    "shard": read_shard,
    "checkpoint": read_checkpoint,
    "weights": read_foreign_weights,
    "photo": lambda path: decode_picture(path.read_bytes(), path.name),
    "manifest": lambda path: read_manifest(path, path.parent),
    "list": lambda path: find_clips(path, None, keep_duplicates=False),
    "record": lambda path: read_record(path.with_suffix(".mp4")),
    "annotations": lambda path: parse_meta(path.read_bytes(), "p000__0"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    return whole_files(tmp_path_factory.mktemp("whole"))


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    text = None
    try:
        read(path)
    except IdanimError as error:
        text = str(error)
    assert text is None or 0 < len(text) < MAX_ERROR_CHARS, text
    return "read" if text is None else "refused"


def damage(kind: str, paths: list[Path], folder: Path, numbers: range) -> Counter[str]:
    """Damage the files of a kind again and again, each number in its own way."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        path = paths[number % len(paths)]
        change = KINDS[number // len(paths) % len(KINDS)]
        target = folder / path.name
        target.write_bytes(change(path.read_bytes(), np.random.default_rng([11, number])))
        outcomes[outcome(READERS[kind], target)] += 1
    return outcomes


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", READERS)
def test_whole_files_are_read(kind: str, originals: dict[str, list[Path]]) -> None:
    assert [outcome(READERS[kind], path) for path in originals[kind]] == ["read"] * len(originals[kind])


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.filterwarnings("ignore")  # Pillow and numpy warn of what they then refuse
def test_damaged_files(kind: str, originals: dict[str, list[Path]], tmp_path: Path) -> None:
    before = peak_bytes()
    outcomes = damage(kind, originals[kind], tmp_path, range(NUM_IN_DEFAULT_SUITE))
    assert outcomes["refused"] > NUM_IN_DEFAULT_SUITE // 4
    assert peak_bytes() - before < MAX_GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files(kind: str, originals: dict[str, list[Path]], tmp_path: Path) -> None:
    before = peak_bytes()
    numbers = range(NUM_IN_DEFAULT_SUITE, NUM_IN_DEFAULT_SUITE + NUM_SLOW)
    outcomes = damage(kind, originals[kind], tmp_path, numbers)
    assert sum(outcomes.values()) == NUM_SLOW
    assert peak_bytes() - before < MAX_GROWTH_BYTES
