from __future__ import annotations

import pytest

from idanim.data.order import InOrder, ShuffledOrder, StepSampler


@pytest.mark.parametrize("counts", [[1], [3, 1, 4, 1, 5], [2] * 40, [100]])
def test_each_epoch_visits_every_sample_once(counts: list[int]) -> None:
    order = ShuffledOrder(counts, seed=3, group_shards=4)
    total = sum(counts)
    everything = {(s, p) for s, c in enumerate(counts) for p in range(c)}
    epochs = [[order[e * total + i] for i in range(total)] for e in range(3)]
    for epoch in epochs:
        assert len(epoch) == total
        assert set(epoch) == everything
    if total > 10:
        assert epochs[0] != epochs[1]


def test_order_is_a_function_of_the_seed() -> None:
    a, b, c = (ShuffledOrder([5, 5, 5], seed) for seed in (1, 1, 2))
    assert [a[i] for i in range(45)] == [b[i] for i in reversed(range(45))][::-1]
    assert [a[i] for i in range(45)] != [c[i] for i in range(45)]


def test_in_order() -> None:
    order = InOrder([2, 0, 1])
    assert [order[i] for i in range(4)] == [(0, 0), (0, 1), (2, 0), (0, 0)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_devices_share_each_global_batch_between_them(world_size: int) -> None:
    ranks = [list(StepSampler(8, 24, 8, rank, world_size)) for rank in range(world_size)]
    share = 8 // world_size
    for step in range(2):
        seen = sorted(n for rank in ranks for n in rank[step * share : (step + 1) * share])
        assert seen == list(range(8 + 8 * step, 16 + 8 * step))
