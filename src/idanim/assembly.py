"""From a configuration to models, for the entry points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from idanim.config import build, restore
from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.backbone import Backbone
from idanim.models.checkpoint import load_strictly, read_adapter
from idanim.models.encoder import ClipFaceEncoder


class Models(NamedTuple):
    """A frozen backbone, a frozen face encoder and the adapter between them."""

    backbone: Backbone
    encoder: ClipFaceEncoder
    adapter: FaceAdapter


def build_models(config: Mapping[str, Any]) -> Models:
    """Build the models of a training configuration; the adapter's fresh weights depend on `seed` alone."""
    backbone = build(config["backbone"]["model"])
    encoder = build(config["encoder"]["model"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        adapter = build(config["adapter"], backbone=backbone, feature_dim=encoder.feature_dim)
    return Models(backbone, encoder, adapter)


def sampling_settings(config: Mapping[str, Any], **changes: Any) -> SamplingSettings:
    """How videos are sampled with the backbone of a training configuration; a change of None is no change."""
    backbone = config["backbone"]
    values = {**backbone["video"], **backbone["sampling"]}
    return SamplingSettings(**values | {name: value for name, value in changes.items() if value is not None})


def load_sampler(
    ckpt: Path, overrides: Mapping[str, Any], device: str, scale: float | None = None
) -> tuple[Sampler, dict[str, Any]]:
    """Rebuild what a checkpoint was trained with and load its adapter.

    Args:
        ckpt: `adapter.safetensors` or a training checkpoint.
        overrides: values that replace stored ones, nested like the training configuration; for instance
            where the weights lie on this machine.
        device: where the models go.
        scale: λ of Eq. 1; None = as trained.

    Returns:
        The sampler and the training configuration it was built from.

    Raises:
        IdanimError: the file can't be read, or does not fit the architecture of its configuration.
    """
    checkpoint = read_adapter(ckpt)
    config = restore("train", checkpoint.config, overrides)
    models = build_models(config)
    load_strictly(models.adapter, checkpoint.state, str(ckpt))
    if scale is not None:
        models.adapter.scale = scale
    for model in models:
        model.to(device)
    models.adapter.requires_grad_(False)
    return Sampler(*models), config
