"""The face adapter: the only trainable part.

Its state dict is the official ID-Animator layout: `image_proj_model.*` (resampler) and
`adapter_modules.<i>.*` (decoupled attention, i = number of the cross-attention layer).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from idanim.models.attention import FaceAttention, FaceAttentionProcessor
from idanim.models.backbone import Backbone
from idanim.models.resampler import Resampler


class FaceAdapter(nn.Module):
    """Turns features of a face into id tokens and lets the backbone attend to them.

    Args:
        backbone: the frozen model it will attach to; gives the layers and their widths.
        feature_dim: width of the face encoder's tokens.
        num_queries: facial latent queries, that is id tokens (16 in the paper).
        depth: blocks of the resampler.
        dim: inner width of the resampler; the text width by default.
        dim_head: width of a head in the resampler.
        heads: heads of the resampler.
        scale: λ of Eq. 1.
        lora_rank: rank of the low-rank additions of the official checkpoint (128 there, 0 = none as in
            the paper's text).
    """

    def __init__(
        self,
        backbone: Backbone,
        feature_dim: int,
        num_queries: int = 16,
        depth: int = 4,
        dim: int | None = None,
        dim_head: int = 64,
        heads: int = 12,
        scale: float = 1.0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__()
        layers = backbone.cross_attention_layers()
        output_dim = layers[0].context_dim
        self.layer_names = {str(layer.number): layer.name for layer in layers}
        self.image_proj_model = Resampler(feature_dim, output_dim, num_queries, dim, depth, dim_head, heads)
        self.adapter_modules = nn.ModuleDict(
            {
                str(layer.number): FaceAttention(layer.hidden_dim, layer.context_dim, num_queries, scale, lora_rank)
                for layer in layers
            }
        )
        self._copy_text_projections(backbone)

    @torch.no_grad()
    def _copy_text_projections(self, backbone: Backbone) -> None:
        """Start from the backbone's own text keys and values, as IP-Adapter does."""
        for layer in backbone.cross_attention_layers():
            key, value = backbone.text_projections(layer)
            face_attention = cast(FaceAttention, self.adapter_modules[str(layer.number)])
            face_attention.to_k_face.weight.copy_(key)
            face_attention.to_v_face.weight.copy_(value)

    @property
    def scale(self) -> float:
        """λ of Eq. 1: how much the face counts."""
        return self._face_attentions()[0].scale

    @scale.setter
    def scale(self, value: float) -> None:
        for face_attention in self._face_attentions():
            face_attention.scale = value

    def _face_attentions(self) -> list[FaceAttention]:
        return [cast(FaceAttention, module) for module in self.adapter_modules.values()]

    def attach(self, backbone: Backbone) -> None:
        """Make the backbone attend to id tokens: from now on its context is [text | id tokens]."""
        pairs = zip(self.layer_names.values(), self._face_attentions(), strict=True)
        backbone.set_processors({name: FaceAttentionProcessor(module) for name, module in pairs})

    def id_tokens(self, features: Tensor) -> Tensor:
        """Id tokens of persons; the tokens of several references are averaged.

        Args:
            features: [B, R, N, feature_dim] tokens of R references of each person.

        Returns:
            [B, Q, D].
        """
        tokens = self.image_proj_model(features.flatten(0, 1))
        return tokens.unflatten(0, features.shape[:2]).mean(dim=1)
