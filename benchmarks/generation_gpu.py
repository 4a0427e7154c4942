"""Generation at the size of SD1.5 on a GPU: peak memory, speed against diffusers, few-step presets. Random weights.

    python benchmarks/generation_gpu.py [--output outputs/generation_gpu]     tables, and generation_gpu.json
    python benchmarks/generation_gpu.py --device cpu --tiny --rounds 1        the same on small models, to try it

A case that fails is told, and the others still run. Nothing is read but this repository.
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from generation import PROMPT, Rivals, compare, models, on_the_whole
from measure import alternate
from memory import full_size_models
from torch import nn

from idanim.config import restore
from idanim.files import write_json
from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.tiny import tiny_encoder

GB = 10**9
CARD_GB = 8.0
"""The card that memory=low shall fit."""
FEW_STEPS = ("ddim", "dpm", "lcm", "animatelcm", "lightning")


@dataclass(frozen=True)
class Setup:
    """What is measured on: the device, true sizes or small ones, and how often."""

    device: str
    is_tiny: bool
    rounds: int

    @property
    def is_gpu(self) -> bool:
        """Whether memory can be measured."""
        return self.device.startswith("cuda")

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.is_gpu:
            torch.cuda.synchronize()

    def clock(self) -> float:
        """Seconds: by the wall on a GPU, of this process on a CPU."""
        self.wait()
        return time.perf_counter() if self.is_gpu else time.process_time()

    def settings(self, num_frames: int, side_px: int, steps: int = 4, **changes: Any) -> SamplingSettings:
        """Settings of one case; small models make a short video of a 16th of the side."""
        if self.is_tiny:
            num_frames, side_px = num_frames // 4, side_px // 16
        return replace(SamplingSettings(num_frames, side_px, side_px, steps, 8.0, "", 8), **changes)

    def models(self, dtype: torch.dtype, lora_rank: int) -> tuple[AnimateDiffBackbone, ClipFaceEncoder, FaceAdapter]:
        """Backbone, encoder and adapter of random weights on the device; equal calls give equal weights."""
        torch.manual_seed(0)
        if self.is_tiny:
            backbone, adapter = models()
            parts: tuple[Any, ...] = backbone.to(dtype), tiny_encoder().to(dtype), adapter
        else:
            with torch.device(self.device):
                parts = full_size_models(dtype, lora_rank)
        backbone, encoder, adapter = (part.to(self.device) for part in parts)
        return backbone, encoder, adapter


@dataclass
class Report:
    """Rows of each table, and what failed."""

    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def case(self, name: str, work: Callable[[], object]) -> None:
        """Do one case; where it fails say so and go on."""
        start = time.perf_counter()
        try:
            work()
        except Exception as error:  # whatever it is, the other cases count
            self.failures[name] = f"{type(error).__name__}: {error}"
            print(f"FAILED {name}: {self.failures[name]}", flush=True)
            traceback.print_exc(limit=-4, file=sys.stdout)
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)

    def row(self, table: str, text: str, **values: Any) -> None:
        """Print a row and keep its values."""
        self.tables.setdefault(table, []).append(values)
        print(text, flush=True)


# ---------------------------------------------------------------------------------------------- memory


class Peaks:
    """The most memory of each stage of a video, in bytes: allocated by tensors, and reserved by torch."""

    def __init__(self, is_gpu: bool) -> None:
        self._is_gpu = is_gpu
        self.allocated: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self._reset()

    def _reset(self) -> None:
        if self._is_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def end(self, stage: str) -> None:
        """Everything since the last stage was this one."""
        if self._is_gpu:
            torch.cuda.synchronize()
            self.allocated[stage] = torch.cuda.max_memory_allocated()
            self.reserved[stage] = torch.cuda.max_memory_reserved()
        self._reset()


def measure_memory(setup: Setup, report: Report) -> None:
    """21 frames of 512² with guidance under each memory preset, and `low` where no more than a small card is there."""
    backbone, encoder, adapter = setup.models(torch.bfloat16, lora_rank=128)
    settings = setup.settings(21, 512)

    def measured(name: str, preset: str) -> None:
        memory = restore("generate", {"choices": {"memory": preset}, "values": {}})["memory"]
        for model in (backbone, encoder, adapter):
            model.to("cpu" if memory["offload"] else setup.device)
        gc.collect()
        if setup.is_gpu:
            torch.cuda.empty_cache()
        backbone.decode_in(memory["vae_chunk_frames"], memory["vae_tiling"])
        sampler = Sampler(backbone, encoder, adapter, setup.device if memory["offload"] else None)
        peaks, seconds = one_video(setup, sampler, settings)
        show_memory(report, name, peaks, seconds, context_bytes() if setup.is_gpu else 0)

    report.case("memory=full", lambda: measured("full", "full"))
    report.case("memory=balanced", lambda: measured("balanced", "balanced"))
    report.case("memory=low", lambda: measured("low", "low"))
    if setup.is_gpu:
        with_cap = f"low, on {CARD_GB:g} GB"
        report.case(with_cap, lambda: capped(lambda: measured(with_cap, "low")))


def one_video(setup: Setup, sampler: Sampler, settings: SamplingSettings) -> tuple[Peaks, dict[str, float]]:
    """Make one video from one face; peaks and seconds of its stages, and of a step."""
    size = sampler.encoder.image_size
    face = (torch.rand(size, size, 3, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8).numpy()
    peaks, ticks = Peaks(setup.is_gpu), [setup.clock()]
    tokens = sampler.id_tokens([face])
    peaks.end("face")
    ticks.append(setup.clock())

    def after_step(_latents: torch.Tensor) -> None:
        ticks.append(setup.clock())
        if len(ticks) == settings.num_inference_steps + 2:
            peaks.end("text and steps")

    sampler.generate_from(tokens, PROMPT, 0, settings, on_step=after_step)
    peaks.end("decode")
    end = setup.clock()
    steps = [b - a for a, b in pairwise(ticks[2:])]  # the first one also moves and warms up
    seconds = {"face": ticks[1] - ticks[0], "step": statistics.median(steps), "video": end - ticks[0]}
    return peaks, seconds | {"decode": end - ticks[-1]}


def show_memory(report: Report, name: str, peaks: Peaks, seconds: dict[str, float], context: int) -> None:
    """One row: GB of each stage, the most, and seconds."""
    stages = "  ".join(f"{stage} {value / GB:5.2f}" for stage, value in peaks.allocated.items())
    allocated, reserved = (max(values.values(), default=0) for values in (peaks.allocated, peaks.reserved))
    report.row(
        "memory",
        f"memory={name:<15} {stages}   most {allocated / GB:5.2f}   reserved {reserved / GB:5.2f}   "
        f"with the driver's context {(reserved + context) / GB:5.2f} GB   "
        f"{seconds['step']:.3f} s a step, decode {seconds['decode']:.2f} s",
        name=name,
        allocated=peaks.allocated,
        reserved=peaks.reserved,
        context=context,
        seconds=seconds,
        fits_card=reserved + context <= CARD_GB * GB,
    )


def context_bytes() -> int:
    """What is taken of the card beside torch's own memory: driver, libraries, and other programs."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def capped(work: Callable[[], None]) -> None:
    """Do it while torch may take no more than a card of `CARD_GB` leaves it."""
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((CARD_GB * GB - context_bytes()) / total)
    try:
        work()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


