import numpy as np
import pytest

from idanim.metrics.intervals import Interval, bootstrap_interval


def slow_bootstrap(values, rng, num_resamples):
    """The same interval draw by draw, with plain Python sums and a hand-made quantile."""
    draws = rng.integers(0, len(values), (num_resamples, len(values)))
    means = sorted(sum(values[i] for i in draw) / len(values) for draw in draws.tolist())

    def quantile(q):
        place = q * (len(means) - 1)
        below = int(place)
        above = min(below + 1, len(means) - 1)
        return means[below] + (place - below) * (means[above] - means[below])

    return sum(values) / len(values), quantile(0.025), quantile(0.975)


def test_matches_slow_loop():
    values = [0.1, 0.5, -0.2, 0.9, 0.33, 0.0, 0.71]
    interval = bootstrap_interval(values, np.random.default_rng(3), num_resamples=500)
    expected = slow_bootstrap(values, np.random.default_rng(3), 500)
    assert (interval.mean, interval.low, interval.high) == pytest.approx(expected, abs=1e-12)


def test_covers_the_true_mean_about_as_often_as_promised():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        interval = bootstrap_interval(list(rng.normal(2.0, 1.0, 40)), rng, num_resamples=300)
        hits += interval.low <= 2.0 <= interval.high
    assert 0.89 <= hits / 300 <= 0.98


def test_undefined_values_are_left_out_and_not_counted():
    with_gaps = bootstrap_interval([1.0, None, 3.0, None], np.random.default_rng(0))
    assert with_gaps == bootstrap_interval([1.0, 3.0], np.random.default_rng(0))
    assert with_gaps.n == 2


def test_too_few_values_have_no_interval():
    assert bootstrap_interval([], np.random.default_rng(0)) == Interval(None, None, None, 0)
    assert bootstrap_interval([0.4], np.random.default_rng(0)) == Interval(0.4, None, None, 1)


@pytest.mark.parametrize(("values", "level"), [([float("nan"), 1.0], 0.95), ([1.0, 2.0], 1.5)])
def test_refuses_what_makes_no_sense(values, level):
    with pytest.raises(ValueError, match=r"finite|level"):
        bootstrap_interval(values, np.random.default_rng(0), level=level)
