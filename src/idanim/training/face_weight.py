"""A denoising loss that looks harder at the face; goes beyond the paper, whose loss counts every place alike."""

from __future__ import annotations

import torch
from torch import Tensor

from idanim.models.face_alignment import ARCFACE_SIZE_PX, ARCFACE_TEMPLATE, fit_similarity


class FaceWeight:
    """How much each latent cell counts: `weight` times as much inside the face as outside, 1 on the average of a clip.

    The face is the square that face recognisers are given: the ArcFace crop, laid through the five landmarks. A cell
    belongs to it if its centre does.

    Args:
        weight: ≥ 1; 1 is the loss of the paper.
        height: of the frames that the landmarks refer to, in pixels.
        width: likewise.
    """

    def __init__(self, weight: float, height: int, width: int) -> None:
        self.weight = weight
        self.height = height
        self.width = width

    def __call__(self, landmarks: Tensor, rows: int, columns: int) -> Tensor:
        """Weigh the cells of some clips.

        Args:
            landmarks: [B, F, 5, 2] pixels, NaN where there is no face.
            rows: h, cells from top to bottom.
            columns: w, cells from left to right.

        Returns:
            [B, 1, F, h, w] float32, of mean 1 in each clip.
        """
        weights = 1 + (self.weight - 1) * self.inside(landmarks, rows, columns).float()
        return (weights / weights.mean((1, 2, 3), keepdim=True))[:, None]

    def inside(self, landmarks: Tensor, rows: int, columns: int) -> Tensor:
        """Whether each cell's centre lies in the face, [B, F, h, w] bool; nowhere where there is no face."""
        with torch.autocast(landmarks.device.type, enabled=False):  # places need all their digits
            return self._inside(landmarks, rows, columns)

    def _inside(self, landmarks: Tensor, rows: int, columns: int) -> Tensor:
        landmarks = landmarks.float()
        seen = landmarks.isfinite().flatten(2).all(-1)
        to_crop = fit_similarity(landmarks.nan_to_num().flatten(0, 1), ARCFACE_TEMPLATE.to(landmarks))
        x = (torch.arange(columns, device=landmarks.device) + 0.5) * self.width / columns - 0.5
        y = (torch.arange(rows, device=landmarks.device) + 0.5) * self.height / rows - 0.5
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, -1, 2)
        places = centres @ to_crop[:, :, :2].transpose(1, 2) + to_crop[:, None, :, 2]
        found = ((places >= 0) & (places <= ARCFACE_SIZE_PX - 1)).all(-1)
        return found.unflatten(1, (rows, columns)).unflatten(0, landmarks.shape[:2]) & seen[:, :, None, None]
