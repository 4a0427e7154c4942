"""Adapter checkpoints: the only file that writes and reads them.

`adapter.safetensors` holds the tensors under the official key names (`image_proj_model.*`,
`adapter_modules.<i>.*`) and, in its metadata, the configuration it was trained with as JSON. A Lightning
`.ckpt` of a training run is read too. Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from idanim.files import atomic_path, parse_json
from idanim.models.required_files import require_ckpt
from idanim.models.torch_file import load_torch
from idanim.types import IdanimError

CONFIG_KEY = "idanim_config"
EMA_KEY = "ema_state_dict"
MAX_CONFIG_NODES = 100_000


class NoStoredConfigError(IdanimError):
    """A file that may hold an adapter, but not the configuration it was trained with."""


@dataclass(frozen=True)
class AdapterCheckpoint:
    """What a checkpoint file holds.

    Attributes:
        state: tensors by official key name; those of the moving average where the file has one.
        config: the stored training configuration (`idanim.config.storable`).
    """

    state: dict[str, Tensor]
    config: dict[str, Any]


def write_adapter(path: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `adapter.safetensors` atomically.

    Args:
        path: file to write.
        state: the adapter's state dict.
        config: what `idanim.config.storable` returned.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"format": "idanim", CONFIG_KEY: json.dumps(config, ensure_ascii=False)}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata)


def read_adapter(path: Path) -> AdapterCheckpoint:
    """Read `adapter.safetensors` or the `.ckpt` of a training run.

    Raises:
        NoStoredConfigError: not a checkpoint of this program.
        IdanimError: no such file, damaged, or it wants to run code.
    """
    require_ckpt(path)
    checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)
    if not checkpoint.config:
        raise NoStoredConfigError(f"ckpt={str(path)!r}: no idanim configuration in it; was it written by train.py?")
    return checkpoint


def _read_safetensors(path: Path) -> AdapterCheckpoint:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise IdanimError(f"ckpt={str(path)!r}: not a whole safetensors file ({error})") from error
    name = f"ckpt={str(path)!r}, its stored configuration"
    return AdapterCheckpoint(state, _plain(parse_json(metadata.get(CONFIG_KEY, "{}"), name), name))


def _read_lightning(path: Path) -> AdapterCheckpoint:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip or a bare pickle
        raise IdanimError(f"ckpt={str(path)!r}: not a checkpoint file at all (it begins with {start!r})")
    name = f"ckpt={str(path)!r}"
    content = load_torch(path, name)
    if not isinstance(content, dict) or "state_dict" not in content or CONFIG_KEY not in content:
        text = f"ckpt={str(path)!r}: not a checkpoint of train.py (no state_dict and configuration in it)"
        raise NoStoredConfigError(text)
    state = content.get(EMA_KEY) or content["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise IdanimError(f"{name}: its state_dict is damaged: expected tensors by name")
    return AdapterCheckpoint(state, _plain(content[CONFIG_KEY], name))


def _plain(config: Any, name: str) -> dict[str, Any]:
    """The stored configuration, if it is a dict of what JSON can hold.

    Raises:
        IdanimError: it is something else, or too large to be one.
    """
    waiting, seen = [config], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            waiting += node.values()
        elif isinstance(node, list | tuple):
            waiting += node
        elif not (node is None or isinstance(node, str | int | float)):
            raise IdanimError(f"{name}: its stored configuration holds a {type(node).__name__}")
        if len(waiting) + seen > MAX_CONFIG_NODES:  # or lists that hold each other
            raise IdanimError(f"{name}: its stored configuration has more than {MAX_CONFIG_NODES:,} values")
    if not isinstance(config, dict):
        raise IdanimError(f"{name}: its stored configuration is a {type(config).__name__}, expected an object")
    return config


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoints, written whole or not at all: also when a run is killed while it saves."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to a temporary file beside `path` and rename it."""
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def check_resumable(path: Path) -> None:
    """See that training can go on from a file, before anything expensive is built.

    Raises:
        IdanimError: it can't; the text says why.
    """
    if path.suffix == ".safetensors":
        raise IdanimError(
            f"ckpt={str(path)!r} holds only the adapter; to go on with training give checkpoints/last.ckpt of its run"
        )
    read_adapter(path)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        IdanimError: names the keys that are unknown, missing or of another shape, and their shapes; or those that
            hold values which are not finite.
    """
    own = module.state_dict()
    problems = [f"unknown key {name}" for name in sorted(state.keys() - own.keys())]
    problems += [f"missing key {name}" for name in sorted(own.keys() - state.keys())]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    real = {name: tensor for name, tensor in state.items() if not (name in own and own[name].is_meta)}
    problems = problems or [f"{name} {what}" for name, what in _bad_numbers(real)]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise IdanimError(f"{source} does not fit this architecture: {'; '.join(problems[:4])}{more}")
    module.load_state_dict(state, strict=True)


def _bad_numbers(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Tensors that no module can work with, and what is wrong with them."""
    for name, tensor in state.items():
        if tensor.is_sparse or tensor.is_complex() or tensor.is_meta:
            yield name, f"is no plain tensor ({tensor.dtype}, {tensor.layout})"
        elif tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            yield name, f"has {int((~tensor.float().isfinite()).sum())} values that are NaN or infinite"


def require_finite(module: nn.Module, source: str) -> None:
    """Refuse weights that are NaN or infinite, where something else than `load_strictly` loaded them.

    Raises:
        IdanimError: names some of them.
    """
    problems = [f"{name} {what}" for name, what in _bad_numbers(module.state_dict())]
    if problems:
        raise IdanimError(f"{source}: {'; '.join(problems[:4])}; download it again")
