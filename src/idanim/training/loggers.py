"""Where figures of a run go: W&B and a CSV file beside it."""

from __future__ import annotations

import logging
import netrc
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from idanim.training.csv_table import CsvTable
from idanim.types import without_secrets

LONGEST_TAG = 64


def csv_logger(output: Path) -> CsvTable:
    """Rows of figures in `<output>/csv/version_<n>/metrics.csv`; a resumed run gets the next n."""
    return CsvTable(output / "csv")


def no_logger(output: Path) -> None:
    """No logger beside the CSV file."""
    return


def wandb_logger(
    output: Path,
    project: str,
    group: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    mode: str = "auto",
) -> WandbLogger:
    """W&B; offline where no key is known.

    Args:
        output: the run folder.
        project: W&B project.
        group: W&B group; the runs of one sweep have one.
        tags: to find runs by, cut at the 64 characters that W&B takes.
        name: W&B run name; the folder's name by default.
        mode: "online", "offline" or "auto".
    """
    import wandb  # takes a second, and who asks for no W&B needs none

    offline = mode == "offline" or (mode == "auto" and not has_wandb_key())
    if offline:
        os.environ.setdefault("WANDB_SILENT", "true")
    output.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name or output.name,
        save_dir=output,
        offline=offline,
        project=project,
        group=group,
        tags=[tag[:LONGEST_TAG] for tag in tags],
        log_model=False,
        # Among W&B's metadata is the command line, where a URL may have a key.
        settings=wandb.Settings(silent=offline, x_disable_meta=any(a != without_secrets(a) for a in sys.argv)),
    )


def has_wandb_key() -> bool:
    """Whether W&B could log in: a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return False
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "api.wandb.ai" in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False


def log_config(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Tell W&B the configuration, which its tables of runs and its sweeps compare."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_hyperparams(dict(config))


def log_summary(loggers: Iterable[Logger], figures: Mapping[str, float]) -> None:
    """Tell W&B the figures that stand for a run, as in its `metrics.json`."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(dict(figures))


def finish(loggers: Iterable[Logger]) -> None:
    """End the W&B run, so that the next job of a sweep in this process starts its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            wandb.finish()


def quiet_lightning() -> None:
    """Keep Lightning's hardware report and its warnings that do not hold here out of the terminal."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # what `trainer.profiler` found
    for message in (
        "You're resuming from a checkpoint that ended before the epoch",  # the sampler starts at the global step
        "Found .* module.* in eval mode at the start of training",  # the frozen parts are meant to be
        "Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its own folder
        ".*LeafSpec.* is deprecated",  # inside Lightning
    ):
        warnings.filterwarnings("ignore", message=message)
