"""Layers of a frozen network through which gradients pass: they keep less for the backward pass than torch's own.

torch keeps what the gradient of a weight would need even where the weight is frozen. Values and gradients are the same.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


class _Convolution(torch.autograd.Function):
    """A convolution that does not keep its input, which only the gradient of its weight needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.how = x.shape, how
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        gradient = conv2d_input(ctx.shape, weight, grads[0], *ctx.how)
        return gradient, None, None, *(None for _ in ctx.how)


class _GatedGelu(torch.autograd.Function):
    """GEGLU of a projection; GELU is computed anew in the backward pass, which writes into one tensor."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(hidden)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (projected,) = ctx.saved_tensors
        hidden, gate = projected.chunk(2, dim=-1)
        result = torch.empty_like(projected)
        of_hidden, of_gate = result.chunk(2, dim=-1)
        opened = F.gelu(gate)
        torch.mul(grads[0], opened, out=of_hidden)
        torch.mul(grads[0], hidden, out=opened)
        torch.ops.aten.gelu_backward.grad_input(opened, gate, grad_input=of_gate)
        return result


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a frozen convolution makes of [B, C, h, w]; no gradient of its weights, its input is not kept.

    Args:
        conv: with zeros as padding.
        x: [B, C, h, w], of the type of the weights.
    """
    return _apply(_Convolution, x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def gated_gelu(projected: Tensor) -> Tensor:
    """The first half of the channels times the GELU of the second (GEGLU, arXiv 2002.05202).

    Args:
        projected: [..., 2·E].

    Returns:
        [..., E].
    """
    return _apply(_GatedGelu, projected)


def _apply(function: type[torch.autograd.Function], *args: Any) -> Tensor:
    result: Tensor = function.apply(*args)
    return result
