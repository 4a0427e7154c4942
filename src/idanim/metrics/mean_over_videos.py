"""The metrics as torchmetrics: for loops that score while they train or generate, on one device or many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

VideoMetric = Callable[..., float | None]
"""A pure function of one video, such as `face_similarity`; None where it is not defined."""


class MeanOverVideos(Metric):
    """Mean of a metric over videos, each counting once; those for which it is not defined don't count.

    Σ m(v) / n. The states are the sum and the number, so that the mean over processes is the mean over all videos,
    however many each process has seen.

    Args:
        metric: function of one video; range and direction are its own.
        options: of `torchmetrics.Metric`.

    Example:
        >>> from idanim.metrics.identity import face_similarity
        >>> mean = MeanOverVideos(face_similarity)   # then mean.update(track, references); mean.compute()
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, metric: VideoMetric, **options: Any) -> None:
        super().__init__(**options)
        self.metric = metric
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, *args: Any) -> None:
        """Take one video: the arguments are the metric's own."""
        value = self.metric(*args)
        if value is not None:
            self.total += value
            self.count += 1

    def compute(self) -> Tensor:
        """Mean so far; NaN where no video had a value."""
        return self.total / self.count
