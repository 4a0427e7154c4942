"""Attention processors: plain text cross-attention and the decoupled one with face tokens.

Letters: V videos · F frames · B = V·F rows · S queries (latent cells) · L text tokens · Q id tokens ·
D context width · E hidden width. Context may come once per video ([V, ...]) or once per row ([B, ...]); keys
and values are computed before they are repeated for the frames.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TextAttentionProcessor:
    """Plain attention that takes its context once per video. No parameters."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of `hidden_states` [B, S, E] on text [V or B, L, D] → [B, S, E]."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        attended = attend(query, attn.to_k(context), attn.to_v(context), attn.heads)
        return attn.to_out[1](attn.to_out[0](attended))


class LowRank(nn.Module):
    """A low-rank addition to a linear layer: up(down(x)), zero at the start (official key names)."""

    def __init__(self, in_dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_dim, rank, bias=False)
        self.up = nn.Linear(rank, out_dim, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] → [..., out_dim] in the type of `x`; computed in that of the weights."""
        return self.up(self.down(x.to(self.down.weight.dtype))).to(x.dtype)


class LowRankAttention(nn.Module):
    """Plain attention with low-rank additions on q, k, v and out: the self-attention of IP-Adapter FaceID-plus."""

    def __init__(self, hidden_dim: int, context_dim: int, lora_rank: int) -> None:
        super().__init__()
        self.lora_scale = 1.0
        self.to_q_lora = LowRank(hidden_dim, hidden_dim, lora_rank)
        self.to_k_lora = LowRank(context_dim, hidden_dim, lora_rank)
        self.to_v_lora = LowRank(context_dim, hidden_dim, lora_rank)
        self.to_out_lora = LowRank(hidden_dim, hidden_dim, lora_rank)

    def forward(self, attn: Any, hidden_states: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention of [B, S, E] on itself or on context [V or B, L, D] → [B, S, E]."""
        context = hidden_states if context is None else context
        query = attn.to_q(hidden_states) + self.lora_scale * self.to_q_lora(hidden_states)
        key = attn.to_k(context) + self.lora_scale * self.to_k_lora(context)
        value = attn.to_v(context) + self.lora_scale * self.to_v_lora(context)
        attended = attend(query, key, value, attn.heads)
        return attn.to_out[1](attn.to_out[0](attended) + self.lora_scale * self.to_out_lora(attended))


class FaceAttention(nn.Module):
    r"""Decoupled cross-attention of text and face (ID-Animator Eq. 1).

    .. math:: Z = \mathrm{Attn}(Q, K_t, V_t) + \lambda \, \mathrm{Attn}(Q, K_i, V_i)

    λ is `scale`. With `lora_rank` > 0 the text path gets low-rank additions on q, k, v and out, as in the
    official checkpoint; `scale` does not switch those off. Of the context the last `num_references` · `num_tokens`
    are the face's.
    """

    def __init__(self, hidden_dim: int, context_dim: int, num_tokens: int, scale: float, lora_rank: int = 0) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.num_references = 1
        self.scale = scale
        self.lora_scale = 1.0
        self.to_k_face = nn.Linear(context_dim, hidden_dim, bias=False)
        self.to_v_face = nn.Linear(context_dim, hidden_dim, bias=False)
        self.has_lora = lora_rank > 0
        if self.has_lora:
            self.to_q_lora = LowRank(hidden_dim, hidden_dim, lora_rank)
            self.to_k_lora = LowRank(context_dim, hidden_dim, lora_rank)
            self.to_v_lora = LowRank(context_dim, hidden_dim, lora_rank)
            self.to_out_lora = LowRank(hidden_dim, hidden_dim, lora_rank)

    def forward(self, attn: Any, hidden_states: Tensor, context: Tensor) -> Tensor:
        """Attention of [B, S, E] on [text | id tokens] [V or B, L + Q, D] → [B, S, E]."""
        of_face = self.num_tokens * self.num_references
        text, face = context[:, :-of_face], context[:, -of_face:]
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if self.has_lora:
            query = query + self.lora_scale * self.to_q_lora(hidden_states)
            key = key + self.lora_scale * self.to_k_lora(text)
            value = value + self.lora_scale * self.to_v_lora(text)
        attended = attend(query, key, value, attn.heads)
        face = face.to(self.to_k_face.weight.dtype)  # the adapter may be wider than a bfloat16 backbone
        key, value = (project(face).to(query.dtype) for project in (self.to_k_face, self.to_v_face))
        attended = attended + self.scale * attend(query, key, value, attn.heads)
        result = attn.to_out[0](attended)
        if self.has_lora:
            result = result + self.lora_scale * self.to_out_lora(attended)
        return attn.to_out[1](result)


class FaceAttentionProcessor:
    """Lets a diffusers attention layer call a `FaceAttention` or `LowRankAttention`.

    Not a module on purpose: diffusers registers processors that are modules as children of the backbone,
    and then the backbone's parameters, state dict and optimiser would hold the adapter too.
    """

    def __init__(self, face_attention: FaceAttention | LowRankAttention) -> None:
        self.face_attention = face_attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See `FaceAttention.forward`."""
        return self.face_attention(attn, hidden_states, encoder_hidden_states)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention; keys and values of fewer rows are repeated for the frames of their video.

    Args:
        query: [B, S, E].
        key: [V or B, T, E].
        value: [V or B, T, E].
        heads: number of heads, divides E.

    Returns:
        [B, S, E].
    """
    repeats = query.shape[0] // key.shape[0]
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, dim=0) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def has_nothing_but_projections(attn: Any) -> bool:
    """Whether a diffusers attention layer is plain: no norms, residual or rescaling inside."""
    return (
        attn.spatial_norm is None
        and attn.group_norm is None
        and not attn.norm_cross
        and attn.norm_q is None
        and attn.norm_k is None
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
    )


def softmax_attention_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention whose softmax is taken in float32, with queries and keys scaled by d^(-1/4) each.

    Args:
        query: [B, H, S, d].
        key: [B, H, T, d].
        value: [B, H, T, d].

    Returns:
        [B, H, S, d].
    """
    scale = query.shape[-1] ** -0.25
    weights = (query * scale) @ (key * scale).transpose(-2, -1)
    return torch.softmax(weights.float(), dim=-1).to(value.dtype) @ value
