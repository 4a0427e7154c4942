"""Adapter checkpoints: the only file that writes and reads them.

`adapter.safetensors` holds the tensors under the official key names (`image_proj_model.*`,
`adapter_modules.<i>.*`) and, in its metadata, the configuration it was trained with as JSON. A Lightning
`.ckpt` of a training run is read too. Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from idanim.files import atomic_path
from idanim.types import IdanimError

CONFIG_KEY = "idanim_config"
EMA_KEY = "ema_state_dict"


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
    if not path.is_file():
        raise IdanimError(f"ckpt={str(path)!r}: there is no such file; train.py writes <output>/adapter.safetensors")
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
    try:
        return AdapterCheckpoint(state, json.loads(metadata.get(CONFIG_KEY, "{}")))
    except json.JSONDecodeError as error:
        raise IdanimError(f"ckpt={str(path)!r}: its stored configuration is damaged ({error})") from error


def _read_lightning(path: Path) -> AdapterCheckpoint:
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # a zip or a bare pickle
        raise IdanimError(f"ckpt={str(path)!r}: not a checkpoint file at all (it begins with {start!r})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise IdanimError(f"ckpt={str(path)!r}: refused, it holds more than tensors and plain values") from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise IdanimError(f"ckpt={str(path)!r}: not a whole checkpoint file ({error})") from error
    if not isinstance(content, dict) or "state_dict" not in content or CONFIG_KEY not in content:
        text = f"ckpt={str(path)!r}: not a checkpoint of train.py (no state_dict and configuration in it)"
        raise NoStoredConfigError(text)
    return AdapterCheckpoint(content.get(EMA_KEY) or content["state_dict"], content[CONFIG_KEY])


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
        IdanimError: names the keys that are unknown, missing or of another shape, and their shapes.
    """
    own = module.state_dict()
    problems = [f"unknown key {name}" for name in sorted(state.keys() - own.keys())]
    problems += [f"missing key {name}" for name in sorted(own.keys() - state.keys())]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise IdanimError(f"{source} does not fit this architecture: {'; '.join(problems[:4])}{more}")
    module.load_state_dict(state, strict=True)
