"""Estimates the time of work on a GPU without one: what each operation moves or computes, whichever takes longer.

Followed are the operations of fake tensors (`memory.py`). The rates are an H100's: of its memory, of a large matrix
product as measured there, and the share of the latter that kernels reach: measured for attention, else a guess of the
usual. It is there to compare ways of one step; no compiler fuses anything, and nothing waits between kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BYTES_PER_S = 2.6e12
FLOP_PER_S = 751e12
LAUNCH_S = 1.5e-6
SHARES = {"mm": 0.6, "addmm": 0.6, "bmm": 0.3, "convolution": 0.5, "convolution_backward": 0.45, "attention": 0.37}
"""Of `FLOP_PER_S`, by kernel."""
_NO_KERNEL = {"_unsafe_view", "detach", "device", "empty", "empty_like", "empty_strided", "new_empty"}
_ONLY_WRITTEN = {"copy_", "fill_", "zero_"}
_READ_TWICE = {"native_group_norm": 1, "native_group_norm_backward": 2}
"""Norms that read so many of their inputs for their sums first, then again."""


@dataclass
class Work:
    """What operations of one kind do in all.

    Attributes:
        seconds: estimated.
        bytes: read and written.
        flop: of matrix products, convolutions and attention.
    """

    seconds: float = 0
    bytes: int = 0
    flop: int = 0


class Roofline(TorchDispatchMode):
    """Adds up the estimated work of the operations run while it is active.

    Attributes:
        kinds: by name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, Work] = {}

    @property
    def seconds(self) -> float:
        """Estimated time of all."""
        return sum(work.seconds for work in self.kinds.values())

    @property
    def bytes(self) -> int:
        """Read and written by all."""
        return sum(work.bytes for work in self.kinds.values())

    @property
    def flop(self) -> int:
        """Of all."""
        return sum(work.flop for work in self.kinds.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and add what it does."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in _NO_KERNEL:
            again = sum(_bytes(tensor) for tensor in args[: _READ_TWICE.get(name, 0)])
            moved = _moved(func, args, kwargs, result) + again
            flop, share = _computed(func, name, args, kwargs, result)
            work = self.kinds.setdefault(name, Work())
            work.bytes += moved
            work.flop += flop
            work.seconds += max(moved / BYTES_PER_S, flop / (share * FLOP_PER_S)) + LAUNCH_S
        return result


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes of all different tensors, of one that is changed in place twice."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
    moved = sum(_bytes(tensor) for tensor in {id(tensor): tensor for tensor in tensors}.values())
    if func._schema.name.endswith("_") and func.overloadpacket.__name__ not in _ONLY_WRITTEN:
        written = [arg for arg, of in zip(args, func._schema.arguments, strict=False) if of.alias_info]
        moved += sum(_bytes(leaf) for leaf in tree_leaves(written))
    return moved


def _bytes(tensor: Tensor) -> int:
    """Of its different numbers: along a dimension of stride 0 they are the same."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sizes) * tensor.itemsize


def _computed(func: Any, name: str, args: Any, kwargs: Any, result: Any) -> tuple[int, float]:
    """FLOP of an operation, and the share of the highest rate at which its kernel computes."""
    if name.startswith("_scaled_dot_product"):  # not known to torch's counter on a CPU
        is_backward = "backward" in name
        query, key = args[1:3] if is_backward else args[:2]
        flop = 4 * query.shape[:3].numel() * key.shape[2] * query.shape[3]
        return flop * 5 // 2 if is_backward else flop, SHARES["attention"]
    count = flop_registry.get(func.overloadpacket)
    return (count(*args, **kwargs, out_val=result), SHARES.get(name, 0.5)) if count else (0, 1)


def largest(roofline: Roofline, number: int) -> list[dict[str, float | str]]:
    """Table rows of the kinds that take the most time."""
    kinds = sorted(roofline.kinds.items(), key=lambda item: -item[1].seconds)[:number]
    return [
        {"operation": k, "ms": 1e3 * w.seconds, "moved, GB": w.bytes / 1e9, "TFLOP": w.flop / 1e12} for k, w in kinds
    ]
