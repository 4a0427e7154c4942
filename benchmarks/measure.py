"""What all benchmarks measure with: systems that take turns in one process, medians, ratios with intervals, tables.

Two systems are only ever compared within a round: what else a machine does then hits both.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from idanim.metrics.intervals import bootstrap_interval

Work = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one system is as another.

    Attributes:
        median: of the rounds' ratios.
        low: lower end of the 95 % bootstrap interval of their mean; the median where there is one round.
        high: upper end.
        n: rounds.
    """

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


def wall_clock() -> float:
    """Seconds; waits for the GPU where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(
    ways: Mapping[str, Work], rounds: int, warmup: int = 1, clock: Clock = wall_clock
) -> dict[str, list[float]]:
    """Seconds of each way in each round; in every second round they come in the other order.

    Args:
        ways: what is compared, by name.
        rounds: how often each is timed.
        warmup: how often each runs before that.
        clock: `wall_clock`, or `time.process_time` where other work on the machine would disturb.
    """
    for work in ways.values():
        for _ in range(warmup):
            work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, key=list(ways).index, reverse=bool(number % 2)):
            start = clock()
            ways[name]()
            times[name].append(clock() - start)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """Times as fast, from the seconds of both in the same rounds."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    interval = bootstrap_interval(each, np.random.default_rng(0))
    median = statistics.median(each)
    return Ratio(median, interval.low or median, interval.high or median, interval.n)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as text in columns; missing cells are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([_shown(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "gpu": gpu,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures, with the machine they were measured on; dataclasses become dicts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1, default=asdict) + "\n")
