"""How well a recogniser tells people apart: same person or not, over all pairs of pictures. N pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from idanim.types import FloatArray

NUM_FOLDS = 10
FALSE_ACCEPT_RATES = (0.1, 0.01, 0.001, 0.0001)

Values = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Verification:
    """What verification found.

    Attributes:
        accuracy: share of pairs judged right, in [0, 1]; the threshold is chosen on other pairs, see `accuracy`.
        threshold: similarity from which on two pictures show the same person, chosen on all pairs.
        num_same: pairs of one person.
        num_different: pairs of two people.
        tar_at_far: false accept rate → true accept rate, both in [0, 1]; only rates that so many pairs can show.
    """

    accuracy: float
    threshold: float
    num_same: int
    num_different: int
    tar_at_far: dict[float, float]


def verify(vectors: Sequence[FloatArray], people: Sequence[str]) -> Verification:
    """Compare every picture with every other.

    Args:
        vectors: face vector of each picture, [D] of unit length.
        people: who is in each.

    Raises:
        ValueError: no pair of one person, or none of two people.
    """
    pairs = list(combinations(range(len(vectors)), 2))
    stacked = np.asarray(vectors, dtype=np.float64)
    similarities = np.array([stacked[i] @ stacked[j] for i, j in pairs])
    same = np.array([people[i] == people[j] for i, j in pairs], dtype=np.bool_)
    if not same.any() or same.all():
        raise ValueError(
            f"{int(same.sum())} pairs of one person and {int((~same).sum())} of two: both are needed, so at least "
            "two people, one of them with two pictures"
        )
    return Verification(
        accuracy(similarities, same),
        best_threshold(similarities, same),
        int(same.sum()),
        int((~same).sum()),
        tar_at_far(similarities, same, [rate for rate in FALSE_ACCEPT_RATES if rate * (~same).sum() >= 1]),
    )


def best_threshold(similarities: Values, same: Flags) -> float:
    """The threshold t with the most pairs right, where a similarity of t or more means the same person.

    The middle between the two neighbouring similarities; of several best ones the middle one.

    Args:
        similarities: [N].
        same: [N] bool, whether the pair shows one person.
    """
    values = np.sort(similarities)
    candidates = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2, [values[-1] + 1e-6]])
    accepted_same = len(same[same]) - np.searchsorted(np.sort(similarities[same]), candidates)
    refused_different = np.searchsorted(np.sort(similarities[~same]), candidates)
    right = accepted_same + refused_different
    best = np.flatnonzero(right == right.max())
    return float(candidates[best[len(best) // 2]])


def accuracy(similarities: Values, same: Flags, num_folds: int = NUM_FOLDS) -> float:
    """Share of pairs judged right with a threshold that was chosen without them, in [0, 1].

    As LFW does (Huang et al. 2007, 10 folds): each fold is judged with the threshold that is best on the others. Folds
    are dealt out in the order of the pairs, those of one person and those of two apart, so no chance is in it.

    Args:
        similarities: [N].
        same: [N] bool.
        num_folds: at most so many folds.
    """
    folds = np.empty(len(same), dtype=np.int64)
    for kind in (same, ~same):
        folds[kind] = np.arange(kind.sum()) % num_folds
    right = np.zeros(len(same), dtype=np.bool_)
    for fold in np.unique(folds):
        held_out = folds == fold
        rest = ~held_out if (~held_out).any() else held_out
        right[held_out] = (similarities[held_out] >= best_threshold(similarities[rest], same[rest])) == same[held_out]
    return float(right.mean())


def tar_at_far(similarities: Values, same: Flags, rates: Sequence[float]) -> dict[float, float]:
    """True accept rate at false accept rates: share of pairs of one person above what lets strangers pass so rarely.

    With m pairs of two people, accepted is what is above the (⌊rate · m⌋ + 1)-th highest of their similarities.

    Args:
        similarities: [N].
        same: [N] bool.
        rates: false accept rates in [0, 1).
    """
    strangers = np.sort(similarities[~same])[::-1]
    # A hair more, for rates such as 0.1 · 30 that fall below a whole number in binary.
    thresholds = {rate: strangers[int(rate * len(strangers) + 1e-9)] for rate in rates}
    return {rate: float((similarities[same] > threshold).mean()) for rate, threshold in thresholds.items()}


def report_lines(result: Verification, odd_files: Mapping[str, Sequence[str]]) -> list[str]:
    """The result in words, a line each.

    Args:
        result: of `verify`.
        odd_files: why files were left out → their names.
    """
    lines = [
        f"accuracy   {result.accuracy:.4f}",
        f"threshold  {result.threshold:.4f}",
        f"pairs      {result.num_same} of one person, {result.num_different} of two people",
        *(f"TAR at FAR {rate:g}: {share:.4f}" for rate, share in result.tar_at_far.items()),
    ]
    return lines + [f"{reason}, left out: {', '.join(names)}" for reason, names in odd_files.items() if names]
