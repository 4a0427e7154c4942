"""From a configuration to models, for the entry points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from idanim.config import build, restore
from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.backbone import Backbone
from idanim.models.checkpoint import AtomicCheckpointIO, load_strictly, read_adapter
from idanim.models.encoder import FaceEncoder


class Models(NamedTuple):
    """A frozen backbone, a frozen face encoder and the adapter between them."""

    backbone: Backbone
    encoder: FaceEncoder
    adapter: FaceAdapter


def build_models(config: Mapping[str, Any]) -> Models:
    """Build the models of a training configuration; the adapter's fresh weights depend on `seed` alone."""
    backbone = build(config["backbone"]["model"])
    encoder = build(config["encoder"]["model"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        adapter = build(config["adapter"], backbone=backbone, feature_dim=encoder.feature_dim)
    return Models(backbone, encoder, adapter)


def build_trainer(
    config: Mapping[str, Any], output: Path, loggers: Sequence[Logger], callbacks: Sequence[Callback]
) -> Trainer:
    """Build the Lightning trainer of a training configuration, with checkpoints that are written atomically."""
    trainer, every_n_steps = config["trainer"], config["every_n_steps"]
    return build(
        trainer,
        logger=list(loggers),
        callbacks=list(callbacks),
        plugins=[AtomicCheckpointIO()],
        # Lightning counts batches here, and never logs a run that is shorter than its interval.
        val_check_interval=every_n_steps["validate"] * trainer["accumulate_grad_batches"],
        log_every_n_steps=min(every_n_steps["log"], trainer["max_steps"]),
        default_root_dir=str(output),
    )


def sampling_settings(config: Mapping[str, Any], **changes: Any) -> SamplingSettings:
    """How videos are sampled with the backbone of a training configuration; a change of None is no change."""
    backbone = config["backbone"]
    values = {**backbone["video"], **backbone["sampling"]}
    return SamplingSettings(**values | {name: value for name, value in changes.items() if value is not None})


def load_sampler(
    ckpt: Path, overrides: Mapping[str, Any], device: str, scale: float | None = None, initial: bool = False
) -> tuple[Sampler, dict[str, Any]]:
    """Rebuild what a checkpoint was trained with and load its adapter.

    Args:
        ckpt: `adapter.safetensors` or a training checkpoint.
        overrides: values that replace stored ones, nested like the training configuration; for instance
            where the weights lie on this machine.
        device: where the models go.
        scale: λ of Eq. 1; None = as trained.
        initial: take the weights that training started from, not the trained ones.

    Returns:
        The sampler and the training configuration it was built from.

    Raises:
        IdanimError: the file can't be read, or does not fit the architecture of its configuration.
    """
    checkpoint = read_adapter(ckpt)
    config = restore("train", checkpoint.config, overrides)
    if not initial:
        config["adapter"]["init"] = None  # all weights come from the checkpoint
    models = build_models(config)
    if not initial:
        load_strictly(models.adapter, checkpoint.state, str(ckpt))
    if scale is not None:
        models.adapter.scale = scale
    for model in models:
        if isinstance(model, nn.Module):
            model.to(device)
    models.adapter.requires_grad_(False)
    return Sampler(*models), config
