"""Numbers that go bad while a run goes on: each is looked at, named, and stops the run or is told, as `watch.*` says.

| name | what | by default |
|---|---|---|
| `not_finite` | loss or gradient is NaN or infinite; found before the weights take it in | stop |
| `exploding_gradient` | the gradient's norm is `gradient_factor` times its median of the last steps | warn |
| `dead_queries` | id tokens that are the same for every person | warn |
| `lost_identity` | likeness or `id_token_share` falls far below its best, while the loss falls | warn |
| `frozen_drift` | weights of the frozen models changed; found before a checkpoint is written | stop |

What is found is logged as a figure `watch/<name>` too, so that `metrics.json` and W&B keep it.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from idanim.training.module import AdapterTraining
from idanim.types import ClipBatch, IdanimError, listed

log = logging.getLogger(__name__)

ACTIONS = ("stop", "warn", "off")
HISTORY_STEPS, MIN_HISTORY_STEPS = 100, 20


class BadNumberError(IdanimError):
    """A run was stopped because a number went bad; the text begins with its name."""


@dataclass(frozen=True)
class Watch:
    """What is done about each number: "stop", "warn" or "off"; and from where on it is bad.

    Attributes:
        not_finite: loss or gradient.
        exploding_gradient: against its own past.
        dead_queries: id tokens that don't depend on the person.
        lost_identity: figures of identity against their best.
        frozen_drift: weights that must not change.
        gradient_factor: how many times the median of the last steps.
        min_query_share: `id_token_share` of one query below which it is dead.
        min_share_of_best: of a figure of identity, in [0, 1].
    """

    not_finite: str = "stop"
    exploding_gradient: str = "warn"
    dead_queries: str = "warn"
    lost_identity: str = "warn"
    frozen_drift: str = "stop"
    gradient_factor: float = 100.0
    min_query_share: float = 1e-6
    min_share_of_best: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "str" and value not in ACTIONS:
                # YAML reads a bare `off` as false.
                if value is not False:
                    raise IdanimError(f"watch.{field.name}={value!r}: expected one of {', '.join(ACTIONS)}")
                object.__setattr__(self, field.name, "off")

    def act(self, trainer: Trainer, name: str, text: str) -> None:
        """Tell of a bad number, or stop; on every process of a job alike.

        Raises:
            BadNumberError: `watch.<name>` is "stop".
        """
        if (told := self.tell(trainer, name, text)) is not None:
            raise BadNumberError(told)

    def tell(self, trainer: Trainer, name: str, text: str) -> str | None:
        """Tell of a bad number; returns what to stop with where `watch.<name>` is "stop"."""
        action = getattr(self, name)
        if action == "off":
            return None
        for logger in trainer.loggers:
            logger.log_metrics({f"watch/{name}": 1.0}, step=trainer.global_step)
        told = f"{name} at step {trainer.global_step}: {text}"
        if action == "stop":
            return f"{told} (watch.{name}=warn goes on all the same)"
        log.warning("%s", told)
        return None


class _Remembering(Callback):
    """A callback whose state goes into the checkpoint: a run that goes on is watched as if it had never stopped."""

    def remembered(self) -> dict[str, Any]:
        """Plain values."""
        raise NotImplementedError

    def remember(self, state: Mapping[str, Any]) -> None:
        """Take in what `remembered` gave; any error where it is something else."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """For Lightning."""
        return self.remembered()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """For Lightning.

        Raises:
            IdanimError: it is not what was saved.
        """
        try:
            self.remember(state_dict)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = type(self).__name__
            raise IdanimError(f"what the checkpoint has of {name} is damaged ({error!r}); take another one") from error


class GradientWatch(_Remembering):
    """Logs the norm of every step's gradient, and looks at it before the weights take it in.

    Names `not_finite` and `exploding_gradient`.

    Gradients, not losses, because they are the same on every device.

    Args:
        watch: what to do.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.norms: deque[float] = deque(maxlen=HISTORY_STEPS)
        self.loss: Tensor | None = None
        self.keys: list[str] = []
        self._quiet_until = 0

    def remembered(self) -> dict[str, Any]:
        """The last norms."""
        return {"norms": list(self.norms), "quiet_until": self._quiet_until}

    def remember(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self.norms = deque(map(float, state["norms"]), maxlen=HISTORY_STEPS)
        self._quiet_until = int(state["quiet_until"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the names of the clips for the text."""
        self.keys = batch.keys if isinstance(batch, ClipBatch) else []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss for the text."""
        self.loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Log the norm before clipping, and look at it."""
        assert isinstance(pl_module, AdapterTraining)
        gradients = [p.grad for p in pl_module.adapter.parameters() if p.grad is not None]
        measured = torch.nn.utils.get_total_norm(gradients)
        pl_module.log("train/grad_norm", measured, logger=False)
        if self.watch.not_finite == self.watch.exploding_gradient == "off":
            return  # reading the norm makes the computer wait for the GPU
        norm = float(measured)
        if norm != norm or norm == float("inf"):
            if trainer.scaler is None:  # in half precision the scaler leaves such steps out
                loss = float("nan") if self.loss is None else float(self.loss)
                text = (
                    f"the gradient's norm is {norm}, the loss {loss:g}; clips of the step: {listed(self.keys)}. "
                    "The weights are those of the step before. The same command with trainer.precision=32-true or a "
                    "smaller trainer.gradient_clip_val goes on; a lower training.optimizer.lr needs another output="
                )
                self.watch.act(trainer, "not_finite", text)
            return
        median = statistics.median(self.norms) if len(self.norms) >= MIN_HISTORY_STEPS else None
        if median and norm > self.watch.gradient_factor * median and trainer.global_step >= self._quiet_until:
            self._quiet_until = trainer.global_step + HISTORY_STEPS
            text = (
                f"the gradient's norm is {norm:.3g}, its median over {len(self.norms)} steps {median:.3g}; clips: "
                f"{listed(self.keys)}. If it comes again, lower training.optimizer.lr"
            )
            self.watch.act(trainer, "exploding_gradient", text)
        self.norms.append(norm)


class IdentityWatch(_Remembering):
    """Compares figures of identity with their best: `lost_identity`, and tells `dead_queries`.

    The loss hardly depends on the face: it goes on falling while every person gets the same tokens. The first process
    looks at the figures, for previews are its own; `stop_together` ends all of them.

    Args:
        watch: what to do.
    """

    FIGURES = ("id_token_share", "preview/face_similarity")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.losses: deque[Tensor | float] = deque(maxlen=HISTORY_STEPS)
        self.best: dict[str, tuple[float, float]] = {}
        self._num_dead = 0
        self._stops_with: str | None = None

    def remembered(self) -> dict[str, Any]:
        """The last losses and the best figures."""
        best = {name: list(value_and_loss) for name, value_and_loss in self.best.items()}
        return {"losses": [float(loss) for loss in self.losses], "best": best, "num_dead": self._num_dead}

    def remember(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self.losses = deque(map(float, state["losses"]), maxlen=HISTORY_STEPS)
        self.best = {str(name): (float(value), float(loss)) for name, (value, loss) in state["best"].items()}
        self._num_dead = int(state["num_dead"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Keep the loss of all devices, where it lies."""
        figures = trainer.callback_metrics
        losses = [figures[name] for name in ("train/loss", "train/identity_loss") if name in figures]
        self.losses.append(torch.stack(losses).sum())

    def observe(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        """Take in figures as they are logged."""
        if not trainer.is_global_zero or not any(name in figures for name in self.FIGURES):
            return
        loss = statistics.fmean(map(float, self.losses)) if self.losses else float("nan")
        for name in self.FIGURES:
            value = figures.get(name)
            if value is None:
                continue
            best, loss_then = self.best.setdefault(name, (value, loss))
            if value >= best:
                self.best[name] = (value, loss)
            elif value < self.watch.min_share_of_best * best and loss <= loss_then:
                text = (
                    f"{name} is {value:.4g}, its best was {best:.4g}, while the loss went from {loss_then:.4g} to "
                    f"{loss:.4g}: the adapter forgets who is shown. Lower training.optimizer.lr, start from "
                    "adapter.init=, or use a larger data.batch_size"
                )
                self.best[name] = (value, loss)  # told once for each such fall
                self._stops_with = self.watch.tell(trainer, "lost_identity", text) or self._stops_with

    def observe_queries(self, trainer: Trainer, shares: Tensor) -> None:
        """Take in the share of each query, [Q] in [0, 1]."""
        if not trainer.is_global_zero:
            return
        dead = (shares < self.watch.min_query_share).nonzero().flatten().tolist()
        if len(dead) > self._num_dead:
            text = (
                f"{len(dead)} of {len(shares)} id tokens are the same for every person (numbers {listed(dead)}): they "
                "carry nothing. Fewer adapter.num_queries, or a lower training.optimizer.lr"
            )
            self._stops_with = self.watch.tell(trainer, "dead_queries", text) or self._stops_with
        self._num_dead = len(dead)

    def stop_together(self, trainer: Trainer) -> None:
        """End the run where a figure asked for it; every process calls it at the same steps.

        Raises:
            BadNumberError: on all of them.
        """
        if "stop" in (self.watch.lost_identity, self.watch.dead_queries):
            told = trainer.strategy.broadcast(self._stops_with)
            if told is not None:
                raise BadNumberError(told)


class FrozenWatch(Callback):
    """Compares the frozen weights with what they were at the start: `frozen_drift`.

    Args:
        watch: what to do.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.digests: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember, unless nobody asks."""
        if self.watch.frozen_drift != "off":
            self.digests = {name: digest(part) for name, part in _frozen(pl_module)}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare before a checkpoint is written, so that none is of a changed backbone."""
        self._compare(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare at the end."""
        self._compare(trainer, pl_module)

    def _compare(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.digests:
            return
        changed = [name for name, part in _frozen(pl_module) if digest(part) != self.digests.get(name)]
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):  # on one device, on all
            names = " and ".join(changed) or "parts of another process"
            text = f"weights of the frozen {names} changed since the start; the adapter would belong to no known model"
            self.watch.act(trainer, "frozen_drift", text)


def _frozen(pl_module: LightningModule) -> Iterable[tuple[str, nn.Module]]:
    assert isinstance(pl_module, AdapterTraining)
    parts = {"backbone": pl_module.backbone, "encoder": pl_module.encoder, "identity loss": pl_module.identity_loss}
    return [(name, part) for name, part in parts.items() if isinstance(part, nn.Module)]


@torch.no_grad()
def digest(module: nn.Module) -> str:
    """Names the weights of a module to the last bit; computed where they lie, in milliseconds on a GPU.

    Each tensor's bits are summed as whole numbers, weighted by their place: a change of one number always shows.
    """
    names = hashlib.sha256()
    for name, tensor in sorted(module.state_dict(keep_vars=True).items()):
        names.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_bit_sum(tensor)}\n".encode())
    return names.hexdigest()


def _bit_sum(tensor: Tensor) -> int:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    if isinstance(tensor, DTensor):  # of a shared-out backbone: this device's share
        tensor = tensor.to_local()
    bits = tensor.detach().contiguous().reshape(-1).view(whole)
    total = 0
    for start, part in enumerate(bits.split(2**22)):  # bounded memory
        places = torch.arange(1, len(part) + 1, device=part.device)
        total += int((part.long() * places).sum()) * (start + 1)
    return total
