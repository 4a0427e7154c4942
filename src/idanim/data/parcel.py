"""A batch on its way out of a loader process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from idanim.data.dataset import ClipItem, collate
from idanim.types import ClipBatch


class Parcel:
    """What a loader process sends; at the other end it is the batch.

    torch itself sends a tensor as a file in shared memory, which the system fills with zeros page by page: a clip of
    16 frames of 512² takes half as long through a pipe, and a small `/dev/shm` is enough.

    Args:
        batch: its tensors lie on the CPU.
    """

    def __init__(self, batch: ClipBatch) -> None:
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipBatch, tuple(_Packed(value) if isinstance(value, Tensor) else value for value in self.batch)


class _Packed:
    """A tensor as bytes, which is the same in memory when it arrives: kernels may round by the order of dimensions."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> tuple[Any, ...]:
        order = sorted(range(self.tensor.ndim), key=self.tensor.stride, reverse=True)
        return _unpack_tensor, (self.tensor.permute(order).contiguous().numpy(), order)


def _unpack_tensor(values: Any, order: Sequence[int]) -> Tensor:
    back = sorted(range(len(order)), key=order.__getitem__)
    return torch.from_numpy(values).permute(back)


def collate_to_send(items: Sequence[ClipItem]) -> ClipBatch | Parcel:
    """As `collate`; in a loader process what arrives as the batch."""
    batch = collate(items)
    return batch if get_worker_info() is None else Parcel(batch)
