"""Samplers of the diffusion process by name, over the noise levels that a backbone was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from idanim.types import IdanimError

_SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpm": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    # Distilled in few steps that end at the noise of the last timestep (Lin & Yang, arXiv 2403.12706).
    "euler_trailing": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "lcm": (LCMScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
}
SCHEDULER_NAMES = tuple(_SCHEDULERS)


def scheduler_like(name: str, config: Mapping[str, Any]) -> Any:
    """Build a scheduler with the noise levels and prediction type of another.

    Args:
        name: one of `SCHEDULER_NAMES`.
        config: of the backbone's own scheduler.

    Raises:
        IdanimError: an unknown name.
    """
    if name not in _SCHEDULERS:
        raise IdanimError(f"sampling.scheduler={name!r}: expected one of {', '.join(SCHEDULER_NAMES)}")
    kind, changes = _SCHEDULERS[name]
    return kind.from_config(dict(config), **changes)


def noise_level(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """How noisy the latents are that a scheduler gives to its `step` at a timestep.

    Args:
        scheduler: of `scheduler_like`, with its timesteps set.
        timestep: one of them.

    Returns:
        The share ā of the power that is signal, and how many times larger the latents are than
        sqrt(ā) x_0 + sqrt(1 - ā) ε: 1 but for Euler's, which are x_0 + σ ε.
    """
    if isinstance(scheduler, EulerDiscreteScheduler | EulerAncestralDiscreteScheduler):
        power = 1 + float(scheduler.sigmas[scheduler.index_for_timestep(timestep)]) ** 2
        return 1 / power, power**0.5
    return float(scheduler.alphas_cumprod[int(timestep)]), 1.0
