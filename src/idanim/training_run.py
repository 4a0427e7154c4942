"""The training program: configuration → models, data, trainer → adapter. See docs/training.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idanim.assembly import Models, build_models, build_trainer
from idanim.config import Run, build, built_or_plain, storable
from idanim.data.datamodule import ClipDataModule
from idanim.models.checkpoint import check_resumable
from idanim.previews import PreviewMaker
from idanim.training.callbacks import training_callbacks
from idanim.training.curves import write_summary
from idanim.training.loggers import csv_logger, finish, log_config, log_summary, quiet_lightning

log = logging.getLogger(__name__)


def train(run: Run) -> None:
    """Run `train.py`: go on where the output folder stopped, and write `adapter.safetensors`.

    Raises:
        IdanimError: something is missing or doesn't fit; the text says what to do.
    """
    quiet_lightning()
    config, output = run.config, run.output
    last = output / "checkpoints" / "last.ckpt"
    ckpt = config["ckpt"] or (last if last.is_file() else None)
    if ckpt:
        check_resumable(Path(ckpt))
        log.info("going on from %s", ckpt)
    models = build_models(config)
    finder = config["identity_loss"]["face_finder"] or config["face_weight"]["face_finder"]
    data = _build_data(config, models, finder)
    module = build(
        config["training"],
        **models._asdict(),
        identity_loss=built_or_plain(config["identity_loss"]["loss"]),
        face_weight=built_or_plain(config["face_weight"]["loss"]),
        stored_config=storable(run),
    )
    loggers = [logger for logger in (csv_logger(output), build(config["logger"], output=output)) if logger]
    clips_per_step = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    wants_previews = config["every_n_steps"]["preview"] is not None
    previews = PreviewMaker.from_config(config, output, loggers) if wants_previews else None
    callbacks = training_callbacks(output, config["every_n_steps"], clips_per_step, previews)
    trainer = build_trainer(config, output, loggers, callbacks)
    try:
        log_config(loggers, storable(run)["values"])
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        if trainer.is_global_zero:
            log_summary(loggers, write_summary(output, {"config": storable(run), "steps": trainer.global_step}))
    finally:
        finish(loggers)
    if trainer.is_global_zero:
        _say_what_is_next(run)


def prepare(run: Run) -> None:
    """Encode what is missing of the latents and find the faces, so that runs that start together need not."""
    config = run.config
    _build_data(config, build_models(config), config["faces"]).prepare_data()


def _build_data(config: Mapping[str, Any], models: Models, finder: Mapping[str, Any] | None) -> ClipDataModule:
    return build(
        config["data"],
        encoder=models.backbone,
        strategy=build(config["reference"]),
        reference_size=models.encoder.image_size,
        face_finder=built_or_plain(finder),
        face_settings=json.dumps(finder, sort_keys=True),
    )


def _say_what_is_next(run: Run) -> None:
    config, output = run.config, run.output
    adapter = output / "adapter.safetensors"
    print(f"\nadapter   {adapter}\nfigures   {output / 'metrics.json'}, {output / 'curves.png'}")
    places = "".join(f" faces.{key}={config['faces'][key]}" for key in ("pack", "root") if key in config["faces"])
    faces = f" faces={run.choices['faces']}{places}"
    print(f"next      python evaluate.py ckpt={adapter}{faces}")
