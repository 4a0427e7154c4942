"""What happens to toy pictures on their way: blur, grain, exposure, and the coarse colours of video files."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from idanim.toyworld.draws import Draws

LUMA = torch.tensor([0.299, 0.587, 0.114])[:, None, None]


def with_coarse_colours(pictures: Tensor) -> Tensor:
    """Halve the resolution of colour, but not of brightness, as yuv420 does: [B, 3, H, W], even sizes."""
    luma = (pictures * LUMA.to(pictures.device)).sum(1, keepdim=True)
    colour = F.interpolate(F.avg_pool2d(pictures - luma, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return luma + colour


def degrade(pictures: Tensor, draws: Draws, blur: float = 0.5, grain: float = 0.12) -> Tensor:
    """Degrade each of [B, 3, H, W] in [-1, 1] by a random amount.

    Args:
        pictures: in [-1, 1].
        draws: source of randomness.
        blur: greatest share of a 3×3 box blur.
        grain: greatest standard deviation of the noise.
    """
    number = (len(pictures), 1, 1, 1)
    coarse = draws.uniform(*number) < 0.5
    pictures = torch.where(coarse, with_coarse_colours(pictures), pictures)
    blurred = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    pictures = torch.lerp(pictures, blurred, blur * draws.uniform(*number))
    noise = draws.normal(*pictures.shape) * grain * draws.uniform(*number)
    return (pictures * (0.92 + 0.16 * draws.uniform(*number)) + noise).clamp(-1, 1)
