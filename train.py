"""Train a face adapter: python train.py experiment=random_ref data.shards=<folder>."""

from __future__ import annotations

import logging

from idanim.config import Run, build, program, storable

log = logging.getLogger(__name__)


@program("train")
def main(run: Run) -> None:
    """Compose → build → fit."""
    # Torch and Lightning load only once the command line is right.
    from idanim.assembly import build_models
    from idanim.previews import PreviewMaker
    from idanim.training.callbacks import training_callbacks
    from idanim.training.curves import write_summary
    from idanim.training.loggers import csv_logger, finish, quiet_lightning

    quiet_lightning()
    config, output = run.config, run.output
    models = build_models(config)
    data = build(
        config["data"],
        encoder=models.backbone,
        strategy=build(config["reference"]),
        reference_size=models.encoder.image_size,
    )
    module = build(config["training"], **models._asdict(), stored_config=storable(run))
    loggers = [logger for logger in (csv_logger(output), build(config["logger"], output=output)) if logger]
    callbacks = training_callbacks(
        output, config["every_n_steps"], config["data"]["batch_size"], PreviewMaker.from_config(config, output, loggers)
    )
    trainer = build(config["trainer"], logger=loggers, callbacks=callbacks, default_root_dir=str(output))
    last = output / "checkpoints" / "last.ckpt"
    ckpt = config["ckpt"] or (str(last) if last.is_file() else None)
    if ckpt:
        log.info("going on from %s", ckpt)
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    finally:
        finish(loggers)
    if trainer.is_global_zero:
        write_summary(output, {"config": storable(run), "steps": trainer.global_step})
        adapter = output / "adapter.safetensors"
        print(f"\nadapter   {adapter}\nfigures   {output / 'metrics.json'}, {output / 'curves.png'}")
        print(f"next      python evaluate.py ckpt={adapter}")


if __name__ == "__main__":
    main()
