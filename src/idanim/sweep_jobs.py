"""Jobs of a sweep: what they are called, and what is shown of what was typed for them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from idanim.types import CUT_QUERY, without_secrets

LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher",
    "hydra_plugins.hydra_joblib_launcher._core",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
)
"""Of Hydra: their loggers."""


class HideSecrets(Callback):
    """Keeps the queries of URLs out of what Hydra and its launchers print of the command lines of jobs."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before a launcher tells of any job."""
        for launcher in LAUNCHERS:
            logging.getLogger(launcher).addFilter(_hide_secrets)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Before Hydra tells of it."""
        job_return.overrides = [without_secrets(override) for override in job_return.overrides or ()]


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Of a message in the log; all of them pass."""
    record.msg, record.args = without_secrets(record.getMessage()), None
    return True


def sweep_name() -> str | None:
    """Name of the folder of the sweep that this process runs a job of; None outside of one."""
    hydra_cfg = HydraConfig.get() if HydraConfig.initialized() else None
    return Path(hydra_cfg.sweep.dir).name if hydra_cfg and hydra_cfg.mode == RunMode.MULTIRUN else None


def varied_values() -> list[str]:
    """What tells this job of a sweep from the others, as "key=value" without secrets; [] outside of one."""
    return [without_secrets(text) for text in _varied_overrides()] if sweep_name() is not None else []


def job_folder() -> str:
    """Name of the folder of this job of a sweep; a hash of a whole URL stands for what is cut out of it."""
    return ",".join(_nameable(text) for text in sorted(_varied_overrides()))


def _nameable(override: str) -> str:
    shown = without_secrets(override)
    if shown == override:
        return override
    return f"{shown.replace(CUT_QUERY, '')}~{hashlib.sha256(override.encode()).hexdigest()[:8]}"


def _varied_overrides() -> list[str]:
    job, typed = HydraConfig.get().job, HydraConfig.get().overrides.task
    shared = set(job.config.override_dirname.exclude_keys)
    overrides = OverridesParser.create().parse_overrides(list(typed))
    return [str(override.input_line) for override in overrides if override.key_or_group not in shared]


OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("varied_values", varied_values, replace=True)
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)
