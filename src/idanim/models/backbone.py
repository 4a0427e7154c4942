"""The interface of a frozen text-to-video diffusion model that an adapter attaches to.

Nothing here speaks of UNets, noise prediction or four latent channels: a transformer trained by flow
matching fits as well. `idanim.models.animatediff` is the implementation for AnimateDiff on SD1.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from idanim.models.attention import ContextCache, TextAttentionProcessor
from idanim.models.blocks import BlockPlan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types that frozen weights may have, by their name in a configuration."""


class CrossAttentionLayer(NamedTuple):
    """An attention layer that an adapter may attach to.

    Attributes:
        number: position in the official ID-Animator and IP-Adapter key layout: odd, and even for self-attention.
        name: name of its attention processor in the backbone.
        hidden_dim: width of the queries.
        context_dim: width of the text tokens.
    """

    number: int
    name: str
    hidden_dim: int
    context_dim: int


class Latents(NamedTuple):
    """Posterior of encoded videos, in the backbone's own scale: mean and std, each [B, C, F, h, w] float."""

    mean: Tensor
    std: Tensor


class Diffused(NamedTuple):
    """A noised latent with what the backbone should answer.

    Attributes:
        latents: x_t, [B, C, F, h, w].
        timesteps: [B], in the backbone's own unit.
        target: what `predict` should return, [B, C, F, h, w].
        signal_share: [B] in [0, 1], the share of x_t's power that is signal: 1 where there is no noise.
    """

    latents: Tensor
    timesteps: Tensor
    target: Tensor
    signal_share: Tensor


class BackboneParts(NamedTuple):
    """The models of a backbone in the order of their work."""

    text: nn.Module
    denoiser: nn.Module
    autoencoder: nn.Module


class Backbone(nn.Module, ABC):
    """A frozen text-to-video diffusion model."""

    @property
    @abstractmethod
    def latent_fingerprint(self) -> str:
        """Names the weights that make latents: equal fingerprints give equal latents."""

    @property
    @abstractmethod
    def max_frames(self) -> int:
        """The longest video in frames."""

    @abstractmethod
    def cross_attention_layers(self) -> tuple[CrossAttentionLayer, ...]:
        """The layers that an adapter attaches to, in the order of `number`."""

    def self_attention_layers(self) -> tuple[CrossAttentionLayer, ...]:
        """The spatial self-attention layers (even numbers), for adapters with additions there."""
        return ()

    @abstractmethod
    def set_processors(self, processors: Mapping[str, Any] | None) -> None:
        """Replace the attention processors of the named layers; the others and None get the plain ones."""

    @abstractmethod
    def text_projections(self, layer: CrossAttentionLayer) -> tuple[Tensor, Tensor]:
        """The layer's own key and value weights for text, each [hidden_dim, context_dim]."""

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text tokens [B, L, D] of B prompts; "" is the null text."""

    @abstractmethod
    def encode_video(self, pixels: Tensor) -> Latents:
        """Encode [B, F, 3, H, W] float in [-1, 1]."""

    @abstractmethod
    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode [B, C, F, h, w] to [B, F, 3, H, W] float in [-1, 1]; gradients flow through it."""

    @abstractmethod
    def diffuse(self, latents: Tensor, noise: Tensor, uniform: Tensor) -> Diffused:
        """Noise clean latents [B, C, F, h, w] with `noise` at the times given by `uniform` [B] in [0, 1)."""

    @abstractmethod
    def predict(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The model's answer for x_t [B, C, F, h, w], times [B] and context tokens [B, L (+ Q), D]."""

    def text_processors(self, cache: ContextCache) -> dict[str, Any]:
        """Plain processors of the layers that an adapter attaches to, which keep keys and values in a cache."""
        return {layer.name: TextAttentionProcessor(cache) for layer in self.cross_attention_layers()}

    @abstractmethod
    def cut_text(self, prompt: str) -> str:
        """What of a prompt is beyond the length that the model reads; "" when it reads all."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the model was never taught, in lower case; none where it can't tell."""
        return []

    @property
    @abstractmethod
    def parts(self) -> BackboneParts:
        """The models that work one after another, so that each can be moved to a device by itself."""

    @property
    @abstractmethod
    def scheduler_config(self) -> Mapping[str, Any]:
        """Noise levels and prediction type, as diffusers' schedulers describe them."""

    @property
    @abstractmethod
    def multiple_of_px(self) -> int:
        """Heights and widths must be multiples of this."""

    @abstractmethod
    def decode_in(self, chunk_frames: int | None, tiled: bool) -> None:
        """Decode so many frames at once (None = as they are now), and in tiles or not, to save memory."""

    def run_blocks_by(self, plan: BlockPlan) -> None:
        """Recompute and compile in training as planned; a backbone that knows no blocks stays as it is."""

    @abstractmethod
    def clean(self, diffused: Diffused, prediction: Tensor) -> Tensor:
        """The clean latents [B, C, F, h, w] that `prediction` for `diffused` amounts to."""

    @abstractmethod
    def answer_for(self, diffused: Diffused, clean: Tensor) -> Tensor:
        """The prediction for `diffused` that amounts to these clean latents: the inverse of `clean`."""

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline over these weights that takes `prompt_embeds`."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type."""
        return next(self.parameters()).dtype
