"""Where figures of a run go: W&B and a CSV file beside it."""

from __future__ import annotations

import netrc
import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, WandbLogger


def csv_logger(output: Path) -> CSVLogger:
    """Rows of figures in `<output>/csv/version_<n>/metrics.csv`; a resumed run gets the next n."""
    return CSVLogger(output, name="csv")


def no_logger(output: Path) -> None:
    """No logger beside the CSV file."""
    return


def wandb_logger(
    output: Path, project: str, group: str | None = None, name: str | None = None, mode: str = "auto"
) -> WandbLogger:
    """W&B; offline where no key is known.

    Args:
        output: the run folder.
        project: W&B project.
        group: W&B group.
        name: W&B run name; the folder's name by default.
        mode: "online", "offline" or "auto".
    """
    offline = mode == "offline" or (mode == "auto" and not has_wandb_key())
    output.mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name or output.name, save_dir=output, offline=offline, project=project, group=group, log_model=False
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