# ----------------------------------------------------------------------------------------------- speed


def measure_speed(setup: Setup, report: Report) -> None:
    """Against diffusers at equal settings, alternating, at several sizes and types."""
    comparisons: list[Any] = []

    def compared(rivals: Rivals, name: str, settings: SamplingSettings, rounds: int, counts: bool = True) -> None:
        found = compare(name, rivals, settings, rounds, setup.clock)
        if counts:
            comparisons.append(found)
        report.row("speed", str(found), **asdict(found), ratio=found.ratio, counts=counts)

    def rivals_of(dtype: torch.dtype) -> Rivals:
        backbone, encoder, adapter = setup.models(dtype, lora_rank=0)
        return Rivals(backbone, copy.deepcopy(backbone), encoder, adapter)

    sizes = {"16 frames of 512²": (16, 512), "8 frames of 512²": (8, 512), "16 frames of 256²": (16, 256)}
    rivals: list[Rivals] = []
    report.case("models in bfloat16", lambda: rivals.append(rivals_of(torch.bfloat16)))
    for name, (frames, side) in sizes.items() if rivals else ():
        settings = setup.settings(frames, side)
        text = f"{name}, bfloat16"
        report.case(text, lambda text=text, settings=settings: compared(rivals[0], text, settings, setup.rounds))
    if rivals:
        report.case("memory format", lambda: memory_formats(setup, report, rivals[0]))
    rivals.clear()
    report.case("models in float16", lambda: rivals.append(rivals_of(torch.float16)))
    if rivals:
        settings = setup.settings(16, 512)
        report.case("16 × 512², float16", lambda: compared(rivals[0], "16 × 512², float16", settings, setup.rounds))
    rivals.clear()
    report.case("models in float32", lambda: rivals.append(rivals_of(torch.float32)))
    if rivals:  # where rounding hides nothing
        settings = setup.settings(4, 256, steps=2)
        report.case("the same video in float32", lambda: compared(rivals[0], "4 × 256², float32", settings, 1, False))
    if comparisons:
        ratio = on_the_whole(comparisons)
        report.row("whole", f"on the whole {ratio:.3f} times as fast as diffusers", ratio=ratio)


