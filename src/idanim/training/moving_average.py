"""A moving average of the adapter's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Average ← decay · average + (1 - decay) · weights after every step; the first one copies.

    The decay warms up as (1 + n) / (10 + n) over the steps n. The count is a plain number, which a tensor of a GPU
    could not be without waiting for it in every step.

    Args:
        model: whose weights are averaged.
        decay: at most.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights of `model` in."""
        average: list[Tensor] = list(self.module.parameters())
        current: list[Tensor] = [
            parameter.detach().to(mean.device) for parameter, mean in zip(model.parameters(), average, strict=True)
        ]
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 0.0
        torch._foreach_lerp_(average, current, 1 - decay)
        self.num_updates += 1
