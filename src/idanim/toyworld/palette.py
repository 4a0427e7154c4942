"""The colours of the toy world, RGB in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

CLOTH = torch.tensor(
    [
        (0.85, 0.15, 0.15),
        (0.95, 0.55, 0.12),
        (0.95, 0.88, 0.25),
        (0.20, 0.65, 0.25),
        (0.20, 0.35, 0.85),
        (0.58, 0.25, 0.70),
        (0.50, 0.50, 0.50),
        (0.95, 0.95, 0.95),
    ]
)
"""[8, 3], in the order of people.COLOURS."""

HAIR = torch.tensor(
    [(0.08, 0.07, 0.08), (0.36, 0.20, 0.10), (0.88, 0.74, 0.38), (0.75, 0.32, 0.10), (0.66, 0.66, 0.68)]
)
"""[5, 3], in the order of people.HAIR_COLOURS."""

SKIN = torch.tensor([(0.33, 0.20, 0.14), (0.72, 0.50, 0.36), (0.98, 0.84, 0.74)])
"""[3, 3]: skin tones 0, 1/2 and 1."""

BLACK = torch.tensor([0.07, 0.07, 0.07])
WHITE = torch.tensor([0.97, 0.97, 0.97])
LIP_RED = torch.tensor([0.78, 0.12, 0.20])


def hsv_to_rgb(hue: Tensor, saturation: Tensor | float, value: Tensor) -> Tensor:
    """Convert [B] colours, all in [0, 1], to [B, 3]."""
    wheel = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0], device=hue.device)) % 6
    wave = torch.minimum(wheel, 4 - wheel).clamp(0, 1)
    return value[:, None] * (1 - torch.as_tensor(saturation, device=hue.device).reshape(-1, 1) * wave)


def skin_colour(tone: Tensor, hue: Tensor) -> Tensor:
    """Skin from dark to light and from pink to yellow; [B] in [0, 1] → [B, 3]."""
    dark, middle, light = SKIN.to(tone.device)
    tone = tone[:, None]
    base = torch.where(tone < 0.5, torch.lerp(dark, middle, tone * 2), torch.lerp(middle, light, tone * 2 - 1))
    yellow = torch.tensor([0.06, -0.03, -0.16], device=hue.device)
    return (base + (hue[:, None] - 0.5) * yellow).clamp(0, 1)
