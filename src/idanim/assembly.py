"""From a configuration to models, for the entry points."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from idanim.config import build, built_or_plain, replace_values, restore
from idanim.faces.engine import FaceEngine, detect_all
from idanim.generation.identity_guidance import IdentityGuidance
from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.adapter_file import AdapterFile, ProjectionKind, read_adapter_file
from idanim.models.backbone import DTYPES, Backbone
from idanim.models.checkpoint import (
    AdapterCheckpoint,
    AtomicCheckpointIO,
    NoStoredConfigError,
    load_strictly,
    read_adapter,
)
from idanim.models.encoder import FaceEncoder
from idanim.models.face_id import ArcFaceEncoder, ClipArcFaceEncoder
from idanim.models.recogniser import FaceRecogniser
from idanim.models.required_files import require_files
from idanim.types import IdanimError

_log = logging.getLogger(__name__)

OFFICIAL_SCALE = 0.8
"""λ of Eq. 1 in the official inference script, for adapter files that don't say theirs."""


class Models(NamedTuple):
    """A frozen backbone, a frozen face encoder and the adapter between them."""

    backbone: Backbone
    encoder: FaceEncoder
    adapter: FaceAdapter


def build_models(config: Mapping[str, Any]) -> Models:
    """Build the models of a training configuration; the adapter's fresh weights depend on `seed` alone."""
    require_files(
        {
            "backbone": {"model": config["backbone"]["model"]},
            "encoder": config["encoder"],
            "adapter": config["adapter"],
        }
    )
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


def chosen_settings(config: Mapping[str, Any], trained: Mapping[str, Any]) -> SamplingSettings:
    """The backbone's settings, replaced by those of `sampler=`, replaced by what was typed.

    Args:
        config: of a program that generates; its keys `sampler` and `sampling` count.
        trained: training configuration, whose backbone has settings.
    """
    preset = {key: config["sampler"][key] for key in ("scheduler", "num_inference_steps", "guidance_scale")}
    typed = {key: value for key, value in config["sampling"].items() if value is not None}
    return sampling_settings(trained, **preset | typed)


def warn_of_settings_left(ckpt: Path, config: Mapping[str, Any], settings: SamplingSettings) -> None:
    """Warn where `backbone=` replaces settings that the adapter's recipe chose, such as identity guidance.

    They are not carried over: they were chosen with the recipe's backbone, and the other may have no recogniser.

    Args:
        ckpt: adapter file.
        config: of a program that generates; its keys `backbone`, `sampler` and `sampling` count.
        settings: that were chosen.
    """
    if config["backbone"] is None:
        return
    try:
        stored = read_adapter(ckpt).config
    except NoStoredConfigError:
        return
    recipe = restore("train", stored)["backbone"]["sampling"]
    plain = restore("train", {**stored, "values": {}})["backbone"]["sampling"]
    chosen = {key: value for key, value in asdict(settings).items() if key in recipe}
    asked = {
        key for node in (config["sampler"], config["sampling"]) for key, value in node.items() if value is not None
    }
    left = [key for key in chosen.keys() - asked if recipe[key] not in (plain.get(key), chosen[key])]
    if left:
        taken = ", ".join(f"{key}={chosen[key]}" for key in sorted(left))
        advice = " ".join(f"sampling.{key}={recipe[key]}" for key in sorted(left))
        _log.warning("backbone= brings its own settings: %s; to sample as in this adapter's recipe: %s", taken, advice)


def sampling_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What replaces values of the models' configuration: the weights of a distilled sampler, then `model`.

    Args:
        config: of a program that generates; its keys `sampler`, `backbone` and `model` count.

    Raises:
        IdanimError: the sampler has weights, and no backbone is named that takes them.
    """
    preset = dict(config["sampler"]["model"] or {})
    own = config["backbone"]["model"] if config["backbone"] else {}
    loras = {lora["file"]: lora["weight"] for lora in config["sampler"]["loras"] or ()}
    if loras:
        preset["loras"] = {**(own.get("loras") or {}), **loras}
    if not preset.keys() <= own.keys():
        raise IdanimError("this sampler= has weights of its own, which need backbone=public")
    overrides: dict[str, Any] = {"backbone": {"model": preset}} if preset else {}
    replace_values(overrides, config["model"])
    return overrides


def loading_device(memory: Mapping[str, Any], device: str) -> str:
    """Where models are loaded to: with `memory.offload` they wait on the CPU.

    Raises:
        IdanimError: `memory.dtype` is none.
    """
    if memory["dtype"] is not None and memory["dtype"] not in DTYPES:
        raise IdanimError(f"memory.dtype={memory['dtype']!r}: expected one of {', '.join(DTYPES)}")
    return "cpu" if memory["offload"] else device


def save_memory(sampler: Sampler, memory: Mapping[str, Any], device: str) -> None:
    """Run a sampler in place as `memory=` says.

    Args:
        sampler: loaded to `loading_device`.
        memory: the config group's content.
        device: that computes.
    """
    if memory["dtype"] is not None:
        for model in (sampler.backbone, sampler.encoder):
            if isinstance(model, nn.Module):
                model.to(DTYPES[memory["dtype"]])
    sampler.backbone.decode_in(memory["vae_chunk_frames"], memory["vae_tiling"])
    sampler.offload_from = device if memory["offload"] and device != "cpu" else None


def training_config(
    ckpt: Path,
    overrides: Mapping[str, Any],
    backbone: Mapping[str, Any] | None = None,
    default_backbone: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration that `load_sampler` would build, without building; arguments are the same.

    Raises:
        IdanimError: as `load_sampler`, but for what only the models can tell.
    """
    return _read(ckpt, overrides, backbone, default_backbone)[0]


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
    config, checkpoint = _read(ckpt, overrides, backbone, default_backbone)
    if checkpoint is None:
        if initial:
            raise IdanimError(f"ckpt={str(ckpt)!r}: the file does not say what its training started from")
        models = _build_around(ckpt, config)
    else:
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


