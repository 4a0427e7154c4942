from __future__ import annotations

import os
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from drawn_people import NUM_FRAMES, SIZE_PX, make_sample
from torch import Tensor

from idanim.data import clip_cache
from idanim.data.clip_cache import ClipCache, FrameWindow
from idanim.data.read_ahead import read_ahead
from idanim.data.sample import ClipSample
from idanim.data.shards import ShardIndex, write_shard


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_items_come_in_order_and_no_more_are_read_than_allowed(depth: int) -> None:
    begun = []
    for taken, (item, value) in enumerate(read_ahead(range(9), lambda n: begun.append(n) or n * n, depth), 1):
        assert (item, value) == (taken - 1, (taken - 1) ** 2)
        assert len(begun) <= taken + depth
    assert begun == list(range(9))


@pytest.mark.parametrize("threads", [2, 4])
def test_several_are_read_at_once_and_come_in_order(threads: int) -> None:
    together = threading.Barrier(threads)  # passes only where so many read at the same time
    waits = iter([0.02, 0.0, 0.01] * threads)

    def read(number: int) -> int:
        together.wait(5)
        time.sleep(next(waits))  # the later ones may end first
        return number**2

    numbers = range(3 * threads)
    assert list(read_ahead(numbers, read, threads, threads)) == [(number, number**2) for number in numbers]


@pytest.mark.parametrize(("depth", "overlaps"), [(1, True), (0, False)])
def test_the_next_is_read_while_this_one_is_worked_on(depth: int, overlaps: bool) -> None:
    second_begun = threading.Event()
    items = read_ahead([0, 1], lambda number: number and second_begun.set(), depth)
    next(items)
    assert second_begun.wait(5 if overlaps else 0.1) is overlaps
    assert [item for item, _ in items] == [1]


def test_an_error_comes_in_its_turn_and_the_threads_end() -> None:
    def read(number: int) -> float:
        return 1 / (2 - number)

    threads = threading.active_count()
    items = read_ahead(range(100), read, 3)
    assert [next(items)[1] for _ in range(2)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(items)
    with closing(read_ahead(range(100), read, 3, 2)) as left_early:
        next(left_early)
    assert threading.active_count() == threads


def test_what_is_kept_does_not_depend_on_the_number_of_decoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = []
    for number in range(2):
        samples = [make_sample(3 * number + i) for i in range(3)]
        samples[1] = ClipSample(samples[1].meta, b"no video", samples[1].first_frame, samples[1].faces)
        write_shard(tmp_path / f"train-{number:06d}.tar", samples)
        shards.append(ShardIndex.scan(tmp_path / f"train-{number:06d}.tar"))
    contents = []
    for decoders in (1, 2, 5):
        monkeypatch.setattr(clip_cache, "num_decoders", lambda _, n=decoders: n)
        cache = ClipCache("sums", tmp_path / str(decoders), "sum", FrameWindow(NUM_FRAMES, 1, SIZE_PX, SIZE_PX))
        cache.fill(shards, lambda pixels: {"sum": pixels.double().sum()}, max_broken=0.5)
        assert [len(cache.broken(shard)) for shard in shards] == [1, 1]
        assert isinstance(cache.tensor(shards[1], shards[1].keys[2], "sum"), Tensor)
        contents.append([cache.path(shard).read_bytes() for shard in shards])
    assert contents[0] == contents[1] == contents[2]
    first, last = (cache.tensor(shards[0], shards[0].keys[i], "sum") for i in (0, 2))
    assert not torch.equal(first, last)


def test_large_clips_have_fewer_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    clips = [FrameWindow(16, 1, 512, 512), FrameWindow(64, 1, 512, 512), FrameWindow(64, 1, 2048, 2048)]
    assert [clip_cache.num_decoders(window) for window in clips] == [clip_cache.MAX_DECODERS, 4, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2))
    assert [clip_cache.num_decoders(window) for window in clips] == [2, 2, 1]
