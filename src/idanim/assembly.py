"""From a configuration to models, for the entry points."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from idanim.config import build, built_or_plain, replace_values, restore
from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.adapter_file import AdapterFile, ProjectionKind, read_adapter_file
from idanim.models.backbone import Backbone
from idanim.models.checkpoint import AtomicCheckpointIO, NoStoredConfigError, load_strictly, read_adapter
from idanim.models.encoder import FaceEncoder
from idanim.models.face_id import ArcFaceEncoder, ClipArcFaceEncoder
from idanim.models.recogniser import FaceRecogniser
from idanim.types import IdanimError

OFFICIAL_SCALE = 0.8
"""λ of Eq. 1 in the official inference script, for adapter files that don't say theirs."""


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
        val_check_interval=(every_n_steps["validate"] or 1) * trainer["accumulate_grad_batches"],
        limit_val_batches=0 if every_n_steps["validate"] is None else None,
        log_every_n_steps=min(every_n_steps["log"], trainer["max_steps"]),
        default_root_dir=str(output),
    )


def sampling_settings(config: Mapping[str, Any], **changes: Any) -> SamplingSettings:
    """How videos are sampled with the backbone of a training configuration; a change of None is no change."""
    backbone = config["backbone"]
    values = {**backbone["video"], **backbone["sampling"]}
    return SamplingSettings(**values | {name: value for name, value in changes.items() if value is not None})


def load_sampler(
    ckpt: Path,
    overrides: Mapping[str, Any],
    device: str,
    scale: float | None = None,
    backbone: Mapping[str, Any] | None = None,
    initial: bool = False,
    default_backbone: Mapping[str, Any] | None = None,
) -> tuple[Sampler, dict[str, Any]]:
    """Build the models that an adapter belongs to and load it.

    A checkpoint of `train.py` says itself what it was trained with. Any other adapter file (official, IP-Adapter)
    says only its own sizes: its backbone and face encoder are those of `backbone`.

    Args:
        ckpt: `adapter.safetensors`, a training checkpoint, or an adapter file of others.
        overrides: values that replace stored ones, nested like the training configuration; for instance
            where the weights lie on this machine.
        device: where the models go.
        scale: λ of Eq. 1; None = as trained, `OFFICIAL_SCALE` where the file does not say.
        backbone: the config group's content; in place of a stored one if given.
        initial: take the weights that training started from, not the trained ones.
        default_backbone: like `backbone`, for a file that names none only.

    Returns:
        The sampler and the configuration it was built from; `data.shards` is None for an adapter file of others.

    Raises:
        IdanimError: the file can't be read, does not fit the architecture of its configuration, or has none
            and no backbone is given.
    """
    try:
        checkpoint = read_adapter(ckpt)
    except NoStoredConfigError as error:
        given = copy.deepcopy(dict(backbone or default_backbone or {}))
        if not given:
            raise IdanimError(
                f"ckpt={str(ckpt)!r}: the file does not say which models its adapter belongs to; "
                "name them: add for instance backbone=public, or backbone=toy"
            ) from error
        if initial:
            raise IdanimError(f"ckpt={str(ckpt)!r}: the file does not say what its training started from") from error
        config = {"backbone": given, "encoder": {"model": given["image_encoder"]}, "data": {"shards": None}}
        replace_values(config, overrides)
        models = _build_around(ckpt, config)
    else:
        config = restore("train", checkpoint.config)
        if backbone is not None:
            _exchange_backbone(config, backbone)
        replace_values(config, overrides)
        if not initial:
            config["adapter"] |= {"init": None, "init_attention": None}  # all weights come from the checkpoint
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


def _exchange_backbone(config: dict[str, Any], backbone: Mapping[str, Any]) -> None:
    """Put another backbone into a configuration, with its image encoder where the old one's own was used."""
    if config["encoder"]["model"] == config["backbone"]["image_encoder"]:
        config["encoder"]["model"] = backbone["image_encoder"]
    config["backbone"] = copy.deepcopy(dict(backbone))


def _build_around(ckpt: Path, config: Mapping[str, Any]) -> Models:
    """The models of an adapter file that has no configuration stored."""
    file = _runnable(ckpt)  # before the large models are loaded
    encoder = _encoder_for(file, config)
    if file.feature_dim != encoder.feature_dim:
        raise IdanimError(
            f"{ckpt}: this adapter takes face features of width {file.feature_dim}, "
            f"but the encoders of this backbone give {encoder.feature_dim}"
        )
    backbone = build(config["backbone"]["model"])
    dim_head = config["backbone"]["resampler"]["dim_head"]
    return Models(backbone, encoder, FaceAdapter.of_file(file, backbone, OFFICIAL_SCALE, dim_head))


def _encoder_for(file: AdapterFile, config: Mapping[str, Any]) -> FaceEncoder:
    """The encoder of reference faces that an adapter's projection was made for."""
    if file.projection is ProjectionKind.RESAMPLER:
        return build(config["encoder"]["model"])
    arcface = ArcFaceEncoder(FaceRecogniser(built_or_plain(config["backbone"]["recogniser"])))
    if file.projection is ProjectionKind.FACE_ID:
        return arcface
    return ClipArcFaceEncoder(build(config["encoder"]["model"]), arcface)


def _runnable(ckpt: Path) -> AdapterFile:
    """An adapter file of others, if it takes what the face encoder gives."""
    file = read_adapter_file(ckpt)
    if file.projection is ProjectionKind.IMAGE:
        raise IdanimError(
            f"{ckpt}: this adapter has an {file.projection}, which takes one CLIP vector of the whole picture: it is "
            "no face adapter and does not run here; ip-adapter-plus-face and the FaceID adapters do"
        )
    return file


def require_runnable(ckpt: Path) -> None:
    """Refuse an adapter file that `load_sampler` could not run, without loading other models.

    Raises:
        IdanimError: damaged, no adapter, or none of faces.
    """
    try:
        read_adapter(ckpt)
    except NoStoredConfigError:
        _runnable(ckpt)


def pick_device(name: str) -> str:
    """The device that `device=<name>` means; "auto" is the first GPU where there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
