"""A folder of golden data: tensors and the manifest that says how they were made.

Whatever a folder lacks skips the checks that need it, by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor


class Tensors(Mapping[str, Tensor]):
    """The tensors of one file; asking for one that is not there skips the check."""

    def __init__(self, name: str, tensors: dict[str, Tensor]) -> None:
        self.name = name
        self._tensors = tensors

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._tensors:
            pytest.skip(f"{self.name} has no tensor {key}")
        return self._tensors[key]

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose key starts with `prefix`, which is cut off."""
        return {key.removeprefix(prefix): t for key, t in self._tensors.items() if key.startswith(prefix)}


class GoldenFolder:
    """A folder laid out like `golden/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
        self._loaded: dict[str, Tensors] = {}

    def has(self, name: str) -> bool:
        return (self.path / f"{name}.safetensors").is_file()

    def entry(self, name: str) -> dict[str, Any]:
        return self.manifest["files"].get(f"{name}.safetensors", {})

    def args(self, name: str) -> dict[str, Any]:
        """Constructor arguments of the official class."""
        entry = self.entry(name)
        if "args" not in entry:
            pytest.skip(f"the manifest gives no args of {name}")
        return entry["args"]

    def number(self, name: str, key: str) -> float | None:
        """A value that the manifest gives for a file: as a field, among its args, or in its note ("timestep 500")."""
        entry = self.entry(name)
        for place in (entry, entry.get("args", {})):
            if isinstance(place.get(key), int | float):
                return float(place[key])
        match = re.search(rf"\b{re.escape(key)}[ =:]+(-?\d+(?:\.\d+)?)", entry.get("note", ""))
        return float(match[1]) if match else None

    def tensors(self, name: str) -> Tensors:
        """Inputs and outputs, as stored."""
        if name not in self._loaded:
            if not self.has(name):
                pytest.skip(f"{self.path.name} has no {name}.safetensors")
            self._loaded[name] = Tensors(name, safetensors.torch.load_file(self.path / f"{name}.safetensors"))
        return self._loaded[name]

    def weights(self, name: str) -> dict[str, Tensor]:
        """Weights in float32 (stored in float16, which represents them exactly)."""
        return {k: t.float() if t.is_floating_point() else t for k, t in self.tensors(name).items()}

    @cached_property
    def tokenizer_path(self) -> Path:
        path = self.path / "tokenizer"
        if not (path / "vocab.json").is_file():
            pytest.skip(f"{self.path.name} has no tokenizer")
        return path


def pictures(data: Tensors) -> list[Tensor]:
    """The reference pictures `ref0`, `ref1`, …, [H, W, 3] uint8."""
    names = sorted((key for key in data if re.fullmatch(r"ref\d+", key)), key=lambda key: int(key[3:]))
    return [data[name] for name in names]


def stored_part(full: Tensor, data: Tensors, name: str) -> tuple[Tensor, Tensor] | None:
    """A result as a file stores it: perhaps every n-th pixel only; of a video perhaps the first and last frame.

    Args:
        full: [..., H, W]; with `_first_last` in the stored name [..., F, H, W].
        data: the file.
        name: key without `_first_last`, `_sub<n>` or `_subsampled_by_<n>`.

    Returns:
        (that part of `full`, what is stored); None where the file has no such tensor.
    """
    for key in data:
        match = re.fullmatch(re.escape(name) + r"(_first_last)?(?:_sub(?:sampled_by_)?(\d+))?", key)
        if match:
            step = int(match[2] or 1)
            part = full[..., [0, -1], :, :] if match[1] else full
            return part[..., ::step, ::step], data[key]
    return None


def max_error(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; shapes must agree."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return float((got.detach().to(torch.float64) - expected.to(torch.float64)).abs().max())


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest expected value."""
    return max_error(got, expected) / max(float(expected.abs().max()), 1e-12)