def memory_formats(setup: Setup, report: Report, rivals: Rivals) -> None:
    """Whether weights with channels last would make our sampler faster."""
    backbone, settings = rivals.sampler.backbone, setup.settings(16, 512)
    parts = {"as it is": (), "VAE": (backbone.parts.autoencoder,), "VAE and UNet": backbone.parts[1:]}

    def made(models: Sequence[nn.Module]) -> None:
        for model in models:
            model.to(memory_format=torch.channels_last)
        rivals.ours(settings)
        for model in models:
            model.to(memory_format=torch.contiguous_format)

    ways = {name: partial(made, models) for name, models in parts.items()}
    for name, values in alternate(ways, setup.rounds, clock=setup.clock).items():
        text = f"channels last: {name:<18} ours {statistics.median(values):7.3f} s"
        report.row("memory_format", text, name=name, seconds=values)


# ------------------------------------------------------------------------------------ few-step presets


def measure_presets(setup: Setup, report: Report) -> None:
    """Seconds of a video of 16 × 512² by each sampler preset with its own steps and guidance."""
    backbone, encoder, adapter = setup.models(torch.bfloat16, lora_rank=128)
    public = restore("train", {"choices": {"backbone": "public"}, "values": {}})["backbone"]["sampling"]
    sampler = Sampler(backbone, encoder, adapter)
    one_video(setup, sampler, setup.settings(16, 512, steps=2))  # warms up
    took: dict[str, float] = {}

    def preset(name: str) -> None:
        chosen = restore("generate", {"choices": {"sampler": name}, "values": {}})["sampler"]
        keys = ("num_inference_steps", "guidance_scale")
        steps, guidance = (public[key] if chosen[key] is None else chosen[key] for key in keys)
        settings = setup.settings(16, 512, steps, guidance_scale=guidance, scheduler=chosen["scheduler"])
        _, seconds = one_video(setup, sampler, settings)
        took[name] = seconds["video"]
        ratio = took.get("ddim", float("nan")) / seconds["video"]
        report.row(
            "presets",
            f"sampler={name:<11} {steps:3d} steps, guidance {guidance:3.1f}: {seconds['video']:7.3f} s a video, "
            f"{seconds['step']:.3f} s a step, decode {seconds['decode']:.3f} s; {ratio:.2f} times as fast as ddim",
            name=name,
            steps=steps,
            guidance=guidance,
            seconds=seconds,
        )

    for name in FEW_STEPS:
        report.case(f"sampler={name}", lambda name=name: preset(name))


# ------------------------------------------------------------------------------------------------ main


def versions(setup: Setup) -> dict[str, Any]:
    """What it was measured with."""
    device = torch.cuda.get_device_name() if setup.is_gpu else platform.machine()
    return {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda, "tiny": setup.is_tiny}


def main() -> None:
    """Run all cases, print tables, write a JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and videos")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("outputs/generation_gpu"))
    parser.add_argument("--only", choices=("memory", "speed", "presets"), nargs="+")
    arguments = parser.parse_args()
    setup, report = Setup(arguments.device, arguments.tiny, arguments.rounds), Report()
    print(versions(setup), flush=True)
    start = time.perf_counter()
    parts = {"memory": measure_memory, "speed": measure_speed, "presets": measure_presets}
    for name, measure in parts.items():
        if arguments.only is None or name in arguments.only:
            print(f"── {name}", flush=True)
            report.case(name, lambda measure=measure: measure(setup, report))
            write_json(arguments.output / "generation_gpu.json", {"on": versions(setup), **asdict(report)})
    print(f"{time.perf_counter() - start:.0f} s in all; failed: {', '.join(report.failures) or 'nothing'}")
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    with torch.no_grad():
        main()
