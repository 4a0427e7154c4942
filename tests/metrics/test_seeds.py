from __future__ import annotations

import numpy as np
import pytest

from idanim.metrics.seeds import crossed_difference, crossed_interval


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def table(matrix: np.ndarray) -> dict[int, dict[str, float | None]]:
    return {seed: {f"p{i}": float(value) for i, value in enumerate(row)} for seed, row in enumerate(matrix)}


def test_mean_is_over_seeds_and_people_and_the_interval_holds_it() -> None:
    matrix = np.random.default_rng(1).normal(0.4, 0.1, (3, 12))
    interval = crossed_interval(table(matrix), rng())
    assert interval.mean == pytest.approx(matrix.mean())
    assert interval.n == 12
    assert interval.low < interval.mean < interval.high


def test_one_seed_is_the_plain_bootstrap_and_seeds_that_differ_widen_it() -> None:
    people = np.random.default_rng(2).normal(0, 1, 20)
    alone = crossed_interval(table(people[None]), rng())
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * people.std() / 20**0.5, rel=0.05)
    shifted = crossed_interval(table(people + np.array([[-2.0], [0.0], [2.0]])), rng())
    assert shifted.mean == pytest.approx(alone.mean)
    assert shifted.high - shifted.low > 2 * (alone.high - alone.low)


def test_coverage_with_many_seeds_is_near_the_level() -> None:
    hits, draw = 0, np.random.default_rng(3)
    for _ in range(200):
        matrix = draw.normal(0, 0.5, (12, 1)) + draw.normal(0, 1, (1, 20)) + draw.normal(0, 0.3, (12, 20))
        interval = crossed_interval(table(matrix), draw, 400)
        hits += interval.low <= 0 <= interval.high
    assert 0.87 <= hits / 200 <= 0.99


def test_an_identity_without_a_value_under_one_seed_is_left_out() -> None:
    values = {0: {"ann": 1.0, "bob": 3.0}, 1: {"ann": 2.0, "bob": None}}
    interval = crossed_interval(values, rng())
    assert (interval.mean, interval.n, interval.low) == (1.5, 1, None)
    assert crossed_interval({}, rng()).mean is None
    assert crossed_interval({0: {}}, rng()).n == 0


def test_pairing_finds_what_two_intervals_hide() -> None:
    people = np.random.default_rng(4).normal(0, 1, (1, 10))
    second = table(np.repeat(people, 3, 0))
    first = table(np.repeat(people, 3, 0) + 0.1)
    difference = crossed_difference(first, second, rng())
    assert difference.mean == pytest.approx(0.1)
    assert (difference.low, difference.high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert difference.p == pytest.approx(2 / 2**10)
    ours, theirs = crossed_interval(first, rng()), crossed_interval(second, rng())
    assert ours.low < theirs.high


def test_only_common_seeds_and_people_are_paired() -> None:
    first = {0: {"ann": 1.0, "bob": 5.0}, 2: {"ann": 9.0, "bob": 9.0}}
    second = {0: {"ann": 0.0, "bob": 4.5, "eve": 7.0}, 1: {"ann": 0.0}}
    difference = crossed_difference(first, second, rng())
    assert (difference.mean, difference.n) == (0.75, 2)
    assert crossed_difference(first, {5: {"ann": 0.0}}, rng()).n == 0
