"""Paired tests between two systems on the same grid, over identities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from idanim.metrics.intervals import bootstrap_interval

LARGEST_EXACT = 12
"""Up to so many identities all 2^n signs are tried; beyond, some are drawn."""


@dataclass(frozen=True)
class Difference:
    """Mean difference between two systems over identities that both have.

    Attributes:
        mean: of the first minus the second; None without any pair.
        low: lower end of the bootstrap interval; None with fewer than two pairs.
        high: upper end; None like `low`.
        p: two-sided, that a mean so far from 0 comes about by chance; None like `low`.
        n: identities.
    """

    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int


def paired_difference(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    rng: np.random.Generator,
    num_resamples: int = 10_000,
) -> Difference:
    """Whether one system scores higher than another on the same people.

    One value an identity, so that what makes a person easy or hard for both drops out. The interval is that of
    `bootstrap_interval` over the differences, p that of `sign_flip_p`. p is not corrected for the number of
    comparisons: of twenty figures without any difference, one is below .05.

    Args:
        first: value of each identity; None where it is not defined.
        second: likewise.
        rng: the same generator state gives the same result.
        num_resamples: draws of the bootstrap, and of signs where not all can be tried.

    Raises:
        ValueError: a value is NaN or infinite.
    """
    pairs = [(first[name], second[name]) for name in sorted(first.keys() & second.keys())]
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    interval = bootstrap_interval(differences, rng, num_resamples)
    p = sign_flip_p(np.array(differences), rng, num_resamples) if interval.n > 1 else None
    return Difference(interval.mean, interval.low, interval.high, p, interval.n)


def sign_flip_p(differences: npt.NDArray[np.float64], rng: np.random.Generator, num_resamples: int = 10_000) -> float:
    """Two-sided p of a permutation test of paired differences (Fisher 1935), in (0, 1].

    Were the systems alike, each difference could as well have the other sign. p is the share of all 2^n signs
    under which the mean is at least as far from 0. With more than `LARGEST_EXACT` differences signs are drawn:
    p = (1 + hits) / (1 + draws), as the signs that were found count, too.

    Args:
        differences: [n].
        rng: draws signs.
        num_resamples: how many.
    """
    count = len(differences)
    if count <= LARGEST_EXACT:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = 1 - 2 * rng.integers(0, 2, (num_resamples, count))
    observed = abs(differences.sum())
    # A hair less, so that sums that are equal but for rounding count.
    hits = int((np.abs(signs @ differences) >= observed * (1 - 1e-9)).sum())
    return hits / len(signs) if count <= LARGEST_EXACT else (1 + hits) / (1 + len(signs))
