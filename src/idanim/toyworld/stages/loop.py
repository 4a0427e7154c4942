"""The training loop that every stage shares: AdamW, warm-up then half-cosine, EMA, exact resume."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from idanim.files import atomic_path
from idanim.toyworld.draws import Draws

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        num_steps: optimiser steps.
        peak_lr: learning rate after warm-up.
        batch_size: samples of a step, over all processes.
        warmup_steps: steps of linear warm-up.
        flat_share: share of the steps before the cosine decay begins.
        ema_decay: decay of the averaged weights, which are the result; 0 for none.
        weight_decay: of AdamW.
        log_every_steps: steps between lines of the log and checkpoints.
    """

    num_steps: int
    peak_lr: float
    batch_size: int = 64
    warmup_steps: int = 100
    flat_share: float = 0.5
    ema_decay: float = 0.998
    weight_decay: float = 1e-2
    log_every_steps: int = 200

    def learning_rate(self, step: int) -> float:
        """Give the learning rate of a step."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        progress = step / max(1, self.num_steps)
        decay = max(0.0, (progress - self.flat_share) / max(1e-9, 1 - self.flat_share))
        return self.peak_lr * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * decay)))

    @property
    def local_batch_size(self) -> int:
        """Samples that this process draws for a step."""
        return self.batch_size // (dist.get_world_size() if dist.is_initialized() else 1)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Make the gradients of all processes their mean; nothing where there is one process."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def fit(
    name: str,
    module: nn.Module,
    loss: Callable[[int, Draws], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    seed: int,
) -> None:
    """Train the parameters of `module` that ask for gradients; leaves the averaged weights in it.

    Every step draws from its own source, seeded by (seed, process, step), so a run that was cut off and goes on from
    its checkpoint is the same as one that was not.

    Args:
        name: shown in the log.
        module: trained in place.
        loss: (step, draws) → scalar loss of a fresh batch.
        schedule: how long and how fast.
        checkpoint: file of the training state; a finished one ends the stage at once.
        seed: of the batches.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    device = parameters[0].device
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(
        parameters, lr=schedule.peak_lr, betas=(0.9, 0.98), weight_decay=schedule.weight_decay, fused=True
    )
    first_step = 0
    rank = dist.get_rank() if dist.is_initialized() else 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
        first_step = state["step"]
        log.info("%s: goes on at step %d", name, first_step)
    recent: list[Tensor] = []
    begun = time.monotonic()
    for step in range(first_step, schedule.num_steps):
        draws = Draws.seeded((seed * 64 + rank) * 10_000_019 + step, device)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(step)
        value = loss(step, draws)
        optimizer.zero_grad()
        value.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(schedule.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [parameter.detach() for parameter in parameters], 1 - decay)
        recent.append(value.detach())
        done = step + 1
        if done % schedule.log_every_steps == 0 or done == schedule.num_steps:
            mean, seconds = float(torch.stack(recent).mean()), (time.monotonic() - begun) / (done - first_step)
            log.info("%s: step %d/%d loss %.4f %.3f s/step", name, done, schedule.num_steps, mean, seconds)
            recent.clear()
            if rank == 0:
                _save(checkpoint, module, optimizer, average, done)
    for parameter, averaged in zip(parameters, average, strict=True):
        parameter.data.copy_(averaged)


def _save(
    checkpoint: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: list[Tensor], step: int
) -> None:
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}
    with atomic_path(checkpoint) as partial:
        torch.save(state, partial)


def quick_on_gpu(module: nn.Module, *samples: Tensor) -> Callable[..., Tensor]:
    """Record a network's passes as CUDA graphs: for networks this small, starting the kernels takes most of the time.

    Args:
        module: tensors → tensor; as it is where it lies on a CPU.
        samples: what it will be called with: these shapes, and those asking for gradients that will ask then.
    """
    if samples[0].device.type != "cuda":
        return module
    return cast(nn.Module, torch.cuda.make_graphed_callables(module, samples, allow_unused_input=True))
