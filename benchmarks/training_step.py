"""One training step: ours against the plain loop of `plain_loop.py`, alternating in one process.

    python benchmarks/training_step.py [--size full|small] [--device cuda] [--output outputs/bench]
        [--stages compiled:full:2 eager:full,low:1]

Random weights. At full size, which needs a GPU: SD1.5 with motion modules v2 in bfloat16, CLIP ViT-H/14, 16 frames of
512². First the same loss and gradients are demanded of both, at a small size in float32. A stage is
`compiled|eager:<memory>,…:<clips>`; its ways and the plain loop take turns. After each stage its table is printed and
the JSON written anew. A case that fails, or for which there is no time left, is named, and the others still run.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import FULL, SMALL, Sizes
from kernels import attention_kernels
from measure import alternate, ratio, table, wall_clock, write_json
from step_systems import Ours, build_plain, differences, pixel_batch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from idanim.models.blocks import BlockPlan, Recompute, run_blocks

GB = 1e9
TIMES_AS_FAST, SHARE_OF_CEILING, SLOWDOWN, MEMORY_GB = 2.0, 0.35, 1.25, {1: 10, 2: 16}
"""The targets: against the plain loop, of the matrix product's rate, and memory by batch at so much more time."""
RECOMPUTE = {"full": Recompute.NOTHING, "balanced": Recompute.CHEAP, "low": Recompute.ALL}
GPU_STAGES = ["eager:full,balanced,low:2", "eager:full,balanced,low:1", "compiled:full:2", "compiled:balanced:2"]
SHARE_OF_TIME_TO_PREPARE = 0.7
"""Of the time that is left, what one case may take to get ready; compiling takes minutes."""


@dataclass(frozen=True)
class Case:
    """One way to run a step.

    Attributes:
        name: what it is called in tables.
        plan: how our blocks run; None = the plain loop.
        batch: clips.
    """

    name: str
    plan: BlockPlan | None
    batch: int


class OutOfTime(BaseException):
    """A case took too long; no `Exception`, which the compiler would take for its own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `OutOfTime` in the work inside after so many seconds."""

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def plan(kind: str, memory: str) -> BlockPlan:
    """How our blocks run: `compiled` or `eager`, and a preset of `memory=`."""
    if kind not in ("compiled", "eager"):
        raise ValueError(f"--stages: {kind!r} is neither compiled nor eager")
    name, _, layout = memory.partition("+")
    return BlockPlan(RECOMPUTE[name].value, kind == "compiled", layout == "channels_last")


def stage_cases(text: str) -> list[Case]:
    """The cases of `compiled|eager:<memory>[+channels_last],…:<clips>`, after the plain loop."""
    kind, memories, clips = text.split(":")
    ours = [Case(f"{kind}, memory={memory}", plan(kind, memory), int(clips)) for memory in memories.split(",")]
    return [Case("plain loop", None, int(clips)), *ours]


