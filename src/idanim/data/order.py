"""The order of training samples: a pure function of a seed and a running number.

Number g stands for the same sample whatever the batch size, the number of workers or of devices, and
resuming at step t needs no replay.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler


class Order(Protocol):
    """Running number → place of the sample."""

    def __getitem__(self, number: int) -> tuple[int, int]:
        """(shard, position in the shard) of sample `number`."""
        ...


class InOrder:
    """Every sample once, as it lies in the shards; for validation.

    Args:
        counts: samples in each shard.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self._ends = list(accumulate(counts))

    def __getitem__(self, number: int) -> tuple[int, int]:
        """(shard, position in the shard) of sample `number`."""
        number %= self._ends[-1]
        shard = bisect_right(self._ends, number)
        return shard, number - (self._ends[shard - 1] if shard else 0)


class ShuffledOrder:
    """Each epoch visits every sample once: shards are shuffled, then samples within groups of shards.

    Grouping keeps reads local to few shards at a time.

    Args:
        counts: samples in each shard.
        seed: of the order.
        group_shards: how many shards are mixed with each other.
    """

    def __init__(self, counts: Sequence[int], seed: int, group_shards: int = 8) -> None:
        self.counts = tuple(counts)
        self.total = sum(self.counts)
        self.seed = seed
        self.group_shards = group_shards
        self._groups_of = lru_cache(maxsize=2)(self._epoch_groups)
        self._permutation_of = lru_cache(maxsize=4)(self._group_permutation)

    def __getitem__(self, number: int) -> tuple[int, int]:
        """(shard, position in the shard) of sample `number` = 0, 1, …, without end."""
        epoch, offset = divmod(number, self.total)
        starts = self._groups_of(epoch)[1]
        group = int(np.searchsorted(starts, offset, side="right")) - 1
        shard, position = self._permutation_of(epoch, group)[offset - starts[group]]
        return int(shard), int(position)

    def _epoch_groups(self, epoch: int) -> tuple[list[list[int]], list[int]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.counts)).tolist()
        groups = [order[i : i + self.group_shards] for i in range(0, len(order), self.group_shards)]
        sizes = [sum(self.counts[shard] for shard in group) for group in groups]
        return groups, [0, *accumulate(sizes)][:-1]

    def _group_permutation(self, epoch: int, group: int) -> np.ndarray:
        shards = self._groups_of(epoch)[0][group]
        places = [(shard, position) for shard in shards for position in range(self.counts[shard])]
        return np.random.default_rng([self.seed, epoch, 1 + group]).permutation(np.array(places).reshape(-1, 2))


class StepSampler(Sampler[int]):
    """The running numbers that one device reads: step by step, its share of each global batch.

    Args:
        start: first running number of the global stream, a multiple of the global batch.
        stop: where the stream ends.
        global_batch: samples per step over all devices.
        rank: this device.
        world_size: number of devices; divides `global_batch`.
    """

    def __init__(self, start: int, stop: int, global_batch: int, rank: int = 0, world_size: int = 1) -> None:
        self.start, self.stop, self.global_batch = start, stop, global_batch
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[int]:
        share = self.global_batch // self.world_size
        for first in range(self.start, self.stop, self.global_batch):
            yield from range(first + self.rank * share, first + (self.rank + 1) * share)

    def __len__(self) -> int:
        return self.stop // self.world_size
