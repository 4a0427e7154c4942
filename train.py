"""Train a face adapter: python train.py experiment=random_ref data.shards=<folder>."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

from idanim.config import Run, build, built_or_plain, program, restore, storable

log = logging.getLogger(__name__)


def evaluation_command(run: Run, adapter: Path) -> str:
    """What to type to evaluate the adapter with the faces, the logger and the weights of its training."""
    from idanim.trained_judge import used_recognisers

    faces = run.config["faces"]
    usual = restore("evaluate", {"choices": {"faces": run.choices["faces"]}, "values": {}})["faces"]
    arguments = [f"ckpt={adapter}", f"faces={run.choices['faces']}"]
    arguments += [f"faces.{key}={faces[key]}" for key in faces if faces[key] != usual[key]]
    arguments += [f"logger={run.choices['logger']}"] if run.choices["logger"] != "wandb" else []
    used = [recogniser.file for recogniser in used_recognisers(adapter, run.config)]
    command = shlex.join(["python", "evaluate.py", *arguments])
    return command + (f"   # judge by another recogniser than {', '.join(used)}, which took part" if used else "")


@program("train", aliases={"caption": "data.caption"})
def main(run: Run) -> None:
    """Compose → build → fit."""
    # Torch and Lightning load only once the command line is right.
    from idanim.assembly import build_models, build_trainer
    from idanim.models.checkpoint import check_resumable
    from idanim.previews import PreviewMaker
    from idanim.training.callbacks import training_callbacks
    from idanim.training.curves import write_summary
    from idanim.training.loggers import csv_logger, finish, log_config, log_summary, quiet_lightning

    quiet_lightning()
    config, output = run.config, run.output
    last = output / "checkpoints" / "last.ckpt"
    ckpt = config["ckpt"] or (last if last.is_file() else None)
    if ckpt:
        check_resumable(Path(ckpt))
        log.info("going on from %s", ckpt)
    models = build_models(config)
    data = build(
        config["data"],
        encoder=models.backbone,
        strategy=build(config["reference"]),
        reference_size=models.encoder.image_size,
        face_finder=built_or_plain(config["identity_loss"]["face_finder"]),
        face_settings=json.dumps(config["identity_loss"]["face_finder"], sort_keys=True),
    )
    module = build(
        config["training"],
        **models._asdict(),
        identity_loss=built_or_plain(config["identity_loss"]["loss"]),
        stored_config=storable(run),
    )
    loggers = [logger for logger in (csv_logger(output), build(config["logger"], output=output)) if logger]
    clips_per_step = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    previews = PreviewMaker.from_config(config, output, loggers)
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
        adapter = output / "adapter.safetensors"
        print(f"\nadapter   {adapter}\nfigures   {output / 'metrics.json'}, {output / 'curves.png'}")
        print(f"next      {evaluation_command(run, adapter)}")


if __name__ == "__main__":
    main()
