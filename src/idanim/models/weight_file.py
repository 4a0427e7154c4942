"""Files of weights made by others: safetensors and torch's own, as one flat dict of tensors.

Nothing in a file is ever executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from idanim.models.torch_file import flat_tensors, load_torch
from idanim.types import IdanimError

WRAPPERS = ("state_dict", "controlnet")
PARALLEL_PREFIX = "module."
_GIT_LFS = b"version https://git-lfs"
_PICKLE, _ZIP = b"\x80", b"PK"


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        path: where it was read.
        tensors: by dotted key; nested dicts are flattened, so {"image_proj": {"norm.weight": t}} gives
            "image_proj.norm.weight", the name that the safetensors form of such files has. The wrappings
            `state_dict` and `controlnet` and the prefix `module.` of data-parallel training are taken off.
        metadata: of a safetensors file.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: str | Path) -> WeightFile:
    """Read a .safetensors, .bin, .ckpt, .pt or .pth file, told apart by content, not by name.

    Raises:
        IdanimError: no such file, damaged, not weights at all, or it wants to run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise IdanimError(f"{path}: there is no such file")
    with path.open("rb") as file:
        head = file.read(512)
    if _is_safetensors(head, path.stat().st_size):  # first, as its length in front may look like anything else
        return _read_safetensors(path)
    _refuse_what_is_no_weights(path, head)
    if head.startswith((_PICKLE, _ZIP)):
        content = load_torch(path, str(path))
        if not isinstance(content, dict):
            raise IdanimError(f"{path}: expected a dict of tensors, got {type(content).__name__}")
        return WeightFile(path, _unwrapped(content, str(path)), {})
    return _read_safetensors(path)


def _is_safetensors(head: bytes, size: int) -> bool:
    """Whether it begins with the length of a JSON header, 8 bytes, and that header."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _refuse_what_is_no_weights(path: Path, head: bytes) -> None:
    text = head.lstrip().lower()
    if not text:
        raise IdanimError(f"{path}: the file is empty; download it again")
    if text.startswith(b"<"):
        raise IdanimError(f"{path}: this is a web page (HTML), not weights; the download went wrong")
    if text.startswith(_GIT_LFS):
        raise IdanimError(f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull`")
    if text.startswith(b"{"):
        raise IdanimError(f"{path}: this is JSON, not weights: {head[:80].decode(errors='replace')}")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return WeightFile(path, _unwrapped(tensors, str(path)), file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise IdanimError(f"{path}: not a whole safetensors file ({error}); download it again") from error


def _unwrapped(content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            content = inner
    tensors = flat_tensors(content, name)
    if tensors and all(key.startswith(PARALLEL_PREFIX) for key in tensors):
        tensors = {key.removeprefix(PARALLEL_PREFIX): tensor for key, tensor in tensors.items()}
    return tensors
