"""Conditioning on face recognition vectors, as IP-Adapter FaceID does, instead of or beside CLIP tokens.

(tencent-ailab/IP-Adapter `ip_adapter/ip_adapter_faceid.py`.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.models.adapter import FaceAdapter
from idanim.models.backbone import Backbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.face_alignment import ARCFACE_SIZE_PX
from idanim.models.projections import FaceIdProjection, joined_features
from idanim.models.recogniser import FaceRecogniser


class ArcFaceEncoder(nn.Module):
    """The face recognition vector, of unit length; the null face is zero.

    Args:
        recogniser: frozen. It must not be the one that videos are measured with.
    """

    def __init__(self, recogniser: FaceRecogniser) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.image_size = ARCFACE_SIZE_PX
        grey = torch.zeros(1, 1, 3, ARCFACE_SIZE_PX, ARCFACE_SIZE_PX, device=self._device())
        self.feature_dim = int(self.encode(grey).shape[-1])

    def _device(self) -> torch.device:
        return next(self.recogniser.buffers()).device

    @torch.no_grad()
    def encode(self, references: Tensor) -> Tensor:
        """Embed aligned faces [B, R, 3, 112, 112] in [-1, 1]: [B, R, 1, feature_dim]."""
        return self.recogniser(references.flatten(0, 1).float()).unflatten(0, references.shape[:2])[:, :, None]

    def null_features(self) -> Tensor:
        """Features of "no face": zeros, [1, 1, 1, feature_dim]."""
        return torch.zeros(1, 1, 1, self.feature_dim, device=self._device())


class ClipArcFaceEncoder(nn.Module):
    """CLIP tokens with the face recognition vector beside each (FaceID-plus).

    Args:
        clip: gives the tokens, and the size of the pictures.
        arcface: gives the vector, from the same pictures at its own size.
    """

    def __init__(self, clip: ClipFaceEncoder, arcface: ArcFaceEncoder) -> None:
        super().__init__()
        self.clip = clip
        self.arcface = arcface
        self.image_size = clip.image_size
        self.feature_dim = arcface.feature_dim + clip.feature_dim

    @torch.no_grad()
    def encode(self, references: Tensor) -> Tensor:
        """Describe aligned faces [B, R, 3, S, S] in [-1, 1]: [B, R, N, vector | tokens]."""
        size = (ARCFACE_SIZE_PX, ARCFACE_SIZE_PX)
        crops = F.interpolate(references.flatten(0, 1).float(), size, mode="bilinear", antialias=True)
        face = self.arcface.encode(crops.unflatten(0, references.shape[:2]))[:, :, 0]
        tokens = self.clip.encode(references)
        return joined_features(face.to(tokens), tokens)

    def null_features(self) -> Tensor:
        """Features of "no face", [1, 1, N, feature_dim]: a zero vector beside CLIP's null tokens."""
        tokens = self.clip.null_features()
        return joined_features(self.arcface.null_features()[:, :, 0].to(tokens), tokens)


def face_id_adapter(
    backbone: Backbone,
    feature_dim: int,
    num_queries: int = 16,
    hidden_dim: int = 1024,
    scale: float = 1.0,
    lora_rank: int = 0,
    init: str | None = None,
    init_attention: str | None = None,
) -> FaceAdapter:
    """Build an adapter that makes id tokens of one face vector by two linear layers (FaceID-portrait).

    Args:
        backbone: the frozen model it will attach to.
        feature_dim: width of the face vector.
        num_queries: id tokens.
        hidden_dim: width of the inner layer.
        scale: λ of Eq. 1.
        lora_rank: see `FaceAdapter`.
        init: a FaceID-portrait file, or one of our own, to start from.
        init_attention: a file whose keys and values alone are taken; see `FaceAdapter`.
    """
    width = backbone.cross_attention_layers()[0].context_dim
    projection = FaceIdProjection(feature_dim, width, num_queries, hidden_dim)
    return FaceAdapter(
        backbone,
        feature_dim,
        num_queries,
        scale=scale,
        lora_rank=lora_rank,
        init=init,
        init_attention=init_attention,
        projection=projection,
    )