def guide_file(settings: SamplingSettings, trained: Mapping[str, Any]) -> Path | None:
    """The recogniser that leads videos to the person; None without identity guidance.

    Whoever is to load large models asks it first, for what it refuses.

    Args:
        settings: of the videos.
        trained: training configuration, whose backbone names the recogniser.

    Raises:
        IdanimError: the backbone names none, or its file is missing; the text says what to do.
    """
    if not settings.identity_guidance:
        return None
    path = built_or_plain(trained["backbone"]["recogniser"])
    file = None if path is None else Path(path).expanduser()
    if file is None or not file.is_file():
        raise IdanimError(
            f"sampling.identity_guidance needs a face recogniser, and there is no file {path}: name one with "
            "+model.backbone.recogniser=<file>.onnx, or leave it out (sampling.identity_guidance=0)"
        )
    return file


def attach_identity_guidance(
    sampler: Sampler,
    trained: Mapping[str, Any],
    engine: FaceEngine,
    settings: SamplingSettings,
    memory: Mapping[str, Any],
) -> None:
    """Give a sampler what leads videos to the person, if the settings ask for it.

    Args:
        sampler: of `load_sampler`.
        trained: the configuration that it was built from.
        engine: finds the faces in unfinished frames.
        settings: of the videos.
        memory: preset; so many frames as it decodes at once are decoded with gradients.

    Raises:
        IdanimError: as `guide_file`.
    """
    file = guide_file(settings, trained)
    if file is not None:
        recogniser = FaceRecogniser(file).to(sampler.backbone.device)
        find_faces = functools.partial(detect_all, engine)
        options = {"chunk_frames": memory["vae_chunk_frames"]} if memory["vae_chunk_frames"] else {}
        sampler.identity_guidance = IdentityGuidance(sampler.backbone, recogniser, find_faces, **options)


def _read(
    ckpt: Path,
    overrides: Mapping[str, Any],
    backbone: Mapping[str, Any] | None,
    default_backbone: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], AdapterCheckpoint | None]:
    """The configuration of an adapter file, and its content where it is one of ours."""
    try:
        checkpoint = read_adapter(ckpt)
    except NoStoredConfigError as error:
        given = copy.deepcopy(dict(backbone or default_backbone or {}))
        if not given:
            raise IdanimError(
                f"ckpt={str(ckpt)!r}: the file does not say which models its adapter belongs to; "
                "name them: add for instance backbone=public, or backbone=toy"
            ) from error
        config = {"backbone": given, "encoder": {"model": given["image_encoder"]}, "data": {"shards": None}}
        replace_values(config, overrides)
        return config, None
    config = restore("train", checkpoint.config)
    if backbone is not None:
        _exchange_backbone(config, backbone)
    replace_values(config, overrides)
    return config, checkpoint


def _exchange_backbone(config: dict[str, Any], backbone: Mapping[str, Any]) -> None:
    """Put another backbone into a configuration, with its image encoder where the old one's own was used."""
    if config["encoder"]["model"] == config["backbone"]["image_encoder"]:
        config["encoder"]["model"] = backbone["image_encoder"]
    config["backbone"] = copy.deepcopy(dict(backbone))


def _build_around(ckpt: Path, config: Mapping[str, Any]) -> Models:
    """The models of an adapter file that has no configuration stored."""
    file = _runnable(ckpt)  # before the large models are loaded
    require_files(_needed_around(file, config))
    encoder = _encoder_for(file, config)
    if file.feature_dim != encoder.feature_dim:
        raise IdanimError(
            f"{ckpt}: this adapter takes face features of width {file.feature_dim}, "
            f"but the encoders of this backbone give {encoder.feature_dim}"
        )
    backbone = build(config["backbone"]["model"])
    dim_head = config["backbone"]["resampler"]["dim_head"]
    return Models(backbone, encoder, FaceAdapter.of_file(file, backbone, OFFICIAL_SCALE, dim_head))


def _needed_around(file: AdapterFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of a configuration whose weights `_build_around` loads for an adapter file."""
    keys = ["model"] if file.projection is ProjectionKind.RESAMPLER else ["model", "recogniser"]
    encoder = {} if file.projection is ProjectionKind.FACE_ID else config["encoder"]
    return {"backbone": {key: config["backbone"][key] for key in keys}, "encoder": encoder}


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
