"""Batches on their way out of loader processes."""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable, Sequence
from itertools import accumulate, count
from typing import Any
from weakref import WeakValueDictionary, finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from idanim.data.dataset import ClipItem, collate, stack, with_floats
from idanim.types import ClipBatch

SLOT_BYTES = 128 * 2**20
"""Address space for a batch; memory is taken as it is filled. Two clips of 16 frames of 512² have 2.4 MB."""
SLOTS_A_WORKER = 2
"""The data loader's `prefetch_factor`: so many batches of each process are on their way at most."""


class Sender:
    """Stacks samples; in a loader process into memory that it shares with the program, used again and again.

    torch itself sends a tensor as a new file in shared memory, which the system fills with zeros page by page and for
    which it needs a large `/dev/shm`; through a pipe a batch is copied six times. A batch is copied into a slot, and
    out of it on arrival, which frees the slot. One that finds none free, or is larger, goes through the pipe.
    A batch that never arrives (its process died, an iterator without `persistent_workers` was left) keeps its slot.

    Args:
        num_workers: loader processes that will be forked; those started otherwise share nothing.
    """

    def __init__(self, num_workers: int) -> None:
        num_slots = min(SLOTS_A_WORKER * num_workers, 255)
        self._number = next(_numbers)
        self._slots = [memoryview(mmap.mmap(-1, SLOT_BYTES)) for _ in range(num_slots)]
        self._free, self._freed = os.pipe()  # holds a byte for each free slot: who reads it has the slot alone
        os.set_blocking(self._free, False)
        os.write(self._freed, bytes(range(num_slots)))
        finalize(self, _close, self._free, self._freed).atexit = False  # a thread may still take a batch out
        _senders[self._number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return Sender, (0,)

    def __call__(self, items: Sequence[ClipItem]) -> ClipBatch | Parcel:
        """As `collate`; in a loader process what arrives as the batch."""
        if get_worker_info() is None:
            return collate(items)
        buffers: list[pickle.PickleBuffer] = []
        fields = [value.numpy() if isinstance(value, Tensor) else value for value in stack(items)]
        content = pickle.dumps(fields, 5, buffer_callback=buffers.append)
        parts = [buffer.raw() for buffer in buffers]
        # Each begins at a multiple of 64, where all kinds of numbers may.
        ends = list(accumulate((-(-len(part) // 64) * 64 for part in parts), initial=0))
        slot = self._take(ends[-1])
        if slot is None:
            return Parcel(_unpack, content, [bytes(part) for part in parts])
        places = [(start, start + len(part)) for start, part in zip(ends, parts, strict=False)]
        for (start, end), part in zip(places, parts, strict=True):
            self._slots[slot][start:end] = part
        return Parcel(_take_out, self._number, slot, places, content)

    def _take(self, size: int) -> int | None:
        try:
            return os.read(self._free, 1)[0] if size <= SLOT_BYTES else None
        except BlockingIOError:  # none is free
            return None

    def take_out(self, slot: int, places: Sequence[tuple[int, int]], content: bytes) -> ClipBatch:
        """The batch in a slot, which is free from now on."""
        try:
            return _unpack(content, [self._slots[slot][start:end] for start, end in places])
        finally:
            os.write(self._freed, bytes([slot]))


class Parcel:
    """What a loader process sends: a call that makes the batch at the other end."""

    def __init__(self, unpack: Callable[..., ClipBatch], *content: Any) -> None:
        self.unpack, self.content = unpack, content

    def __reduce__(self) -> tuple[Any, ...]:
        return self.unpack, self.content


_numbers = count()
_senders: WeakValueDictionary[int, Sender] = WeakValueDictionary()


def _take_out(sender: int, *content: Any) -> ClipBatch:
    return _senders[sender].take_out(*content)


def _unpack(content: bytes, buffers: Sequence[bytes | memoryview]) -> ClipBatch:
    fields = pickle.loads(content, buffers=buffers)  # which a loader process of this program wrote
    copies: list[Any] = [torch.tensor(value) if isinstance(value, np.ndarray) else value for value in fields]
    return with_floats(ClipBatch(*copies))


def _close(*handles: int) -> None:
    for handle in handles:
        os.close(handle)