def ceiling(side: int, device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of one large matrix product, the median of ten."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = alternate({"matmul": lambda: a @ b}, rounds=10, warmup=3)["matmul"]
    return 2 * side**3 / statistics.median(times) / 1e12


class Bench:
    """Both systems, prepared to run any case.

    Args:
        sizes: full or small.
        device: where everything is.
        deadline: when no further case begins, in seconds of `time.perf_counter`.
    """

    def __init__(self, sizes: Sizes, device: torch.device, deadline: float) -> None:
        self.device, self.deadline = device, deadline
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.ceiling = ceiling(sizes.matmul, device, dtype)
        before = self._allocated()
        self.ours = Ours(sizes, device, dtype)
        between = self._allocated()
        self.plain = build_plain(sizes, device, dtype)
        self.resident = {"ours": between - before, "plain": self._allocated() - between}
        self.batches = {size: (self.ours.batch(size), pixel_batch(sizes, size)) for size in (1, 2)}
        self.tflop: dict[int, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.cases: dict[tuple[str, int], Case] = {}
        self.plan: BlockPlan | None = None

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def work(self, case: Case) -> Callable[[], None]:
        """One step of a case; what it needs is switched on first, outside of the time measured."""
        clips, pixels = self.batches[case.batch]
        if case.plan is None:
            return lambda: self.plain.step(pixels)
        if case.plan != self.plan:
            run_blocks(self.ours.module.backbone.unet, case.plan)
            self.plan = case.plan
        return lambda: self.ours.step(clips)

    def count(self, batch: int) -> float:
        """TFLOP that a step of ours can't do without: forward, and backward without what is recomputed."""
        if batch not in self.tflop:
            work = self.work(Case("", BlockPlan("nothing", False, False), batch))
            with FlopCounterMode(display=False) as counter:
                work()
            self.tflop[batch] = counter.get_total_flops() / 1e12
        return self.tflop[batch]

    def prepare(self, case: Case) -> bool:
        """Warm up a case, which compiles it; False, and a row that says why, where that does not work."""
        start = time.perf_counter()
        note = "no time left"
        if start < self.deadline:
            try:
                with at_most(SHARE_OF_TIME_TO_PREPARE * (self.deadline - start)):
                    work = self.work(case)
                    for _ in range(2):
                        work()
                    wall_clock()
            except OutOfTime:
                graphs = counters["stats"]["unique_graphs"]
                note = f"not ready after {time.perf_counter() - start:.0f} s, {graphs} graphs compiled"
            except Exception as error:  # whatever it is, the other cases still run
                traceback.print_exc()
                note = f"{type(error).__name__}: {error}"[:200]
            else:
                print(f"{case.name}, batch {case.batch}: ready in {time.perf_counter() - start:.0f} s", flush=True)
                return True
        self.rows.append({"case": case.name, "batch": case.batch, "note": note})
        print(f"{case.name}, batch {case.batch}: {note}", flush=True)
        self._clean_up()
        return False

    def _clean_up(self) -> None:
        self.ours.optimizer.zero_grad()
        self.plain.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def agreement(self, cases: list[Case]) -> dict[str, dict[str, float]]:
        """Relative differences of loss and of all gradients to those of the same models run as they are."""
        plain = BlockPlan("nothing", compiled=False, channels_last=False)
        wanted_loss, wanted = self._gradients(Case("", plain, cases[0].batch))
        found = {}
        for case in cases:
            loss, gradients = self._gradients(case)
            found[case.name] = {
                "loss": abs(loss / wanted_loss - 1),
                "gradients": float((gradients - wanted).norm() / wanted.norm()),
            }
        return found

    def _gradients(self, case: Case) -> tuple[float, Tensor]:
        self.work(case)
        self.ours.optimizer.zero_grad()
        loss = self.ours.loss(self.batches[case.batch][0])
        loss.backward()
        gradients = [p.grad.flatten() for p in self.ours.module.adapter.parameters() if p.grad is not None]
        joined = torch.cat(gradients)
        self.ours.optimizer.zero_grad()
        return loss.item(), joined

    def peak_gb(self, case: Case) -> float | None:
        """The most memory during a step, with this system's models and optimiser but without the other's."""
        if self.device.type != "cuda":
            return None
        work = self.work(case)
        other = self.plain.optimizer if case.plan else self.ours.optimizer
        state = sum(t.nbytes for s in other.state.values() for t in s.values() if isinstance(t, Tensor) and t.is_cuda)
        torch.cuda.reset_peak_memory_stats()
        work()
        wall_clock()
        return (
            torch.cuda.max_memory_allocated() - self.resident["ours" if case.plan is None else "plain"] - state
        ) / GB

    def compare(self, cases: list[Case], rounds: int) -> None:
        """Measure cases of one batch size, the plain loop among them, and add their rows."""
        ready = [case for case in cases if self.prepare(case)]
        seconds: dict[str, list[float]] = {case.name: [] for case in ready}
        for number in range(rounds):
            for case in ready[:: -1 if number % 2 else 1]:
                work = self.work(case)
                work()  # the weights may just have been laid out anew
                seconds[case.name] += alternate({"step": work}, rounds=1, warmup=0)["step"]
        full = next(
            (seconds[case.name] for case in ready if case.plan and case.plan.recompute == Recompute.NOTHING), None
        )
        for case in ready:
            self.cases[case.name, case.batch] = case
            row = self.row(case, seconds[case.name], seconds.get("plain loop"))
            self.rows.append(row | {"times full": ratio(full, seconds[case.name]) if full and case.plan else None})

    def row(self, case: Case, seconds: list[float], plain: list[float] | None) -> dict[str, Any]:
        """The figures of a case."""
        median = statistics.median(seconds)
        rate = self.count(case.batch) / median
        times = ratio(plain, seconds) if plain and case.plan else None
        return {
            "case": case.name,
            "batch": case.batch,
            "ms": 1000 * median,
            "clips/s": case.batch / median,
            "times as fast": times,
            "TFLOP": self.count(case.batch) if case.plan else None,
            "TFLOP/s": rate if case.plan else None,
            "share of ceiling": rate / self.ceiling if case.plan else None,
            "peak GB": self.peak_gb(case),
        }

    def profile(self, case: Case, path: Path) -> None:
        """Write the ten kinds of kernel that take most of a step."""
        work = self.work(case)
        work()
        with torch.profiler.profile() as profiler:
            work()
            wall_clock()
        key = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        text = profiler.key_averages().table(sort_by=key, row_limit=10, max_name_column_width=90)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{case.name}, batch {case.batch}\n{text}\n")


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """What of the targets is reached, in words."""
    done = [row for row in rows if row.get("times as fast")]
    if not done:
        return ["no case of ours ran"]
    lines = []
    for batch in sorted({row["batch"] for row in done}):
        of_batch = [row for row in done if row["batch"] == batch]
        best = min(of_batch, key=lambda row: row["ms"])
        lines.append(
            f"batch {batch}: {best['case']}: {best['times as fast']} times the plain loop (target "
            f"{TIMES_AS_FAST}), {best['share of ceiling']:.0%} of the ceiling "
            f"(target {SHARE_OF_CEILING:.0%})"
        )
        limit = MEMORY_GB[batch]
        small = [row for row in of_batch if row["peak GB"] is not None and row["peak GB"] <= limit]
        if small:
            least = min(small, key=lambda row: row["ms"])
            lines.append(
                f"batch {batch} within {limit} GB: {least['case']}: {least['peak GB']:.1f} GB at "
                f"{least['ms'] / best['ms']:.2f} of the fastest's time (target {SLOWDOWN})"
            )
        elif any(row["peak GB"] is not None for row in of_batch):
            lines.append(f"batch {batch} within {limit} GB: no case")
    return lines


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--size", choices=["full", "small"], default="full" if gpu else "small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180, help="after which no further case begins")
    parser.add_argument("--stages", nargs="+", default=GPU_STAGES if gpu else ["eager:full:2"])
    parser.add_argument("--name", default="training_step", help="of the files written")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    return parser.parse_args()


def main() -> None:
    """Check, measure, print and write."""
    options = arguments()
    start = time.perf_counter()
    device = torch.device(options.device)
    content: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(options).items()}}

    def save() -> None:
        write_json(options.output / f"{options.name}.json", content)

    def guarded(name: str, work: Callable[[], object]) -> None:
        try:
            content[name] = work()
        except Exception as error:  # one step must not cost the others
            traceback.print_exc()
            content[name] = f"{type(error).__name__}: {error}"
        save()

    ways = {f"eager, memory={memory}": plan("eager", memory) for memory in RECOMPUTE}
    guarded("differences", lambda: differences(device, ways))
    print(f"differences to the plain loop, float32: {content['differences']}", flush=True)
    bench = Bench(FULL if options.size == "full" else SMALL, device, start + options.seconds)
    content |= {"ceiling TFLOP/s": bench.ceiling, "rows": bench.rows}
    print(f"ceiling {bench.ceiling:.3g} TFLOP/s; models after {time.perf_counter() - start:.0f} s", flush=True)

    def stage(text: str) -> None:
        cases = stage_cases(text)
        first = len(bench.rows)
        bench.compare(cases, options.rounds)
        print(table(bench.rows[first:]), flush=True)
        save()
        ours = [case for case in cases if case.plan and bench.cases.get((case.name, case.batch)) == case]
        if ours:
            agreement = bench.agreement(ours)
            content.setdefault("agreement", []).append({"batch": ours[0].batch, **agreement})
            print(f"differences to running as it is, relative: {agreement}", flush=True)

    for text in options.stages:
        guarded(text, partial(stage, text))
    if device.type == "cuda":
        guarded("attention", lambda: attention_kernels(device))
        print(table(content["attention"]) if isinstance(content["attention"], list) else content["attention"])
    done = [row for row in bench.rows if row.get("times as fast")]
    if done:
        fastest = max(done, key=lambda row: row["clips/s"])
        best = bench.cases[fastest["case"], fastest["batch"]]
        guarded("profile", lambda: bench.profile(best, options.output / f"{options.name}_profile.txt"))
    content["ratios"] = {f"{row['case']}, batch {row['batch']}": row["times as fast"] for row in done}
    content["ratios"] |= {f"{row['case']}, batch {row['batch']}, over full": row["times full"] for row in done}
    guarded("verdicts", lambda: verdicts(bench.rows))
    print(table(bench.rows), *content["verdicts"], f"{time.perf_counter() - start:.0f} s in all", sep="\n")


if __name__ == "__main__":
    main()
