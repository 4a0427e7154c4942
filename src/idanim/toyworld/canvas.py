"""Painting with signed distances: shapes are [B, H, W] distance fields, negative inside, in frame units.

A frame spans [-1, 1] in x (right) and y (down).
"""

from __future__ import annotations

import torch
from torch import Tensor


class Canvas:
    """B pictures painted over from back to front, with edges softened over one pixel.

    Attributes:
        x: [1, 1, W] x of the pixel centres.
        y: [1, H, 1] y of the pixel centres.
        picture: [B, 3, H, W] in [0, 1].
    """

    def __init__(self, background: Tensor, size_px: int) -> None:
        self.pixel = 2.0 / size_px
        centres = (torch.arange(size_px, dtype=torch.float32, device=background.device) + 0.5) * self.pixel - 1
        self.x = centres[None, None, :]
        self.y = centres[None, :, None]
        self.picture = background[:, :, None, None].repeat(1, 1, size_px, size_px)

    def paint(self, distance: Tensor, colour: Tensor, opacity: Tensor | float = 1.0, softness: float = 1.0) -> None:
        """Cover the inside of a shape.

        Args:
            distance: [B, H, W] signed distance.
            colour: [B, 3] or [3] in [0, 1], or [B, 3, H, W].
            opacity: [B, 1, 1] or a number in [0, 1].
            softness: width of the edge in pixels.
        """
        cover = (0.5 - distance / (self.pixel * softness)).clamp(0, 1) * opacity
        if colour.dim() < 4:
            colour = colour.to(self.picture.device).reshape(-1, 3, 1, 1)
        self.picture = torch.lerp(self.picture, colour.expand_as(self.picture), cover[:, None])


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Distance to an ellipse about the origin (exact on its axes)."""
    radius_x, radius_y = torch.as_tensor(radius_x, device=x.device), torch.as_tensor(radius_y, device=x.device)
    ratio = torch.sqrt((x / radius_x) ** 2 + (y / radius_y) ** 2 + 1e-9)
    return (ratio - 1) * torch.minimum(radius_x, radius_y)


def box(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float) -> Tensor:
    """Distance to an upright rectangle about the origin."""
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)
