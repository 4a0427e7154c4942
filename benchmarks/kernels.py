"""Kernels for attention: on a GPU at the shapes of SD1.5 with motion modules, on a CPU at those of the toy world.

    python benchmarks/kernels.py [--name kernels] [--output outputs/bench]

On a CPU torch's fused kernel and two plain matrix products take turns, alone and with their backward passes; before
that, output and gradients of both must agree. `training_step.py` calls the part for GPUs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import alternate, ratio, table, write_json
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from idanim.models.attention import is_short, softmax_attention

SHAPES = {
    "self 64²": (32, 8, 4096, 4096, 40),
    "self 32²": (32, 8, 1024, 1024, 80),
    "text 64²": (32, 8, 4096, 77, 40),
    "face 64²": (32, 8, 4096, 16, 40),
    "text 64², frames in one row": (2, 8, 65536, 77, 40),
    "time 64²": (8192, 8, 16, 16, 40),
    "time 32²": (2048, 8, 16, 16, 80),
    "time 16²": (512, 8, 16, 16, 160),
}
"""Rows, heads, queries, keys, width of a head."""
TOY_SHAPES = {
    "self 8²": (64, 4, 64, 64, 16),
    "self 4²": (64, 4, 16, 16, 32),
    "text 8²": (8, 4, 512, 56, 16),
    "face 8²": (8, 4, 512, 16, 16),
    "time 8²": (512, 4, 8, 8, 16),
    "time 4²": (128, 4, 8, 8, 32),
    "time, SD1.5 at 16²": (256, 8, 16, 16, 160),
}
"""Of the toy world, eight videos of eight latent frames at once: the queries of a video's frames are in one row. The
last is a motion module of SD1.5 at its third scale, 16 frames of 128²."""
TOLERANCE = 1e-5
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}


def attention_kernels(device: torch.device, rounds: int = 5) -> list[dict[str, Any]]:
    """Milliseconds of forward and backward by each kernel, a row a shape; None where a kernel refuses."""
    rows = []
    for name, (batch, heads, queries, keys, width) in SHAPES.items():
        q, k, v = (
            torch.randn(batch, n, heads, width, device=device, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for n in (queries, keys, keys)
        )
        row: dict[str, Any] = {"shape": name}
        for kernel, backend in BACKENDS.items():
            with sdpa_kernel(backend):
                row[kernel] = _milliseconds(F.scaled_dot_product_attention, (q, k, v), rounds)
        if keys < 1000:
            row["products"] = _milliseconds(softmax_attention, (q, k, v), rounds)
        rows.append(row)
    return rows


def _milliseconds(kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...], rounds: int) -> float | None:
    gradient = torch.ones_like(inputs[0])

    def work() -> None:
        torch.autograd.grad(kernel(*inputs), inputs, gradient)

    try:
        return 1000 * statistics.median(alternate({"": work}, rounds, warmup=2)[""])
    except RuntimeError:  # not for this shape, or not on this device
        return None


def on_cpu(rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Compare both kernels at the toy world's shapes, in time of the processor.

    Returns:
        A row a shape and kind of work, and the ratios by name: how many times as fast the kernel is that the models
        choose.

    Raises:
        ValueError: they don't agree.
    """
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    for name, shape in TOY_SHAPES.items():
        inputs = _toy_inputs(shape)
        apart = _difference(inputs)
        if apart > TOLERANCE:
            raise ValueError(f"{name}: the kernels are {apart:.1e} apart (relative), expected {TOLERANCE:.0e} at most")
        for kind, work in {"forward": _forward, "forward and backward": _both}.items():
            kernels = {"fused": F.scaled_dot_product_attention, "products": softmax_attention}
            ways = {way: partial(_repeat, work, kernel, inputs) for way, kernel in kernels.items()}
            times = alternate(ways, rounds, clock=time.process_time)
            with torch.set_grad_enabled(work is _both):
                chosen = "products" if is_short(*inputs[:2]) else "fused"
            (other,) = ways.keys() - {chosen}
            ratios[f"{name}, {kind}"] = found = ratio(times[other], times[chosen])
            milliseconds = {f"{way} ms": 1000 * statistics.median(times[way]) / REPEATS for way in ways}
            row = {"shape": name, "work": kind, **milliseconds, "chosen": chosen, "times as fast": found}
            rows.append(row | {"apart": apart})
    return rows, ratios


REPEATS = 5


def _repeat(work: Callable[..., object], kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    for _ in range(REPEATS):
        work(kernel, inputs)


def _toy_inputs(shape: tuple[int, int, int, int, int]) -> tuple[Tensor, ...]:
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, n, heads, width, generator=generator).transpose(1, 2).requires_grad_()
        for n in (queries, keys, keys)
    )


def _forward(kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return kernel(*inputs)


def _both(kernel: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    result = kernel(*inputs)
    return result, *torch.autograd.grad(result, inputs, torch.ones_like(result))


def _difference(inputs: tuple[Tensor, ...]) -> float:
    pairs = zip(_both(F.scaled_dot_product_attention, inputs), _both(softmax_attention, inputs), strict=True)
    return max(float(((a - b).norm() / b.norm()).detach()) for a, b in pairs)


def main() -> None:
    """Measure on the CPU, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="kernels", help="of the file written")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    rows, ratios = on_cpu(options.rounds)
    print(table(rows))
    write_json(options.output / f"{options.name}.json", {"rows": rows, "ratios": ratios})


if __name__ == "__main__":
    main()
