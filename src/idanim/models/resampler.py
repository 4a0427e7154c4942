"""The resampler: learnable facial latent queries over the tokens of a frozen image encoder.

Parameter names and shapes are those of the public IP-Adapter-Plus and ID-Animator checkpoints.
Letters: B batch · N encoder tokens · Q queries · D inner width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from idanim.models.attention import softmax_attention_float32


class PerceiverAttention(nn.Module):
    """Queries attend to encoder tokens and to themselves."""

    def __init__(self, dim: int, dim_head: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        inner = dim_head * heads
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """tokens [B, N, D], latents [B, Q, D] → [B, Q, D]."""
        tokens, latents = self.norm1(tokens), self.norm2(latents)
        key, value = self.to_kv(torch.cat([tokens, latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(latents), key, value)
        )
        return self.to_out(softmax_attention_float32(query, key, value).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """Encoder tokens of any number → a fixed number of id tokens.

    Args:
        feature_dim: width of the encoder's tokens (1280 for CLIP ViT-H).
        output_dim: width of the id tokens, the text token width of the backbone (768 for SD1.5).
        num_queries: how many id tokens (16 in ID-Animator).
        dim: inner width; the output width by default.
        depth: number of blocks.
        dim_head: width of an attention head.
        heads: number of attention heads.
        ff_mult: hidden width of the feed-forward layers over `dim`.
    """

    def __init__(
        self,
        feature_dim: int,
        output_dim: int,
        num_queries: int = 16,
        dim: int | None = None,
        depth: int = 4,
        dim_head: int = 64,
        heads: int = 12,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        dim = dim or output_dim
        self.latents = nn.Parameter(torch.randn(1, num_queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(feature_dim, dim)
        self.proj_out = nn.Linear(dim, output_dim)
        self.norm_out = nn.LayerNorm(output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, dim_head, heads), _feed_forward(dim, ff_mult)]) for _ in range(depth)
        )

    @property
    def num_queries(self) -> int:
        """How many id tokens come out."""
        return self.latents.shape[1]

    def forward(self, features: Tensor) -> Tensor:
        """Encoder tokens [B, N, feature_dim] → id tokens [B, Q, output_dim]."""
        tokens = self.proj_in(features)
        latents = self.latents.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            latents = latents + attention(tokens, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


def _feed_forward(dim: int, mult: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, dim * mult, bias=False),
        nn.GELU(),
        nn.Linear(dim * mult, dim, bias=False),
    )
