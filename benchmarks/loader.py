"""The data loader alone: latents that were encoded before against videos decoded in every epoch.

    python benchmarks/loader.py [--clips 128] [--workers 2] [--output outputs/bench]

Made first: shards of random clips of 16 frames of 512² with their latents. Measured are clips a second of both ways,
alternating; that twice the clips take twice the time; how start-up grows with the dataset; and memory over an epoch of
100,000 clips (of small latents, so that it ends). Nothing is trained.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from measure import ratio, table, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from idanim.data import references
from idanim.data.clip_cache import FrameWindow
from idanim.data.dataset import ClipDataset, ClipItem, collate
from idanim.data.latents import LatentFolder
from idanim.data.order import ShuffledOrder, StepSampler
from idanim.data.sample import ClipMeta, ClipSample, FaceMeta
from idanim.data.shards import ShardIndex, write_shard
from idanim.pictures import encode_jpeg
from idanim.video_encoding import encode_mp4

PER_SHARD, NUM_FACES = 64, 5
SMALL, FULL = FrameWindow(8, 1, 32, 32), FrameWindow(16, 1, 512, 512)


def make_shards(folder: Path, clips: int, window: FrameWindow, video: bytes) -> list[ShardIndex]:
    """Shards of random clips, with latents beside them."""
    random = np.random.default_rng(0)
    blurred = random.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    picture = encode_jpeg(blurred, 95)
    cells = window.height // 8
    shards = []
    for number, first in enumerate(range(0, clips, PER_SHARD)):
        keys = [f"clip{i:06d}" for i in range(first, min(first + PER_SHARD, clips))]
        path = folder / f"train-{number:06d}.tar"
        write_shard(path, [ClipSample(meta(key, random), video, picture, (picture,) * NUM_FACES) for key in keys])
        shards.append(ShardIndex.scan(path))
        latents = torch.randn(4, window.num_frames, cells, cells).half()
        file = LatentFolder(None, "made up", window).cache.path(shards[-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{key}/{name}": latents.clone() for key in keys for name in ("mean", "std")}
        safetensors.torch.save_file(tensors, file, {"broken": "{}"})
    return shards


def meta(key: str, random: np.random.Generator) -> ClipMeta:
    """What is known of a random clip."""
    vector = tuple(random.normal(size=512).tolist())
    faces = tuple(
        FaceMeta(key, i, "pool", (0, 0, 9, 9), ((1, 1),) * 5, 0.9, 99, 50, 0, 0, vector) for i in range(NUM_FACES)
    )
    return ClipMeta(
        key, key, "made up", 0, 16, 25, 512, 512, (0, 0, 9, 9), {"unified": "a person is smiling"}, "made up", faces
    )


def cached(shards: list[ShardIndex], window: FrameWindow) -> ClipDataset:
    """Our dataset."""
    order = ShuffledOrder([len(shard.keys) for shard in shards], 0)
    latents = LatentFolder(None, "made up", window)
    return ClipDataset(shards, latents, None, order, references.random_reference, 224, "unified", 0.2, 0, 0.1)


class Decoding(Dataset[ClipItem]):
    """The plain way: the same samples, but the video is decoded each time; its encoding is not counted."""

    def __init__(self, dataset: ClipDataset, window: FrameWindow) -> None:
        self.dataset, self.window = dataset, window

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> ClipItem:
        shard, position = self.dataset.order[number]
        index = self.dataset.shards[shard]
        pixels: Tensor = self.window.read(index.read(index.keys[position], ["mp4"])["mp4"])
        return self.dataset[number]._replace(latents=pixels)


def loader(dataset: Dataset[ClipItem], count: int, workers: int) -> Iterable[Any]:
    """As the data module makes it, of the first `count` samples."""
    sampler = StepSampler(0, count, 2)
    return DataLoader(dataset, 2, sampler=sampler, num_workers=workers, collate_fn=collate)


def consume(batches: Iterable[Any]) -> float:
    """Clips a second from the first batch on, so that the start of workers does not count."""
    iterator: Iterator[Any] = iter(batches)
    next(iterator)
    start, count = time.perf_counter(), 0
    for batch in iterator:
        count += len(batch.keys)
    return count / (time.perf_counter() - start)


def memory_mib(pid: str = "self") -> float:
    """Resident memory of a process that is not shared with files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def memory_over_epoch(shards: list[ShardIndex], clips: int) -> list[dict[str, float]]:
    """Memory and clips a second at ten points of an epoch, in one process without workers."""
    few = cached(shards, SMALL)
    rows, start = [], time.perf_counter()
    for number in range(clips):
        few[number]
        if (number + 1) % (clips // 10) == 0:
            now = time.perf_counter()
            rows.append({"clips": number + 1, "MiB": memory_mib(), "clips/s": clips / 10 / (now - start)})
            start = now
    return rows


def start_up(shards: list[ShardIndex], copies: int) -> float:
    """Seconds until the first sample of a dataset so many times as large, from its second run on."""
    start = time.perf_counter()
    again = [ShardIndex.kept(shard.path) for _ in range(copies) for shard in shards]
    cached(again, SMALL)[0]
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epoch", type=int, default=100_000)
    parser.add_argument("--name", default="loader")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    content: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        video = encode_mp4(np.stack([np.roll(picture, i, 1) for i in range(16)]), 25)
        ours = cached(make_shards(folder / "full", options.clips, FULL, video), FULL)
        plain = Decoding(ours, FULL)
        rates: dict[str, list[float]] = {"decoded": [], "latents": [], "latents, twice the clips": []}
        for _ in range(options.rounds):
            rates["decoded"].append(consume(loader(plain, options.clips // 4, options.workers)))
            rates["latents"].append(consume(loader(ours, options.clips, options.workers)))
            rates["latents, twice the clips"].append(consume(loader(ours, 2 * options.clips, options.workers)))
        rows = [{"way": way, "clips/s": statistics.median(values)} for way, values in rates.items()]
        faster = ratio(rates["latents"], rates["decoded"])
        linear = ratio(rates["latents, twice the clips"], rates["latents"])
        content = {"rows": rows, "ratios": {"latents over decoding": faster, "twice the clips": linear}}
        print(table(rows), f"times as fast: {faster}; clips/s at twice the clips: {linear}", sep="\n", flush=True)
        small = make_shards(folder / "small", 512, SMALL, b"")
        for shard in small:
            ShardIndex.kept(shard.path)
        starts = {copies: start_up(small, copies) for copies in (1, 4, 16)}
        content["start-up, s by clips"] = {512 * copies: seconds for copies, seconds in starts.items()}
        print("start-up in s, by clips:", content["start-up, s by clips"], flush=True)
        content["epoch"] = memory_over_epoch(small, options.epoch)
        print(table(content["epoch"]))
    write_json(options.output / f"{options.name}.json", content)


if __name__ == "__main__":
    main()
