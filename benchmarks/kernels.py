"""Kernels for attention at the shapes of a training step of SD1.5 with motion modules, batch 2."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measure import alternate
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from idanim.models.attention import softmax_attention

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
