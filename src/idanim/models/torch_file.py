"""Files that `torch.save` wrote, by anybody: read so that nothing in them runs and memory stays bounded by their size.

`torch.load(weights_only=True)` runs no code of a file, but a kilobyte may still ask it for terabytes: a `bytearray` of
any length, a storage without content, a tensor that repeats one number, a compressed archive. So the pickle is gone
through first by a reader of our own, which builds no tensor and knows nothing but the few names that weights need.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from idanim.types import IdanimError

MAX_PICKLE_BYTES = 256 * 2**20
"""Of the part that is not tensors. That of SD1.5 with optimiser has half a megabyte."""

MAX_ENTRIES = 1_000_000
"""Tensors, or nodes of a configuration, in one file."""

_HARMLESS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Counter,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("_codecs", "encode"): lambda text, encoding="utf-8": str(text).encode("latin1", "replace"),
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *names: None,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *rest: tensor,
}

_ITEM_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("ByteStorage", "CharStorage", "BoolStorage", "UntypedStorage"), 1),
}
_REBUILDERS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def load_torch(path: Path, name: str) -> Any:
    """Read a file of tensors and plain values.

    Args:
        path: the file.
        name: what to call it in an error.

    Raises:
        IdanimError: it is damaged, holds more than tensors and plain values, or would need more memory than it has
            bytes.
    """
    try:
        _go_through(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise IdanimError(
            f"{name}: refused, it holds more than tensors and plain values and might run code ({_brief(error)}); "
            "convert it to safetensors where you trust it"
        ) from error
    except IdanimError as error:
        raise IdanimError(f"{name}: refused, {error}") from error
    # A damaged pickle can make its reader fail in any of these ways, and nothing else.
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise IdanimError(f"{name}: not a whole checkpoint file ({_brief(error)}); download it again") from error
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError) as error:
        raise IdanimError(f"{name}: not a whole checkpoint file ({_brief(error)}); download it again") from error


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _go_through(path: Path) -> None:
    """See what loading would do.

    Raises:
        pickle.UnpicklingError: a name that weights don't need.
        IdanimError: more memory than the file has bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if not zipfile.is_zipfile(path):
            if file.read(2) == b"PK":
                raise zipfile.BadZipFile("it ends too early")
            file.seek(0)
            for _ in range(5):  # magic number, version, facts of the machine, the content, names of the storages
                _Reader(_Bounded(file, size), size).load()
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise IdanimError("its content is compressed, which torch never does")
        if sum(entry.file_size for entry in entries) > size:
            raise IdanimError("its parts are larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
        for entry in pickles:
            if entry.file_size > MAX_PICKLE_BYTES:
                raise IdanimError(f"{entry.filename} has {entry.file_size:,} bytes, at most {MAX_PICKLE_BYTES:,}")
            _Reader(io.BytesIO(archive.read(entry)), size).load()


class _Bounded:
    """A file that never makes room for more bytes than it has left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(4096)

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)  # type: ignore[attr-defined]  # binary files have it


class _Inert:
    """What stands for a tensor, a storage or a type: it can't be called, and takes no state."""

    def __init__(self, name: str, count: int = 0) -> None:
        self.name, self.count = name, count

    def __call__(self, *args: Any) -> None:
        raise pickle.UnpicklingError(f"a call of {self.name}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"a state for {self.name}")


class _Reader(pickle._Unpickler):
    """Goes through a pickle without making anything that it describes.

    In Python, as the reader in C makes room for as much as a file tells it to.
    """

    dispatch = {  # noqa: RUF012 (as in the parent)
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        if bytes([code])
        not in (
            pickle.BYTEARRAY8,
            pickle.NEXT_BUFFER,
            pickle.READONLY_BUFFER,
            pickle.EXT1,
            pickle.EXT2,
            pickle.EXT4,
            pickle.INST,
            pickle.OBJ,
            pickle.PERSID,
        )
    }

    def __init__(self, file: Any, size: int) -> None:
        super().__init__(file, encoding="utf-8")
        self._left = size
        self._storages: set[str] = set()

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            if error.args[0] in pickle._Unpickler.dispatch:
                raise pickle.UnpicklingError(f"the forbidden operation {error}") from error
            raise RuntimeError(f"an unknown operation {error}") from error

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _HARMLESS:
            return _HARMLESS[module, name]
        if module == "torch._utils" and name in _REBUILDERS:
            return _rebuilt
        if module in ("torch", "torch.storage") and (
            name in _ITEM_BYTES or isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return _Inert(name)
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Inert:
        kind, storage, key, _, count = pid[:5]
        if kind != "storage" or not isinstance(storage, _Inert) or type(count) is not int or count < 0:
            raise pickle.UnpicklingError("a reference to something that is no tensor")
        if str(key) not in self._storages:
            self._storages.add(str(key))
            self._left -= count * _ITEM_BYTES[storage.name]
        if self._left < 0:
            raise IdanimError("its tensors are larger than the file")
        return _Inert("storage", count)


def _rebuilt(storage: Any, offset: Any, size: Sequence[int], stride: Sequence[int], *rest: Any) -> _Inert:
    """A tensor: only that it needs no more room than its storage has is looked at."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Inert) or any(type(n) is not int or n < 0 for n in numbers):
        raise IdanimError("a tensor of it has no storage or no proper shape")
    if math.prod(size) > storage.count:
        raise IdanimError(f"a tensor of shape {tuple(size)} repeats {storage.count} numbers")
    return _Inert("tensor")


def flat_tensors(content: Mapping[Any, Any], name: str) -> dict[str, Tensor]:
    """Nested dicts of tensors as one, by dotted key; other values are left out.

    Raises:
        IdanimError: more than `MAX_ENTRIES`, for instance by dicts that hold each other.
    """
    result: dict[str, Tensor] = {}
    for number, (key, value) in enumerate(_leaves(content, "")):
        if number >= MAX_ENTRIES:
            raise IdanimError(f"{name}: refused, it has more than {MAX_ENTRIES:,} entries")
        if isinstance(value, Tensor):
            result[key] = value
    return result


def _leaves(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and prefix.count(".") < 32:
            yield f"{prefix}{key}", None  # counts, so that empty dicts within each other end too
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
