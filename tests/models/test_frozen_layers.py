"""Frozen layers that keep less give what torch's own give, to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

from idanim.models.frozen_layers import convolve, gated_gelu

CONVOLUTIONS = {
    "3 × 3": {"kernel_size": 3, "padding": 1},
    "halves": {"kernel_size": 3, "padding": 1, "stride": 2},
    "1 × 1, no bias": {"kernel_size": 1, "bias": False},
    "groups": {"kernel_size": (3, 1), "padding": (2, 0), "dilation": 2, "groups": 2},
}


def followed(layer: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, set[int]]:
    """What a layer gives, the gradient of its input, and the places in memory of what it kept."""
    kept: set[int] = set()

    def keep(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = layer(x)
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)
    (result * weights).sum().backward()
    assert x.grad is not None
    return result.detach(), x.grad, kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_convolution(settings: dict[str, object], layout: torch.memory_format, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, **settings).requires_grad_(False).to(dtype, memory_format=layout)  # type: ignore[arg-type]
    x = torch.randn(3, 4, 9, 8, dtype=dtype).contiguous(memory_format=layout)
    expected, found = followed(conv, x), followed(lambda x: convolve(conv, x), x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[2] == {conv.weight.data_ptr()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gated_gelu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GEGLU(6, 10).requires_grad_(False).to(dtype)
    x = torch.randn(2, 5, 6, dtype=dtype)
    expected, found = followed(layer, x), followed(lambda x: gated_gelu(layer.proj(x)), x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert len(found[2]) < len(expected[2])
