"""The training program: configuration → models, data, trainer → adapter. See docs/training.md."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator

from idanim.assembly import Models, build_models, build_trainer
from idanim.config import Run, build, built_or_plain, restore, storable
from idanim.data.datamodule import ClipDataModule
from idanim.data.shards import require_shards
from idanim.models.checkpoint import check_resumable
from idanim.previews import PreviewMaker
from idanim.trained_judge import used_recognisers
from idanim.training.callbacks import training_callbacks
from idanim.training.checkpoints import StopSignal, fit
from idanim.training.curves import write_summary
from idanim.training.loggers import csv_logger, finish, log_config, log_summary, quiet_lightning
from idanim.training.watch import Watch
from idanim.types import IdanimError

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
    _require_device(config["trainer"]["accelerator"])
    build_data = _data_builder(config, _face_finder(config))
    losses = {name: built_or_plain(config[name]["loss"], name) for name in ("identity_loss", "face_weight")}
    models = build_models(config)  # once all that is small is known to be right
    data = build_data(models)
    module = build(
        config["training"] | {"blocks": config["blocks"]},
        **models._asdict(),
        **losses,
        stored_config=storable(run),
    )
    loggers = [logger for logger in (csv_logger(output), build(config["logger"], output=output)) if logger]
    clips_per_step = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    wants_previews = config["every_n_steps"]["preview"] is not None
    previews = PreviewMaker.from_config(config, output, loggers) if wants_previews else None
    stop = StopSignal()
    callbacks = training_callbacks(
        output, config["every_n_steps"], clips_per_step, previews, Watch(**config["watch"]), stop
    )
    trainer = build_trainer(config, output, loggers, callbacks)
    try:
        log_config(loggers, storable(run)["values"])
        with stop:
            fit(trainer, module, data, ckpt, last)
        if trainer.is_global_zero:
            log_summary(loggers, write_summary(output, {"config": storable(run), "steps": trainer.global_step}))
    finally:
        finish(loggers)
    if trainer.is_global_zero:
        _say_what_is_next(run)


def _require_device(accelerator: str) -> None:
    if accelerator == "gpu" and not (CUDAAccelerator.is_available() or MPSAccelerator.is_available()):
        raise IdanimError("trainer.accelerator=gpu, but torch finds no GPU here: take trainer=cpu, or a torch for CUDA")


def prepare(run: Run) -> None:
    """Encode what is missing of the latents and find the faces, so that runs that start together need not."""
    config = run.config
    build_data = _data_builder(config, config["faces"])
    build_data(build_models(config)).prepare_data()


def _face_finder(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    finders = [node["face_finder"] for node in (config["identity_loss"], config["face_weight"]) if node["face_finder"]]
    if len(finders) == 2 and finders[0] != finders[1]:
        raise IdanimError(
            "identity_loss.face_finder and face_weight.face_finder differ, but the faces of a clip are found once: "
            "give both the same settings"
        )
    return finders[0] if finders else None


def _data_builder(config: Mapping[str, Any], finder: Mapping[str, Any] | None) -> Callable[[Models], ClipDataModule]:
    """Builds the data around models; what needs none of them is checked and built at once."""
    require_shards(config["data"]["shards"])
    strategy, face_finder = build(config["reference"]), built_or_plain(finder)

    def build_data(models: Models) -> ClipDataModule:
        return build(
            config["data"],
            encoder=models.backbone,
            strategy=strategy,
            reference_size=models.encoder.image_size,
            face_finder=face_finder,
            face_settings=json.dumps(finder, sort_keys=True),
        )

    return build_data


def evaluation_command(run: Run, adapter: Path) -> str:
    """What to type to evaluate the adapter with the faces, the logger and the weights of its training."""
    faces = run.config["faces"]
    usual = restore("evaluate", {"choices": {"faces": run.choices["faces"]}, "values": {}})["faces"]
    arguments = [f"ckpt={adapter}", f"faces={run.choices['faces']}"]
    arguments += [f"faces.{key}={faces[key]}" for key in faces if faces[key] != usual[key]]
    arguments += [f"logger={run.choices['logger']}"] if run.choices["logger"] != "wandb" else []
    used = dict.fromkeys(recogniser.file for recogniser in used_recognisers(adapter, run.config))
    command = shlex.join(["python", "evaluate.py", *arguments])
    return command + (f"   # judge by another recogniser than {', '.join(used)}, which took part" if used else "")


def _say_what_is_next(run: Run) -> None:
    adapter = run.output / "adapter.safetensors"
    print(f"\nadapter   {adapter}\nfigures   {run.output / 'metrics.json'}, {run.output / 'curves.png'}")
    print(f"next      {evaluation_command(run, adapter)}")
