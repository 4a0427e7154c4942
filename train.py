"""Train a face adapter: python train.py experiment=random_ref data.shards=<folder>."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from idanim.config import Run, build, built_or_plain, program, storable

log = logging.getLogger(__name__)


@program("train", aliases={"caption": "data.caption", "memory": "blocks"})
def main(run: Run) -> None:
    """Compose → build → fit."""
    # Torch and Lightning load only once the command line is right.
    from idanim.assembly import build_models, build_trainer
    from idanim.models.checkpoint import check_resumable
    from idanim.previews import PreviewMaker
    from idanim.training.callbacks import training_callbacks
    from idanim.training.curves import write_summary
    from idanim.training.loggers import csv_logger, finish, quiet_lightning

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
        blocks=build(config["blocks"]),
        identity_loss=built_or_plain(config["identity_loss"]["loss"]),
        stored_config=storable(run),
    )
    loggers = [logger for logger in (csv_logger(output), build(config["logger"], output=output)) if logger]
    clips_per_step = config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"]
    previews = PreviewMaker.from_config(config, output, loggers)
    callbacks = training_callbacks(output, config["every_n_steps"], clips_per_step, previews)
    trainer = build_trainer(config, output, loggers, callbacks)
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    finally:
        finish(loggers)
    if trainer.is_global_zero:
        write_summary(output, {"config": storable(run), "steps": trainer.global_step})
        adapter = output / "adapter.safetensors"
        print(f"\nadapter   {adapter}\nfigures   {output / 'metrics.json'}, {output / 'curves.png'}")
        places = "".join(f" faces.{key}={config['faces'][key]}" for key in ("pack", "root") if key in config["faces"])
        faces = f" faces={run.choices['faces']}{places}"
        print(f"next      python evaluate.py ckpt={adapter}{faces}")


if __name__ == "__main__":
    main()
