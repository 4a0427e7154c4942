"""Frozen image encoders that describe a reference face by tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from idanim.models.backbone import DTYPES
from idanim.models.checkpoint import require_finite
from idanim.types import IdanimError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class FaceEncoder(Protocol):
    """A frozen encoder of reference pictures."""

    @property
    def feature_dim(self) -> int:
        """Width of the tokens."""
        ...

    @property
    def image_size(self) -> int:
        """Side of the pictures it takes, in pixels."""
        ...

    def encode(self, references: Tensor) -> Tensor:
        """[B, R, 3, S, S] in [-1, 1] → tokens [B, R, N, feature_dim]."""
        ...

    def null_features(self) -> Tensor:
        """Tokens of "no face", [1, 1, N, feature_dim]."""
        ...


class ClipFaceEncoder(nn.Module):
    """CLIP vision tokens of the last but one layer (paper §3.2; IP-Adapter-Plus).

    Args:
        vision_model: frozen CLIP vision model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision_model: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, path: str, dtype: str = "float32") -> ClipFaceEncoder:
        """Load from a local folder in transformers layout.

        Raises:
            IdanimError: there is no such folder, or the type is unknown.
        """
        if dtype not in DTYPES:
            raise IdanimError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise IdanimError(
                f"encoder.path={path!r}: no such folder; expected a CLIP vision model there. "
                "`python -m idanim.weights list` tells which public files are missing"
            )
        model = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True, dtype=DTYPES[dtype])
        require_finite(model, str(folder))
        return cls(model)

    @property
    def feature_dim(self) -> int:
        """Width of the tokens."""
        return int(self.vision_model.config.hidden_size)

    @property
    def image_size(self) -> int:
        """Side of the pictures it takes, in pixels."""
        size = self.vision_model.config.image_size
        assert isinstance(size, int)  # CLIP's pictures are square
        return size

    @torch.no_grad()
    def encode(self, references: Tensor) -> Tensor:
        """Tokens of reference pictures.

        Args:
            references: [B, R, 3, S, S] float in [-1, 1], S = `image_size`.

        Returns:
            [B, R, N, feature_dim].
        """
        return self._tokens(self.normalise(references.flatten(0, 1))).unflatten(0, references.shape[:2])

    def normalise(self, pictures: Tensor) -> Tensor:
        """[B, 3, S, S] in [-1, 1] → the same with CLIP's mean and standard deviation taken out."""
        return (pictures.to(self.mean.dtype) * 0.5 + 0.5 - self.mean) / self.std

    @torch.no_grad()
    def null_features(self) -> Tensor:
        """Tokens of "no face": zeros after normalisation, as the official pipeline does. [1, 1, N, feature_dim]."""
        size = self.image_size
        return self._tokens(torch.zeros(1, 3, size, size, device=self.mean.device))[None]

    def _tokens(self, pixels: Tensor) -> Tensor:
        outputs = self.vision_model(pixels.to(self.vision_model.dtype), output_hidden_states=True)
        return outputs.hidden_states[-2]
