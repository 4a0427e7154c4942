"""Random numbers on the device that trains."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Draws:
    """Draws from one seeded generator, on its device.

    Args:
        generator: source of randomness.
    """

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    @classmethod
    def seeded(cls, seed: int, device: torch.device | str = "cpu") -> Draws:
        """Start from a seed; another device gives other numbers."""
        return cls(torch.Generator(device).manual_seed(seed))

    @property
    def device(self) -> torch.device:
        """Where the numbers lie."""
        return self.generator.device

    def uniform(self, *shape: int) -> Tensor:
        """Float32 in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Float32 of mean 0 and variance 1."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, high: int, count: int) -> Tensor:
        """[count] int64 in [0, high)."""
        return torch.randint(high, (count,), generator=self.generator, device=self.device)

    def permutation(self, count: int) -> Tensor:
        """[count] int64: 0 … count - 1 in random order."""
        return torch.randperm(count, generator=self.generator, device=self.device)
