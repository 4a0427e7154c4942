"""The data loader alone: latents that were encoded before against videos decoded in every epoch.

    python benchmarks/loader.py [--only speed,start_up,epoch] [--clips 100000] [--output outputs/bench]

`speed`: clips a second of both ways, alternating, from shards of random clips of 16 frames of 512² with their latents,
and that twice the clips take twice the time; what a clip costs the processor, in all processes together. `start_up`:
seconds to the first sample of 1,000 to 100,000 clips. `epoch`: memory over an epoch of `--clips`, each read once, with
a progress bar. The last two read simulated datasets: one shard of small clips (no video, latents of 4 × 4 cells, one
face) under many names. Nothing is trained.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from measure import ratio, table, write_json
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from idanim.data import references
from idanim.data.clip_cache import FrameWindow
from idanim.data.datamodule import ClipDataModule
from idanim.data.dataset import ClipDataset, ClipItem, collate
from idanim.data.latents import LatentFolder
from idanim.data.order import ShuffledOrder, StepSampler
from idanim.data.parcel import Sender
from idanim.data.sample import ClipMeta, ClipSample, FaceMeta
from idanim.data.shards import ShardIndex, find_shards, write_shard
from idanim.freed_memory import keep_freed_memory
from idanim.pictures import encode_jpeg
from idanim.video_encoding import encode_mp4

PER_SHARD, NUM_FACES = 64, 5
PER_SHARD_AT_START = (64, 500)
"""Small shards, and what curation makes unless told otherwise."""
CLIPS_AT_START = (1_000, 10_000, 100_000)
SMALL, FULL = FrameWindow(8, 1, 32, 32), FrameWindow(16, 1, 512, 512)


def make_shards(
    folder: Path, clips: int, window: FrameWindow, video: bytes, faces: int = NUM_FACES, per_shard: int = PER_SHARD
) -> list[ShardIndex]:
    """Shards of random clips, with latents beside them."""
    random = np.random.default_rng(0)
    blurred = random.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    picture = encode_jpeg(blurred, 95)
    cells = window.height // 8
    shards = []
    for number, first in enumerate(range(0, clips, per_shard)):
        keys = [f"clip{i:06d}" for i in range(first, min(first + per_shard, clips))]
        path = folder / f"train-{number:06d}.tar"
        write_shard(path, [ClipSample(meta(key, random, faces), video, picture, (picture,) * faces) for key in keys])
        shards.append(ShardIndex.scan(path))
        latents = torch.randn(4, window.num_frames, cells, cells).half()
        file = LatentFolder(None, "made up", window).cache.path(shards[-1])
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{key}/{name}": latents.clone() for key in keys for name in ("mean", "std")}
        safetensors.torch.save_file(tensors, file, {"broken": "{}"})
    return shards


def meta(key: str, random: np.random.Generator, num_faces: int) -> ClipMeta:
    """What is known of a random clip."""
    vector = tuple(random.normal(size=512).tolist())
    faces = tuple(
        FaceMeta(key, i, "pool", (0, 0, 9, 9), ((1, 1),) * 5, 0.9, 99, 50, 0, 0, vector) for i in range(num_faces)
    )
    return ClipMeta(
        key, key, "made up", 0, 16, 25, 512, 512, (0, 0, 9, 9), {"unified": "a person is smiling"}, "made up", faces
    )


def cached(shards: list[ShardIndex], window: FrameWindow) -> ClipDataset:
    """Our dataset."""
    order = ShuffledOrder([shard.num_clips for shard in shards], 0)
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
    """Of the first `count` samples: as the data module makes it; of decoded videos as torch sends batches."""
    send = collate if isinstance(dataset, Decoding) else Sender(workers)
    return DataLoader(dataset, 2, sampler=StepSampler(0, count, 2), num_workers=workers, collate_fn=send)


def consume(batches: Iterable[Any]) -> float:
    """Clips a second from the first batch on, so that the start of workers does not count."""
    iterator: Iterator[Any] = iter(batches)
    next(iterator)
    start, count = time.perf_counter(), 0
    for batch in iterator:
        count += len(batch.keys)
    return count / (time.perf_counter() - start)


def processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(of.ru_utime + of.ru_stime for of in used)


def cost(dataset: Dataset[ClipItem], clips: int, workers: int, rounds: int) -> list[dict[str, float]]:
    """Milliseconds of the processor a clip without workers and with; their start does not count."""
    found: dict[int, list[float]] = {0: [], workers: []}
    for _ in range(rounds):
        for number, costs in found.items():
            seconds = []
            for count in (2 * PER_SHARD, 2 * PER_SHARD + clips):
                before = processor_seconds()
                for _batch in loader(dataset, count, number):
                    pass
                seconds.append(processor_seconds() - before)
            costs.append(1e3 * (seconds[1] - seconds[0]) / clips)
    return [
        {"workers": number, "ms of the processor a clip": statistics.median(costs), "least": min(costs)}
        for number, costs in found.items()
    ]


def memory_mib(pid: str = "self") -> float:
    """Resident memory of a process that is not shared with files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def simulate(folder: Path, clips: int, per_shard: int) -> Path:
    """A folder of at least so many small clips: one shard, with its latents and kept index, under many names."""
    (shard,) = make_shards(folder / "one", per_shard, SMALL, b"", 1, per_shard)
    ShardIndex.kept(shard.path)
    many = folder / "many"
    for file in [path for path in (folder / "one").rglob("*") if path.is_file()]:
        place = many / file.relative_to(folder / "one").parent
        place.mkdir(parents=True, exist_ok=True)
        for number in range(-(-clips // per_shard)):
            (place / file.name.replace("000000", f"{number:06d}", 1)).hardlink_to(file)
    return many


def memory_over_epoch(shards: list[ShardIndex], clips: int) -> list[dict[str, float]]:
    """Memory and clips a second at eleven points of an epoch, in one process without workers."""
    few = cached(shards, SMALL)
    rows: list[dict[str, float]] = [{"clips": 0, "MiB": memory_mib()}]
    start = time.perf_counter()
    with tqdm(total=clips, unit="clip", mininterval=1) as progress:
        for number in range(clips):
            few[number]
            progress.update()
            if (number + 1) % max(1, clips // 10) == 0:
                now = time.perf_counter()
                rows.append({"clips": number + 1, "MiB": memory_mib(), "clips/s": clips / 10 / (now - start)})
                progress.set_postfix_str(f"{rows[-1]['MiB']:.1f} MiB")
                start = now
    return rows


class NoEncoder:
    """Stands where all latents are there."""

    latent_fingerprint = "made up"

    def to(self, device: torch.device) -> None:
        """It has no weights."""

    def encode_video(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Never asked for."""
        raise AssertionError("latents are missing")


def start_up(folder: Path) -> dict[str, float]:
    """Seconds of what a run does with a dataset before its first step, from its second start on."""
    begin = time.perf_counter()
    data = ClipDataModule(str(folder), NoEncoder(), references.random_reference, 224)
    data.window = SMALL
    shards = data._shards("train")
    indexed = time.perf_counter()
    with redirect_stderr(StringIO()):
        data.prepare_data()
    prepared = time.perf_counter()
    cached(shards, SMALL)[0]
    end = time.perf_counter()
    return {
        "clips": sum(shard.num_clips for shard in shards),
        "indexes, s": indexed - begin,
        "latents looked for, s": prepared - indexed,
        "first sample, s": end - prepared,
        "all, s": end - begin,
        "µs a clip": 1e6 * (end - begin) / sum(shard.num_clips for shard in shards),
    }


def start_ups(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Medians of `start_up` for datasets of several sizes, in turns."""
    sizes = {
        (clips, per_shard): simulate(folder / f"start_up-{clips}-{per_shard}", clips, per_shard)
        for per_shard in PER_SHARD_AT_START
        for clips in CLIPS_AT_START
    }
    found = [[start_up(many) for many in sizes.values()] for _ in range(rounds)]
    return [
        {"clips a shard": per_shard} | {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for (_, per_shard), rows in zip(sizes, zip(*found, strict=True), strict=True)
    ]


def speed(folder: Path, clips: int, workers: int, rounds: int) -> dict[str, Any]:
    """Both ways in turns, and ours with twice the clips."""
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    video = encode_mp4(np.stack([np.roll(picture, i, 1) for i in range(16)]), 25)
    ours = cached(make_shards(folder, clips, FULL, video), FULL)
    plain = Decoding(ours, FULL)
    rates: dict[str, list[float]] = {"decoded": [], "latents": [], "latents, twice the clips": []}
    for _ in range(rounds):
        rates["decoded"].append(consume(loader(plain, clips // 4, workers)))
        rates["latents"].append(consume(loader(ours, clips, workers)))
        rates["latents, twice the clips"].append(consume(loader(ours, 2 * clips, workers)))
    rows = [{"way": way, "clips/s": statistics.median(values)} for way, values in rates.items()]
    faster = ratio(rates["latents"], rates["decoded"])
    linear = ratio(rates["latents, twice the clips"], rates["latents"])
    costs = cost(ours, 2 * clips, workers, rounds)
    print(
        table(rows),
        f"times as fast: {faster}; clips/s at twice the clips: {linear}",
        table(costs),
        sep="\n",
        flush=True,
    )
    return {"rows": rows, "cost": costs, "ratios": {"latents over decoding": faster, "twice the clips": linear}}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="speed,start_up,epoch")
    parser.add_argument("--clips", type=int, default=100_000, help="of the epoch")
    parser.add_argument("--large-clips", type=int, default=128, help="of 512², whose speed is measured")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="loader")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    parts = options.only.split(",")
    torch.set_num_threads(1)
    keep_freed_memory()  # as the programs do
    content: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in parts:
            content |= speed(folder / "full", options.large_clips, options.workers, options.rounds)
        if "start_up" in parts:
            content["start_up"] = start_ups(folder, options.rounds)
            print(table(content["start_up"]), flush=True)
        if "epoch" in parts:
            many = simulate(folder / "epoch", options.clips, PER_SHARD)
            shards = [ShardIndex.kept(path) for path in find_shards(str(many), "train")]
            content["epoch"] = memory_over_epoch(shards, options.clips)
            print(table(content["epoch"]))
    write_json(options.output / f"{options.name}.json", content)


if __name__ == "__main__":
    main()
