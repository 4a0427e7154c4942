"""Means, intervals and paired differences over training seeds and identities at once. S seeds · N identities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from idanim.metrics.intervals import Interval
from idanim.metrics.paired import Difference, sign_flip_p

Values = Mapping[int, Mapping[str, float | None]]
"""Seed → identity → value; None where it is not defined."""
Matrix = npt.NDArray[np.float64]


def crossed_interval(values: Values, rng: np.random.Generator, num_resamples: int = 10_000) -> Interval:
    """Mean over seeds and identities, with a 95 % bootstrap interval that draws both.

    Every draw takes as many seeds and as many identities as there are, with replacement, and the mean of all their
    combinations (Owen 2007, the pigeonhole bootstrap). With few seeds the interval is a little too short: three seeds
    say little of the spread of seeds. An identity without a value under one of the seeds is left out.

    Args:
        values: of one recipe.
        rng: the same generator state gives the same interval.
        num_resamples: draws.

    Returns:
        n is the number of identities; no interval with one identity.
    """
    matrix = _matrix(values)
    low, high = _bounds(matrix, rng, num_resamples)
    return Interval(float(matrix.mean()) if matrix.size else None, low, high, matrix.shape[1])


def crossed_difference(
    first: Values, second: Values, rng: np.random.Generator, num_resamples: int = 10_000
) -> Difference:
    """Mean difference of two recipes on the seeds and identities that both have, with interval and p.

    Pairing by seed takes out the order of the clips, the references and the noise, pairing by identity what makes a
    person easy. The interval is that of `crossed_interval`. p is that of `sign_flip_p` over identities, on their
    means over seeds: it speaks of other people and these seeds.

    Args:
        first: of one recipe.
        second: of the other.
        rng: the same generator state gives the same result.
        num_resamples: draws.
    """
    both: dict[int, dict[str, float | None]] = {}
    for seed in sorted(first.keys() & second.keys()):
        pairs = {name: (first[seed][name], second[seed][name]) for name in first[seed].keys() & second[seed].keys()}
        both[seed] = {name: None if a is None or b is None else a - b for name, (a, b) in pairs.items()}
    matrix = _matrix(both)
    if not matrix.size:
        return Difference(None, None, None, None, 0)
    low, high = _bounds(matrix, rng, num_resamples)
    p = sign_flip_p(matrix.mean(0), rng, num_resamples) if matrix.shape[1] > 1 else None
    return Difference(float(matrix.mean()), low, high, p, matrix.shape[1])


def _matrix(values: Values) -> Matrix:
    """[S, N] of the identities that have a value under every seed."""
    seeds = [values[seed] for seed in sorted(values)]
    names = sorted(set.intersection(*(set(by_name) for by_name in seeds))) if seeds else []
    rows = [[by_name[name] for name in names] for by_name in seeds]
    matrix = np.array(rows, dtype=np.float64).reshape(len(seeds), len(names))  # None becomes NaN
    return matrix[:, ~np.isnan(matrix).any(0)]


def _bounds(matrix: Matrix, rng: np.random.Generator, num_resamples: int) -> tuple[float | None, float | None]:
    num_seeds, num_identities = matrix.shape
    if num_identities < 2:
        return None, None
    seeds = rng.integers(0, num_seeds, (num_resamples, num_seeds))
    identities = rng.integers(0, num_identities, (num_resamples, num_identities))
    # Means over the drawn seeds first: [draws, N] instead of [draws, S, N].
    means = np.take_along_axis(matrix[seeds].mean(1), identities, axis=1).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
