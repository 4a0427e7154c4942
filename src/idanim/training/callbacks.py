"""What happens beside the training steps: figures, previews, the adapter file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from torch import Tensor

from idanim.models.checkpoint import write_adapter
from idanim.training.checkpoints import Checkpoints, StopSignal, is_stepped
from idanim.training.module import AdapterTraining
from idanim.training.objective import id_token_share, query_shares
from idanim.training.sharding import is_sharded
from idanim.training.watch import FrozenWatch, GradientWatch, IdentityWatch, Watch
from idanim.types import ClipBatch

Preview = Callable[[AdapterTraining, int], Mapping[str, float]]


class ReferenceSource(Protocol):
    """A data module that can show persons."""

    def reference_batch(self, split: str, count: int) -> ClipBatch:
        """One clip each of up to `count` persons of a split."""
        ...


def data_of(trainer: Trainer) -> ReferenceSource:
    """The trainer's data module."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit, not declared


class IdTokenShare(Callback):
    """Logs `id_token_share`, the early warning that identity is not being learned.

    It is logged after the first step too, so that its fall or rise can be seen.

    Args:
        every_n_steps: how often.
        num_persons: how many persons of the training clips are compared.
    """

    def __init__(self, every_n_steps: int, num_persons: int = 16) -> None:
        self.every_n_steps = every_n_steps
        self.num_persons = num_persons
        self.references: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the persons, always the same ones."""
        batch = data_of(trainer).reference_batch("train", self.num_persons)
        self.references = batch.references if len(batch.identities) > 1 else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log at the first step, at the interval and at the last step."""
        assert isinstance(pl_module, AdapterTraining)
        first = trainer.global_step == 1 and is_stepped(trainer)
        if self.references is not None and (first or is_due(trainer, self.every_n_steps)):
            tokens = pl_module.id_tokens(self.references)
            share = id_token_share(tokens)
            pl_module.log("id_token_share", share, prog_bar=True, logger=False)
            log_now(trainer, {"id_token_share": float(share)})
            for watch in identity_watches(trainer):
                watch.observe_queries(trainer, query_shares(tokens))
                watch.stop_together(trainer)


class StepFigures(Callback):
    """Logs the figures of a training step (`train/*`) as part of it, so that they are there before its checkpoint.

    Args:
        every_n_steps: how often; the last step always.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log at the interval and at the last step."""
        if is_due(trainer, self.every_n_steps):
            figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name[:6] == "train/"}
            log_now(trainer, figures)


class Throughput(Callback):
    """Logs `train/clips_per_s` over all devices, without forcing the device to synchronise.

    Args:
        clips_per_step: the global batch.
        every_n_steps: how often.
    """

    def __init__(self, clips_per_step: int, every_n_steps: int) -> None:
        self.clips_per_step = clips_per_step
        self.every_n_steps = every_n_steps
        self._since: tuple[float, int] | None = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Log at the interval."""
        now, step = time.perf_counter(), trainer.global_step
        if self._since is None:  # the first step pays for start-up
            self._since = now, step
        elif step - self._since[1] >= self.every_n_steps:
            rate = (step - self._since[1]) * self.clips_per_step / (now - self._since[0])
            log_now(trainer, {"train/clips_per_s": rate})
            self._since = now, step


class Previews(Callback):
    """Generates videos at intervals and logs how much they look like their references.

    Args:
        preview: makes the videos of one step with the averaged adapter, stores them and returns figures.
        every_n_steps: how often; the last step is always shown.
    """

    def __init__(self, preview: Preview, every_n_steps: int) -> None:
        self.preview = preview
        self.every_n_steps = every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Generate at the interval and at the last step, on the first device; on all where they share the backbone."""
        assert isinstance(pl_module, AdapterTraining)
        if not is_due(trainer, self.every_n_steps):
            return
        if trainer.is_global_zero or is_sharded(trainer.strategy):
            log_now(trainer, self.preview(pl_module, trainer.global_step))
        for watch in identity_watches(trainer):
            watch.stop_together(trainer)


class AdapterFile(Callback):
    """At the end, writes `adapter.safetensors`: the averaged adapter with its configuration.

    Also where nothing was left to train: the run before may have been killed just before this.

    Args:
        output: the run folder.
    """

    def __init__(self, output: Path) -> None:
        self.output = output

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the adapter file."""
        assert isinstance(pl_module, AdapterTraining)
        if trainer.is_global_zero:
            write_adapter(
                self.output / "adapter.safetensors", pl_module.ema.module.state_dict(), pl_module.stored_config
            )


def log_now(trainer: Trainer, figures: Mapping[str, float]) -> None:
    """Log figures at this step alone; Lightning's own `log` repeats the last value at every interval."""
    for logger in trainer.loggers:
        if figures:
            logger.log_metrics(dict(figures), step=trainer.global_step)
    for watch in identity_watches(trainer):
        watch.observe(trainer, figures)


def identity_watches(trainer: Trainer) -> list[IdentityWatch]:
    """Those among the trainer's callbacks."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by the trainer, not declared
    return [callback for callback in callbacks if isinstance(callback, IdentityWatch)]


def is_due(trainer: Trainer, every_n_steps: int) -> bool:
    """Whether something that happens every so many optimiser steps, and at the end, happens now."""
    step = trainer.global_step
    return is_stepped(trainer) and (step % every_n_steps == 0 or step == trainer.max_steps)


def training_callbacks(
    output: Path,
    every_n_steps: Mapping[str, Any],
    clips_per_step: int,
    preview: Preview | None,
    watch: Watch,
    stop: StopSignal | None = None,
) -> list[Callback]:
    """The callbacks of a training run.

    Args:
        output: the run folder.
        every_n_steps: how often to log, checkpoint, preview and so on.
        clips_per_step: the global batch.
        preview: makes preview videos; None = there are none.
        watch: what is done when numbers go bad.
        stop: the signals that end the run.
    """
    return [
        TQDMProgressBar(refresh_rate=every_n_steps["log"]),  # figures are read from the device only to be shown
        GradientWatch(watch),
        IdentityWatch(watch),
        FrozenWatch(watch),
        LearningRateMonitor("step"),
        StepFigures(every_n_steps["log"]),
        Throughput(clips_per_step, every_n_steps["log"]),
        IdTokenShare(every_n_steps["id_token_share"]),
        *([] if preview is None else [Previews(preview, every_n_steps["preview"])]),
        Checkpoints(output / "checkpoints", every_n_steps["checkpoint"], stop),
        AdapterFile(output),
    ]
