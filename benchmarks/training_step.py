"""One training step: ours against the plain loop of `plain_loop.py`, alternating in one process.

    python benchmarks/training_step.py [--size full|small] [--device cuda] [--output outputs/bench]

Random weights. At full size, which needs a GPU: SD1.5 with motion modules v2 in bfloat16, CLIP ViT-H/14, 16 frames of
512². First the same loss and gradients are demanded of both, at a small size in float32. A case that fails, or for
which there is no time left, is named, and the others still run. Written are a JSON and a profile of the fastest case.
"""

from __future__ import annotations

import argparse
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from full_size import FULL, SMALL, Sizes, build_adapter, build_backbone, build_encoder, build_unet
from kernels import attention_kernels
from measure import alternate, ratio, table, wall_clock, write_json
from plain_loop import PixelBatch, PlainLoop
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from idanim.models.blocks import BlockPlan, run_blocks
from idanim.models.group_norm import normalise_frames_separately
from idanim.training.module import AdapterTraining
from idanim.training.objective import draw
from idanim.types import ClipBatch

GB = 1e9
TIMES_AS_FAST, SHARE_OF_CEILING, SLOWDOWN, MEMORY_GB = 2.0, 0.35, 1.25, {1: 10, 2: 16}
"""The targets: against the plain loop, of the matrix product's rate, and memory by batch at so much more time."""


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


def plans(compiled: bool) -> dict[str, BlockPlan]:
    """Our ways by name."""
    kind = "compiled" if compiled else "eager"
    return {
        f"{kind}, memory=full": BlockPlan("nothing", compiled, compiled),
        f"{kind}, memory=balanced": BlockPlan("cheap", compiled, compiled),
        f"{kind}, memory=low": BlockPlan("all", compiled, compiled),
    }


class Ours:
    """The project's own step: `AdapterTraining`, with latents that were encoded before."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype
        backbone = build_backbone(sizes, device, dtype)
        encoder = build_encoder(sizes, device, dtype)
        adapter = build_adapter(sizes, backbone, encoder.feature_dim)
        adam = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01, fused=True)
        self.module = AdapterTraining(backbone, encoder, adapter, adam).to(device)
        self.module.train()
        self.optimizer = adam(adapter.parameters())

    def batch(self, size: int) -> ClipBatch:
        """Random clips on the CPU, as the loader gives them."""
        cells, face = self.sizes.side_px // 8, self.module.encoder.image_size
        torch.manual_seed(0)
        batch = ClipBatch(
            latents=torch.randn(size, 4, self.sizes.frames, cells, cells),
            references=torch.rand(size, 1, 3, face, face) * 2 - 1,
            captions=[f"a person number {i} is smiling" for i in range(size)],
            seeds=torch.arange(size),
            keys=[str(i) for i in range(size)],
            identities=[str(i) for i in range(size)],
        )
        return batch._replace(latents=pinned(batch.latents), references=pinned(batch.references))

    def step(self, batch: ClipBatch) -> None:
        """What Lightning does in one step, in the precision of `trainer=gpu`."""
        moved = batch._replace(
            latents=batch.latents.to(self.device, non_blocking=True),
            references=batch.references.to(self.device, non_blocking=True),
        )
        module = self.module
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss, _ = module._losses(module.adapter, moved)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        module.ema.update(module.adapter)


def pinned(tensor: Tensor) -> Tensor:
    """In memory that a GPU reads by itself."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def build_plain(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> PlainLoop:
    """The plain loop with models of its own, of the same weights as those of `Ours`."""
    backbone = build_backbone(sizes, device, dtype)
    encoder = build_encoder(sizes, device, dtype)
    adapter = build_adapter(sizes, backbone, encoder.feature_dim)
    backbone.unet = build_unet(sizes, device, dtype)  # a stock one in place of ours, which normalises frame by frame
    return PlainLoop(
        backbone.unet,
        backbone.vae,
        backbone.text_encoder,
        backbone.tokenizer,
        encoder.vision_model,
        backbone.scheduler,
        adapter,
    )


def pixel_batch(sizes: Sizes, size: int) -> PixelBatch:
    """Random clips on the CPU."""
    face = sizes.image_encoder["image_size"]
    pixels = torch.rand(size, sizes.frames, 3, sizes.side_px, sizes.side_px) * 2 - 1
    return PixelBatch(pinned(pixels), pinned(torch.randn(size, 3, face, face)), ["a person is smiling"] * size)


# ------------------------------------------------------------------------------------------- correctness


def differences(device: torch.device) -> dict[str, dict[str, float]]:
    """Relative differences of loss and gradients to the plain loop's, at the small size in float32, for each way."""
    plain = build_plain(SMALL, device, torch.float32)
    normalise_frames_separately(plain.unet)  # the one thing in which diffusers departs from AnimateDiff
    ours = Ours(SMALL, device, torch.float32)
    module, batch = ours.module, ours.batch(2)
    drawn = draw(batch.seeds, batch.latents.shape[1:])
    timesteps = (drawn.time * plain.scheduler.config.num_train_timesteps).long().to(device)
    latents = batch.latents.to(device)
    features = module.encoder.encode(batch.references.to(device))[:, 0]
    text = module.backbone.encode_text(batch.captions)
    expected = plain.loss(latents, drawn.noise.to(device), timesteps, text, features)
    expected.backward()
    wanted = plain_gradients(plain)
    found = {}
    for name, plan in {"as it is": BlockPlan(compiled=False, channels_last=False), **plans(False)}.items():
        run_blocks(module.backbone.unet, plan)
        module.adapter.zero_grad()
        moved = batch._replace(latents=latents, references=batch.references.to(device))
        loss, _ = module._losses(module.adapter, moved)
        loss.backward()
        got = {key: p.grad for key, p in module.adapter.named_parameters() if p.grad is not None}
        apart = [float((got[key] - value).norm() / value.norm()) for key, value in wanted.items()]
        found[name] = {"loss": abs(float(loss.detach() / expected.detach()) - 1), "gradients": max(apart)}
    return found


