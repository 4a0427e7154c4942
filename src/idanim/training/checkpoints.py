"""Checkpoints of a run, and how it stops when it is told to: nothing that was done is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from idanim.files import remove_leftovers
from idanim.types import IdanimError, StoppedBySignalError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What `kill`, torchrun and Slurm send before they end a process."""


class StopSignal:
    """Notes SIGTERM and SIGUSR1; use it as a context manager around a run, in the main thread.

    Attributes:
        received: the signal.
        is_deferred: whether a training step is under way that is finished and saved first; else the signal ends the
            run where it is.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.is_deferred = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Take the place of other handlers: those of Lightning talk to other processes from inside the signal."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        is_second = self.received is not None
        self.received = signal.Signals(number)
        if os.getpid() != self._process:  # a loader's: a scheduler signals all processes at once; the parent ends it
            if is_second:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif not self.is_deferred:
            raise StoppedBySignalError(f"stopped by {self.received.name} between steps; the same command goes on")


class Checkpoints(Checkpoint):
    """Writes `last.ckpt`, at intervals, at the end and when a signal comes.

    A checkpoint is of a step with all that belongs to it: its figures are on disk before, and where the step is
    validated, its validation is over.

    Args:
        folder: gets `last.ckpt`.
        every_n_steps: how often.
        stop: the signals of this run; None = they are left alone.
    """

    def __init__(self, folder: Path, every_n_steps: int, stop: StopSignal | None = None) -> None:
        self.path = folder / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.stop = stop
        self.saved_step: int | None = None
        self._waits_for_validation = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, steps are finished before a signal is obeyed."""
        if self.path.is_file():
            self.saved_step = trainer.global_step
        if self.stop is not None:
            self.stop.is_deferred = True
            self.stop.install()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save what waited for a validation that did not come."""
        if self._waits_for_validation:
            self._save_or_stop(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save at the interval and at the last step; after a signal, at once."""
        if is_stepped(trainer):
            self._waits_for_validation = _is_validated_now(trainer)
            if not self._waits_for_validation:
                self._save_or_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for it."""
        if self._waits_for_validation:
            self._save_or_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, signals are obeyed at once."""
        if self.saved_step != trainer.global_step:
            self.save(trainer)
        if self.stop is not None:
            self.stop.is_deferred = False

    def _save_or_stop(self, trainer: Trainer) -> None:
        self._waits_for_validation = False
        received = self.stop.received if self.stop is not None else None
        # Every process hears of a signal to any of them at the same step.
        is_stopping = trainer.strategy.reduce_boolean_decision(received is not None, all=False)
        step = trainer.global_step
        if is_stopping or step % self.every_n_steps == 0 or step == trainer.max_steps:
            self.save(trainer)
        if is_stopping and step != trainer.max_steps:
            name = received.name if received is not None else "a signal to another process"
            raise StoppedBySignalError(f"stopped by {name} after step {step}, which is saved; the same command goes on")

    def save(self, trainer: Trainer) -> None:
        """Write figures and checkpoint.

        Raises:
            IdanimError: they can't be written; the checkpoint before stays.
        """
        try:
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.path)
        except (OSError, RuntimeError) as error:  # the latter by torch, where the disk is full
            if _is_lost_process(error):
                raise
            kept = "there is none before it" if self.saved_step is None else f"that of step {self.saved_step} is whole"
            raise IdanimError(
                f"{self.path}: the checkpoint of step {trainer.global_step} can't be written ({error}); {kept}. Make "
                "room or allow writing, and give the same command again"
            ) from error
        self.saved_step = trainer.global_step


def fit(trainer: Trainer, module: LightningModule, data: LightningDataModule, ckpt: Path | None, last: Path) -> None:
    """Train; errors from outside of the program are told in words.

    Args:
        trainer: with callbacks.
        module: what learns.
        data: the clips.
        ckpt: to go on from.
        last: where checkpoints of this run lie.

    Raises:
        IdanimError: the disk is full or gone, or another process of the job ended.
    """
    remove_leftovers(last.parent)
    try:
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    except (OSError, RuntimeError) as error:
        is_lost = _is_lost_process(error)
        if not isinstance(error, OSError) and not (trainer.world_size > 1 and is_lost):
            raise
        kept = f"{last} is whole" if last.is_file() else "no checkpoint was written yet"
        what = f"another process of this job ended or can't be reached ({error})" if is_lost else str(error)
        raise IdanimError(f"{what}; {kept}. Mend it, and give the same command again") from error


def _is_lost_process(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def is_stepped(trainer: Trainer) -> bool:
    """Whether the batch that just ended was the last one of an optimiser step."""
    batch = trainer.fit_loop.epoch_loop.batch_idx
    return batch % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1


def _is_validated_now(trainer: Trainer) -> bool:
    interval = trainer.val_check_batch  # batches since the start of the run
    if not trainer.enable_validation or not sum(trainer.num_val_batches) or not isinstance(interval, int):
        return False
    return (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % interval == 0
