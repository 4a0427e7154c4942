"""How a training step and the loader grow: clips a second against batch, frames, resolution, workers and processes.

    python benchmarks/scaling.py [--only batch,frames] [--rounds 3] [--output outputs/bench]

At scaled-down widths on a CPU, one thread a process. Sizes of one quantity take turns. Written are a JSON and a plot of
clips a second; a step whose cost grows faster than its FLOP is named. The FLOP leave out fused attention, which the
counter does not know on a CPU.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.distributed as dist
from full_size import SMALL, Sizes
from loader import FULL as FULL_WINDOW
from loader import cached, consume, make_shards
from loader import loader as make_loader
from measure import Ratio, alternate, ratio, table, write_json
from step_systems import Ours
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from idanim.freed_memory import keep_freed_memory
from idanim.models.blocks import BlockPlan, run_blocks
from idanim.types import ClipBatch

matplotlib.use("Agg")
from matplotlib import pyplot  # after its backend was chosen

BATCHES, FRAMES, SIDES_PX, WORKERS, PROCESSES = (1, 2, 4), (4, 8, 16), (64, 128, 192), (0, 1, 2), (1, 2)
TOLERATED = 1.15
"""A cost may grow by so much more than its work, within its interval, before it is called super-linear."""


def steps(variants: dict[int, tuple[Sizes, int]], rounds: int) -> list[dict[str, Any]]:
    """Time of the processor of one step, by the quantity that varies; (sizes, clips) of each."""
    systems = {value: Ours(sizes, torch.device("cpu"), torch.float32) for value, (sizes, _) in variants.items()}
    batches = {value: systems[value].batch(clips) for value, (_, clips) in variants.items()}
    works = {str(value): partial(system.step, batches[value]) for value, system in systems.items()}
    times = alternate(works, rounds, clock=time.process_time)
    rows = []
    for value, (_, clips) in variants.items():
        with FlopCounterMode(display=False) as counter:
            systems[value].step(batches[value])
        seconds = statistics.median(times[str(value)])
        flop = counter.get_total_flops()
        rows.append({"value": value, "clips/s": clips / seconds, "s a step": seconds, "GFLOP": flop / 1e9})
    first, last = (str(row["value"]) for row in (rows[0], rows[-1]))
    rows[-1]["growth of cost"] = ratio(times[last], times[first])
    rows[-1]["growth of work"] = rows[-1]["GFLOP"] / rows[0]["GFLOP"]
    return rows


def batch_sizes(rounds: int) -> list[dict[str, Any]]:
    """By clips of a step."""
    return steps({clips: (SMALL, clips) for clips in BATCHES}, rounds)


def frame_counts(rounds: int) -> list[dict[str, Any]]:
    """By frames of a clip."""
    return steps({frames: (replace(SMALL, frames=frames), 1) for frames in FRAMES}, rounds)


def resolutions(rounds: int) -> list[dict[str, Any]]:
    """By the side of a clip."""
    return steps({side: (replace(SMALL, side_px=side), 1) for side in SIDES_PX}, rounds)


def loader_workers(rounds: int) -> list[dict[str, Any]]:
    """Clips a second of the loader alone, by worker processes; by the clock on the wall."""
    keep_freed_memory()  # as `train.py` does
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = cached(make_shards(Path(folder), 64, FULL_WINDOW, b""), FULL_WINDOW)
        rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
        for _ in range(rounds):
            for workers in WORKERS:
                rates[workers].append(consume(make_loader(dataset, 96, workers)))
    return [{"value": workers, "clips/s": statistics.median(found)} for workers, found in rates.items()]


def processes(rounds: int) -> list[dict[str, Any]]:
    """Clips a second of data-parallel training over gloo, one clip a process; by the clock on the wall."""
    found: dict[int, list[float]] = {}
    for number in PROCESSES:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_one_process, (number, folder, rounds), nprocs=number)
            seconds = (Path(folder) / "seconds").read_text().split()
        found[number] = [number / float(step) for step in seconds]
    rows: list[dict[str, Any]] = [
        {"value": number, "clips/s": statistics.median(rates)} for number, rates in found.items()
    ]
    rows[-1]["times the clips/s of one"] = ratio(found[PROCESSES[-1]], found[1])
    rows[-1]["cores"] = len(os.sched_getaffinity(0))
    return rows


class _Loss(nn.Module):
    """The loss of a system as a module, which is what gradients are gathered of over processes."""

    def __init__(self, system: Ours) -> None:
        super().__init__()
        self.module, self.loss = system.module, system.loss

    def forward(self, batch: ClipBatch) -> Tensor:
        """Scalar."""
        return self.loss(batch)


def _one_process(rank: int, number: int, folder: str, rounds: int) -> None:
    keep_freed_memory()  # as `train.py` does
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=number)
    system = Ours(SMALL, torch.device("cpu"), torch.float32)
    run_blocks(system.module.backbone.unet, BlockPlan())
    system.loss = DistributedDataParallel(_Loss(system))  # type: ignore[method-assign]
    batch = system.batch(1)
    system.step(batch)
    seconds = []
    for _ in range(rounds):
        dist.barrier()
        start = time.perf_counter()
        system.step(batch)
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        (Path(folder) / "seconds").write_text(" ".join(map(str, seconds)))
    dist.destroy_process_group()


CASES: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "batch": batch_sizes,
    "frames": frame_counts,
    "side_px": resolutions,
    "workers": loader_workers,
    "processes": processes,
}


def verdict(name: str, rows: Sequence[dict[str, Any]]) -> str | None:
    """Whether the cost of a step grows faster than its work, in words."""
    growth, work = rows[-1].get("growth of cost"), rows[-1].get("growth of work")
    if not isinstance(growth, Ratio) or work is None:
        return None
    kind = "super-linear" if growth.low > TOLERATED * work else "no faster than the work"
    exponent = math.log(growth.median) / math.log(work)
    return f"{name}: the cost grows {growth}, the work {work:.2f} times (exponent {exponent:.2f}): {kind}"


def plot(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Clips a second against each quantity."""
    figure, axes = pyplot.subplots(1, len(results), figsize=(3 * len(results), 2.8), squeeze=False)
    for axis, (name, rows) in zip(axes[0], results.items(), strict=True):
        axis.plot([row["value"] for row in rows], [row["clips/s"] for row in rows], marker="o")
        axis.set(xlabel=name, ylabel="clips/s", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="which, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="scaling", help="of the files written")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, Any]]] = {}
    verdicts: list[str] = []
    for name in options.only.split(","):
        results[name] = CASES[name](options.rounds)
        said = verdict(name, results[name])
        verdicts += [said] if said else []
        print(f"── {name}", table(results[name]), said or "", sep="\n", flush=True)
        write_json(options.output / f"{options.name}.json", {"results": results, "verdicts": verdicts})
    plot(results, options.output / f"{options.name}.png")


if __name__ == "__main__":
    main()
