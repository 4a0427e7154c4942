"""A batch on its way out of a loader process."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from idanim.data.dataset import ClipItem, collate, stack, with_floats
from idanim.types import ClipBatch


class Parcel:
    """What a loader process sends; at the other end it is the batch.

    torch itself sends a tensor as a file in shared memory, which the system fills with zeros page by page: a clip of
    16 frames of 512² takes a quarter as long through a pipe, as plain bytes, and a small `/dev/shm` is enough.

    Args:
        stacked: see `stack`; its tensors lie on the CPU.
    """

    def __init__(self, stacked: ClipBatch) -> None:
        self.stacked = stacked

    def __reduce__(self) -> tuple[Any, ...]:
        fields = [value.numpy() if isinstance(value, Tensor) else value for value in self.stacked]
        # Arrays in the older protocol, which loader processes speak, are copied once more at either end.
        return _unpack, (pickle.dumps(fields, 5),)


def _unpack(fields: bytes) -> ClipBatch:
    values = pickle.loads(fields)  # of the loader process itself
    return with_floats(ClipBatch(*(torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values)))


def collate_to_send(items: Sequence[ClipItem]) -> ClipBatch | Parcel:
    """As `collate`; in a loader process what arrives as the batch."""
    return collate(items) if get_worker_info() is None else Parcel(stack(items))
