"""Projections of the IP-Adapter family that are not a plain resampler. Key names are those of the public files.

Letters: B batch · N encoder tokens · Q id tokens · D text width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from idanim.models.resampler import Resampler


class ImageProjection(nn.Module):
    """ip-adapter_sd15: CLIP's image embedding → Q tokens by one linear layer.

    Args:
        feature_dim: width of the image embedding (1024).
        output_dim: width of the tokens (768).
        num_queries: how many tokens (4).
    """

    def __init__(self, feature_dim: int, output_dim: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.proj = nn.Linear(feature_dim, num_queries * output_dim)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, 1, feature_dim] → [B, Q, D]."""
        return self.norm(self.proj(features[:, 0]).unflatten(-1, (self.num_queries, -1)))


class FaceIdProjection(nn.Module):
    """ip-adapter-faceid-portrait: an ArcFace vector → Q tokens by two linear layers.

    Args:
        feature_dim: width of the face vector (512).
        output_dim: width of the tokens (768).
        num_queries: how many tokens (16).
        hidden_dim: inner width (1024).
    """

    def __init__(self, feature_dim: int, output_dim: int, num_queries: int, hidden_dim: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.proj = _mlp(feature_dim, hidden_dim, num_queries * output_dim)
        self.norm = nn.LayerNorm(output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, 1, feature_dim] → [B, Q, D]."""
        return self.norm(self.proj(features[:, 0]).unflatten(-1, (self.num_queries, -1)))


class FaceIdPlusProjection(nn.Module):
    """ip-adapter-faceid-plusv2: tokens of an ArcFace vector that query CLIP's tokens.

    Args:
        face_dim: width of the face vector (512).
        hidden_dim: inner width of the layers on it (1024).
        num_queries: how many tokens (4).
        resampler: what they query with; its learnt latents are replaced by the tokens of the face.
        shortcut_scale: weight of the resampled part in tokens + scale · resampled (the "v2").
    """

    def __init__(
        self, face_dim: int, hidden_dim: int, num_queries: int, resampler: Resampler, shortcut_scale: float = 1.0
    ) -> None:
        super().__init__()
        output_dim = resampler.norm_out.normalized_shape[0]
        self.face_dim, self.num_queries, self.shortcut_scale = face_dim, num_queries, shortcut_scale
        self.proj = _mlp(face_dim, hidden_dim, num_queries * output_dim)
        self.norm = nn.LayerNorm(output_dim)
        self.perceiver_resampler = resampler

    def forward(self, features: Tensor) -> Tensor:
        """[B, N, face_dim + clip_dim] → [B, Q, D]; the face vector is in every row, CLIP's tokens beside it."""
        face, clip = features[:, 0, : self.face_dim], features[..., self.face_dim :]
        tokens = self.norm(self.proj(face).unflatten(-1, (self.num_queries, -1)))
        return tokens + self.shortcut_scale * self.perceiver_resampler.resample(clip, tokens)


def joined_features(face: Tensor, clip: Tensor) -> Tensor:
    """Features for `FaceIdPlusProjection`: face [..., face_dim] and CLIP tokens [..., N, clip_dim]."""
    return torch.cat([face[..., None, :].expand(*clip.shape[:-1], -1), clip], dim=-1)


def _mlp(feature_dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(feature_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, output_dim))