def plain_gradients(plain: PlainLoop) -> dict[str, Tensor]:
    """Gradients by our names: of the face's keys and values, and of the resampler's outer layers."""
    layers = [p for name, p in plain.unet.attn_processors.items() if name.endswith("attn2.processor")]
    layers = [p for p in layers if isinstance(p, torch.nn.Module)]
    found = {}
    for number, layer in enumerate(layers):
        for kind in ("k", "v"):
            found[f"adapter_modules.{2 * number + 1}.to_{kind}_face.weight"] = getattr(layer, f"to_{kind}_ip")[0].weight
    projection = plain.unet.encoder_hid_proj.image_projection_layers[0]
    for name in ("latents", "proj_in.weight", "proj_out.weight", "norm_out.weight"):
        found[f"image_proj_model.{name}"] = projection.get_parameter(name)
    return {name: parameter.grad for name, parameter in found.items() if parameter.grad is not None}


# --------------------------------------------------------------------------------------------- measuring


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

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else 0

    def work(self, case: Case) -> Callable[[], None]:
        """One step of a case; what it needs is switched on first, outside of the time measured."""
        clips, pixels = self.batches[case.batch]
        if case.plan is None:
            return lambda: self.plain.step(pixels)
        run_blocks(self.ours.module.backbone.unet, case.plan)
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
        if time.perf_counter() > self.deadline:
            self.rows.append({"case": case.name, "batch": case.batch, "note": "no time left"})
            return False
        start = time.perf_counter()
        try:
            work = self.work(case)
            for _ in range(2):
                work()
            wall_clock()
        except Exception as error:  # whatever it is, the other cases still run
            traceback.print_exc()
            self.rows.append({"case": case.name, "batch": case.batch, "note": f"{type(error).__name__}: {error}"[:200]})
            self._clean_up()
            return False
        print(f"{case.name}, batch {case.batch}: ready in {time.perf_counter() - start:.0f} s", flush=True)
        return True

    def _clean_up(self) -> None:
        self.ours.optimizer.zero_grad()
        self.plain.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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
        for case in ready:
            self.cases[case.name, case.batch] = case
            self.rows.append(self.row(case, seconds[case.name], seconds.get("plain loop")))

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


def main() -> None:
    """Check, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--size", choices=["full", "small"], default="full" if gpu else "small")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180, help="after which no further case begins")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    start = time.perf_counter()
    device = torch.device(options.device)
    content: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(options).items()}}

    def save() -> None:
        write_json(options.output / "training_step.json", content)

    def guarded(name: str, work: Callable[[], object]) -> None:
        try:
            content[name] = work()
        except Exception as error:  # one step must not cost the others
            traceback.print_exc()
            content[name] = f"{type(error).__name__}: {error}"
        save()

    guarded("differences", lambda: differences(device))
    print(f"differences to the plain loop, float32: {content['differences']}", flush=True)
    bench = Bench(FULL if options.size == "full" else SMALL, device, start + options.seconds)
    content |= {"ceiling TFLOP/s": bench.ceiling, "rows": bench.rows}
    print(f"ceiling {bench.ceiling:.3g} TFLOP/s; models after {time.perf_counter() - start:.0f} s", flush=True)

    def stage(cases: list[Case], rounds: int) -> None:
        first = len(bench.rows)
        bench.compare(cases, rounds)
        print(table(bench.rows[first:]), flush=True)
        save()

    for batch in (2, 1):
        ways = {"plain loop": None, **plans(compiled=False), "eager, channels last": BlockPlan("nothing", False, True)}
        cases = [Case(name, plan, batch) for name, plan in ways.items()]
        guarded(f"eager {batch}", partial(stage, cases, options.rounds))
    if device.type == "cuda":
        guarded("attention", lambda: attention_kernels(device))
        print(table(content["attention"]) if isinstance(content["attention"], list) else content["attention"])
    if not options.no_compile:
        ways = {"plain loop": None, **plans(compiled=True)}
        cases = [Case(name, plan, 2) for name, plan in ways.items()]
        guarded("compiled", partial(stage, cases, options.rounds))
    done = [row for row in bench.rows if row.get("times as fast") and row["batch"] == 2]
    if done:
        best = bench.cases[min(done, key=lambda row: row["ms"])["case"], 2]
        guarded("profile", lambda: bench.profile(best, options.output / "training_step_profile.txt"))
    guarded("verdicts", lambda: verdicts(bench.rows))
    print(table(bench.rows), *content["verdicts"], f"{time.perf_counter() - start:.0f} s in all", sep="\n")


if __name__ == "__main__":
    main()
