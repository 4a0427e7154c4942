"""Draw many toy pictures or clips at once, to measure a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Generator, Tensor

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_t [B, C, …], timesteps [B], context [B, L, D]) → the model's answer, shaped like x_t."""


@torch.no_grad()
def sample_latents(
    predict: Predictor,
    scheduler: DDIMScheduler,
    context: Tensor,
    null_context: Tensor,
    shape: tuple[int, ...],
    guidance_scale: float,
    num_steps: int,
    generator: Generator,
) -> Tensor:
    """Denoise from noise by DDIM with classifier-free guidance.

    Args:
        predict: the model.
        scheduler: noise schedule of the model.
        context: [B, L, D] of B prompts.
        null_context: [1, L, D].
        shape: of one latent, without B.
        guidance_scale: weight of the guidance.
        num_steps: denoising steps.
        generator: of the noise.

    Returns:
        [B, *shape].
    """
    batch = len(context)
    both = torch.cat([null_context.expand_as(context), context])
    latents = torch.randn(batch, *shape, generator=generator).to(context.device)
    scheduler.set_timesteps(num_steps)
    for timestep in scheduler.timesteps:
        answer = predict(torch.cat([latents, latents]), timestep.expand(2 * batch).to(both.device), both)
        plain, guided = answer.chunk(2)
        latents = scheduler.step(plain + guidance_scale * (guided - plain), timestep, latents).prev_sample
    return latents
