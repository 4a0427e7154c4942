"""Cut faces out of pictures by five landmarks, in batches: the ArcFace alignment on torch tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ARCFACE_SIZE_PX = 112
ARCFACE_TEMPLATE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""[5, 2] places of the landmarks in a 112 px crop."""


def fit_similarity(source: Tensor, target: Tensor) -> Tensor:
    """Least-squares rotation, scale and shift that take `source` to `target`.

    Args:
        source: [B, 5, 2].
        target: [B, 5, 2] or [5, 2].

    Returns:
        [B, 2, 3].
    """
    target = target.expand_as(source)
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    moved, wanted = source - source_mean, target - target_mean
    power = moved.pow(2).sum((1, 2)).clamp(min=1e-6)
    cosine = (moved * wanted).sum((1, 2)) / power
    sine = (moved[..., 0] * wanted[..., 1] - moved[..., 1] * wanted[..., 0]).sum(1) / power
    rotation = torch.stack([torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1)], 1)
    shift = target_mean[:, 0] - (rotation @ source_mean.transpose(1, 2))[..., 0]
    return torch.cat([rotation, shift[..., None]], dim=-1)


def crop_faces(pictures: Tensor, landmarks: Tensor, size_px: int, zoom: Tensor | float = 1.0) -> Tensor:
    """Warp pictures so that the landmarks lie on the ArcFace template; black outside of the picture.

    Args:
        pictures: [B, 3, H, W] float.
        landmarks: [B, 5, 2] pixels; (0, 0) is the centre of the first one.
        size_px: side of the crops.
        zoom: above 1 shows more of the face's surroundings; [B] or one number.

    Returns:
        [B, 3, size_px, size_px]; black is the lowest value, -1.
    """
    with torch.autocast(pictures.device.type, enabled=False):  # half precision would move the crop by half a pixel
        return _crop_faces(pictures.float(), landmarks.float(), size_px, zoom)


def _crop_faces(pictures: Tensor, landmarks: Tensor, size_px: int, zoom: Tensor | float) -> Tensor:
    sides = torch.tensor(pictures.shape[:1:-1], dtype=torch.float32, device=landmarks.device)  # W, H
    matrix = fit_similarity(landmarks, ARCFACE_TEMPLATE.to(landmarks))
    to_picture = torch.linalg.inv(matrix[:, :, :2])
    shift = -(to_picture @ matrix[:, :, 2:])[:, None, :, 0]
    centres = (
        torch.arange(size_px, dtype=torch.float32, device=landmarks.device) + 0.5
    ) / size_px * ARCFACE_SIZE_PX - 0.5
    grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(1, -1, 2)
    middle = (ARCFACE_SIZE_PX - 1) / 2
    zoom = torch.as_tensor(zoom, dtype=torch.float32, device=landmarks.device).reshape(-1, 1, 1)
    places = ((grid - middle) * zoom + middle) @ to_picture.transpose(1, 2) + shift
    places = places.unflatten(1, (size_px, size_px)) * 2 / sides + 1 / sides - 1
    return F.grid_sample(pictures + 1, places, align_corners=False, padding_mode="zeros") - 1


def shrink_factor(landmarks: Tensor) -> int:
    """Picture pixels to a pixel of a 112 px crop, rounded up, for the largest of the faces at [B, 5, 2]."""
    matrix = fit_similarity(landmarks, ARCFACE_TEMPLATE.to(landmarks))
    scale = matrix[:, :, 0].norm(dim=1).min()
    return max(1, math.ceil(1 / float(scale) - 0.01))
