"""Attention processors: plain text cross-attention and the decoupled one with face tokens.

Letters: V videos · F frames · B = V·F rows · S queries (latent cells) · L text tokens · Q id tokens ·
D context width · E hidden width. Context may come once per video ([V, ...]) or once per row ([B, ...]); keys
and values are computed before they are repeated for the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ContextCache:
    """Keys and values of a context that is the same at every step of a video: each layer computes them once.

    Outside of `video` nothing is stored. Inside, they hold for as long as the very same tensor comes in; another
    one starts anew. Of rows that are repeated for the frames, one a video is projected.
    """

    def __init__(self) -> None:
        self._num_frames: int | None = None
        self._context: Tensor | None = None
        self._stored: dict[int, tuple[Tensor, ...]] = {}

    @contextmanager
    def video(self, num_frames: int) -> Iterator[None]:
        """Store while one batch of videos of so many frames is sampled; not for training."""
        self._num_frames = num_frames
        try:
            yield
        finally:
            self._num_frames, self._context, self._stored = None, None, {}

    def projected(
        self, layer: object, context: Tensor, num_rows: int, project: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `project` makes of the context in this layer.

        Args:
            layer: whose projections they are.
            context: [V or B, L, D].
            num_rows: B.
            project: context → keys and values, each [V or B, T, E].
        """
        if self._num_frames is None:
            return project(context)
        if context is not self._context:
            self._context, self._stored = context, {}
        if id(layer) not in self._stored:
            repeats = self._num_frames if len(context) == num_rows else 1
            self._stored[id(layer)] = project(context[::repeats])
        return self._stored[id(layer)]


class TextAttentionProcessor:
    """Plain attention that takes its context once per video. No parameters.

    Args:
        cache: where keys and values of text are kept over the steps of a video.
    """

    def __init__(self, cache: ContextCache | None = None) -> None:
        self.cache = cache or ContextCache()

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
        key, value = self.cache.projected(attn, context, len(query), lambda rows: (attn.to_k(rows), attn.to_v(rows)))
        attended = attend(query, key, value, attn.heads)
        return attn.to_out[1](attn.to_out[0](attended))


class SelfAttentionProcessor:
    """Plain self-attention of spatial layers and motion modules. No parameters."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of `hidden_states` [B, S, E] on itself → [B, S, E]."""
        query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        return attn.to_out[1](attn.to_out[0](attend(query, key, value, attn.heads)))


class LowRank(nn.Module):
    """A low-rank addition to a linear layer: up(down(x)), zero at the start (official key names)."""

    def __init__(self, in_dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(in_dim, rank, bias=False)
        self.up = nn.Linear(rank, out_dim, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] → [..., out_dim], computed in the type of `x`: the weights in training may be wider."""
        return F.linear(F.linear(x, self.down.weight.to(x.dtype)), self.up.weight.to(x.dtype))


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
        self.observer: Callable[[Tensor, Tensor, int], None] | None = None  # is shown queries, face keys and heads
        self.to_k_face = nn.Linear(context_dim, hidden_dim, bias=False)
        self.to_v_face = nn.Linear(context_dim, hidden_dim, bias=False)
        self.has_lora = lora_rank > 0
        if self.has_lora:
            self.to_q_lora = LowRank(hidden_dim, hidden_dim, lora_rank)
            self.to_k_lora = LowRank(context_dim, hidden_dim, lora_rank)
            self.to_v_lora = LowRank(context_dim, hidden_dim, lora_rank)
            self.to_out_lora = LowRank(hidden_dim, hidden_dim, lora_rank)

    def forward(self, attn: Any, hidden_states: Tensor, context: Tensor, cache: ContextCache | None = None) -> Tensor:
        """Attention of [B, S, E] on [text | id tokens] [V or B, L + Q, D] → [B, S, E]."""
        query = attn.to_q(hidden_states)
        if self.has_lora:
            query = query + self.lora_scale * self.to_q_lora(hidden_states)

        def project(rows: Tensor) -> tuple[Tensor, ...]:
            return self._keys_values(attn, rows, query.dtype)

        projected = project(context) if cache is None else cache.projected(self, context, len(query), project)
        text_key, text_value, face_key, face_value = projected
        if self.observer is not None:
            self.observer(query, face_key, attn.heads)
        attended = attend(query, text_key, text_value, attn.heads)
        attended = attended + self.scale * attend(query, face_key, face_value, attn.heads)
        result = attn.to_out[0](attended)
        if self.has_lora:
            result = result + self.lora_scale * self.to_out_lora(attended)
        return attn.to_out[1](result)

    def _keys_values(self, attn: Any, context: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Keys and values of text, then of the face."""
        of_face = self.num_tokens * self.num_references
        text, face = context[:, :-of_face], context[:, -of_face:]
        key, value = attn.to_k(text), attn.to_v(text)
        if self.has_lora:
            key = key + self.lora_scale * self.to_k_lora(text)
            value = value + self.lora_scale * self.to_v_lora(text)
        face = face.to(self.to_k_face.weight.dtype)  # the adapter may be wider than a bfloat16 backbone
        return key, value, self.to_k_face(face).to(dtype), self.to_v_face(face).to(dtype)


class FaceAttentionProcessor:
    """Lets a diffusers attention layer call a `FaceAttention` or `LowRankAttention`.

    Not a module on purpose: diffusers registers processors that are modules as children of the backbone,
    and then the backbone's parameters, state dict and optimiser would hold the adapter too.
    """

    def __init__(self, face_attention: FaceAttention | LowRankAttention, cache: ContextCache | None = None) -> None:
        self.face_attention = face_attention
        self.cache = cache

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """See `FaceAttention.forward`."""
        if isinstance(self.face_attention, FaceAttention) and encoder_hidden_states is not None:
            return self.face_attention(attn, hidden_states, encoder_hidden_states, self.cache)
        return self.face_attention(attn, hidden_states, encoder_hidden_states)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention; keys and values of fewer rows hold for all frames of their video.

    Args:
        query: [B, S, E].
        key: [V or B, T, E].
        value: [V or B, T, E].
        heads: number of heads, divides E.

    Returns:
        [B, S, E].
    """
    shape = query.shape
    if query.is_cuda and torch.is_grad_enabled() and len(key) < len(query):
        # Backward kernels share out their work by keys: a few keys for all frames would leave most of a GPU idle.
        key, value = (x.repeat_interleave(len(query) // len(x), dim=0) for x in (key, value))
    query = query.reshape(key.shape[0], -1, shape[-1])  # the queries of all frames of a video in one row
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    kernel = softmax_attention if is_short(query, key) else F.scaled_dot_product_attention
    return kernel(query, key, value).transpose(1, 2).reshape(shape)


def is_short(query: Tensor, key: Tensor) -> bool:
    """Whether two plain matrix products replace a fused kernel, which works in tiles of 32 to 128 queries and keys.

    Measured by `benchmarks/kernels.py`. A motion module has 16 of each, in the toy world 8. Which kernel is faster
    also depends on whether there are gradients.

    Args:
        query: [B, H, S, d].
        key: [B, H, T, d].
    """
    queries, keys, width = query.shape[-2], key.shape[-2], query.shape[-1]
    if query.is_cuda:
        return torch.is_grad_enabled() and max(queries, keys) <= 32
    return width <= 32 and keys <= (16 if torch.is_grad_enabled() else 8)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention as two matrix products, whose softmax is summed in float32 or better.

    Args:
        query: [B, H, S, d].
        key: [B, H, T, d].
        value: [B, H, T, d].

    Returns:
        [B, H, S, d].
    """
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return torch.softmax(weights, dim=-1) @ value


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
