"""Confidence intervals over identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: None when there is no value.
        low: lower end; None when there are fewer than two values, which say nothing about their spread.
        high: upper end; None like `low`.
        n: how many values the mean is over.
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int


def bootstrap_interval(
    values: Sequence[float | None],
    rng: np.random.Generator,
    num_resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron & Tibshirani 1993, chapter 13).

    `num_resamples` times, as many values as there are are drawn with replacement; the interval goes from
    the (1 - level)/2 to the (1 + level)/2 quantile of the means of the draws. One value stands for one
    identity: videos of one person are not independent, so they are averaged before they come here.

    Args:
        values: one number an identity; None where the quantity is not defined for it (left out, not in `n`).
        rng: the same generator state gives the same interval.
        num_resamples: how many draws.
        level: coverage in (0, 1).

    Raises:
        ValueError: a value is NaN or infinite, or the level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}, expected a number between 0 and 1")
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not np.isfinite(known).all():
        raise ValueError(f"{np.sum(~np.isfinite(known))} of {known.size} values are not finite")
    if known.size == 0:
        return Interval(None, None, None, 0)
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, None, None, 1)
    means = known[rng.integers(0, known.size, (num_resamples, known.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), known.size)
