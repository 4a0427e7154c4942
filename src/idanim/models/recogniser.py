"""A face recogniser that gradients flow through, for losses and for conditioning."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from idanim.models.face_alignment import ARCFACE_SIZE_PX, crop_faces, shrink_factor
from idanim.models.onnx_network import OnnxNetwork
from idanim.types import IdanimError

log = logging.getLogger(__name__)

RESEARCH_ONLY = ("w600k_r50.onnx", "w600k_mbf.onnx", "glintr100.onnx")
"""Recognisers of insightface's packs."""


class FaceRecogniser(nn.Module):
    """An ArcFace network, from the .onnx file that insightface runs; frozen.

    Args:
        path: the file, input [N, 3, 112, 112] RGB.

    Raises:
        IdanimError: no file is named, there is no such file, or its network can't be run here.
    """

    def __init__(self, path: str | Path | None) -> None:
        super().__init__()
        if path is None:
            raise IdanimError("this backbone names no face recogniser; add backbone.recogniser=<file>.onnx")
        if Path(path).name in RESEARCH_ONLY:
            log.warning("%s is licensed for non-commercial research only, and so may be what is trained with it", path)
        self.network = OnnxNetwork(path)
        # As insightface decides: a network that begins by subtracting and multiplying wants pixels as they are.
        self.takes_bytes = {"Sub", "Mul"} <= set(self.network.first_operators)

    def forward(self, crops: Tensor) -> Tensor:
        """Embed ArcFace crops [N, 3, 112, 112] in [-1, 1] as unit vectors [N, D]."""
        return F.normalize(self.network((crops + 1) * 127.5 if self.takes_bytes else crops).flatten(1), dim=1)

    def embed_at(self, pictures: Tensor, landmarks: Tensor) -> Tensor:
        """Cut out and embed one face of each picture.

        Args:
            pictures: [N, 3, H, W] in [-1, 1].
            landmarks: [N, 5, 2] pixels.

        Returns:
            Unit vectors [N, D].
        """
        # A large face is sampled finer than it is embedded: skipping pixels would make what the network sees jump.
        factor = shrink_factor(landmarks)
        crops = crop_faces(pictures.float(), landmarks, ARCFACE_SIZE_PX * factor)
        return self(F.avg_pool2d(crops, factor) if factor > 1 else crops)
