from itertools import product

import numpy as np
import pytest

from idanim.metrics.intervals import bootstrap_interval
from idanim.metrics.paired import Difference, paired_difference, sign_flip_p


def rng():
    return np.random.default_rng(7)


def named(values):
    return {f"p{i}": value for i, value in enumerate(values)}


def test_p_counts_all_signs():
    differences = np.array([0.3, -0.1, 0.25, 0.05, 0.4, -0.02, 0.1])
    observed = abs(differences.mean())
    means = [
        abs(np.mean([s * d for s, d in zip(signs, differences, strict=True)])) for signs in product((1, -1), repeat=7)
    ]
    expected = np.mean([mean >= observed - 1e-12 for mean in means])
    assert sign_flip_p(differences, rng()) == pytest.approx(expected)


def test_known_answers():
    assert sign_flip_p(np.full(5, 0.2), rng()) == 2 / 32  # only all plus and all minus are as far out
    assert sign_flip_p(np.array([0.1, -0.1]), rng()) == 1
    assert sign_flip_p(np.zeros(4), rng()) == 1


def test_drawn_signs_agree_with_all_signs(monkeypatch):
    differences = np.random.default_rng(0).normal(0.3, 0.5, 12)
    exact = sign_flip_p(differences, rng())
    monkeypatch.setattr("idanim.metrics.paired.LARGEST_EXACT", 0)
    assert sign_flip_p(differences, rng()) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(np.full(40, 1.0), rng()) == 1 / 10_001  # never 0


def test_chance_is_found_as_often_as_promised():
    draw = np.random.default_rng(1)
    found = [sign_flip_p(draw.normal(size=10), draw) <= 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(found) <= 0.08


def test_pairing_finds_what_the_spread_between_people_hides():
    people = np.random.default_rng(2).normal(0.4, 0.3, 10)
    better = people + 0.02 + np.random.default_rng(3).normal(0, 0.005, 10)
    found = paired_difference(named(better), named(people), rng())
    assert found.mean == pytest.approx(np.mean(better - people))
    assert 0 < found.low < found.mean < found.high
    assert found.p < 0.01
    expected = bootstrap_interval(list(better - people), rng())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    alone = [bootstrap_interval(list(values), rng()) for values in (better, people)]
    assert alone[0].low < alone[1].high  # the two intervals overlap by far


def test_swapping_the_systems_swaps_the_sign():
    a, b = named([0.5, 0.2, 0.4, 0.9]), named([0.4, 0.25, 0.1, 0.7])
    one, other = paired_difference(a, b, rng()), paired_difference(b, a, rng())
    assert (one.mean, one.p, one.n) == pytest.approx((-other.mean, other.p, other.n))


def test_only_people_whom_both_have_count():
    a = {"ann": 0.5, "bob": None, "cy": 0.3, "dee": 0.1}
    b = {"ann": 0.4, "bob": 0.2, "cy": 0.1, "eve": 0.9}
    assert paired_difference(a, b, rng()).n == 2
    assert paired_difference(a, b, rng()).mean == pytest.approx(0.15)
    assert paired_difference({"ann": 1.0}, {"ann": 0.5}, rng()) == Difference(0.5, None, None, None, 1)
    assert paired_difference({"ann": 1.0}, {"bob": 0.5}, rng()) == Difference(None, None, None, None, 0)
