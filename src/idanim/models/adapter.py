"""The face adapter: the only trainable part.

Its state dict is the official ID-Animator layout: `image_proj_model.*` (resampler) and
`adapter_modules.<i>.*` (decoupled attention, i = number of the cross-attention layer).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from idanim.models.adapter_file import (
    MODULES,
    AdapterFile,
    build_projection,
    read_adapter_file,
    write_adapter_file,
)
from idanim.models.adapter_start import resized
from idanim.models.attention import ContextCache, FaceAttention, FaceAttentionProcessor, LowRankAttention
from idanim.models.backbone import Backbone
from idanim.models.checkpoint import load_strictly
from idanim.models.projections import FaceIdProjection
from idanim.models.resampler import Resampler
from idanim.types import IdanimError


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
        init: a file to start from, for instance ip-adapter-plus-face_sd15: an adapter of the same projection
            and sizes. Low-rank additions that it lacks start at zero effect.
        init_attention: a file whose keys and values alone are taken; the projection starts fresh.
        resize_init: let the resampler of `init` have another number of queries or narrower features, see `resized`.
        fresh_attention: start keys and values at random, not from the backbone's own for text.
        projection: what makes the tokens; by default a resampler of the sizes above.
        self_attention_lora: also low-rank additions on self-attention (IP-Adapter FaceID-plus).
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
        init: str | None = None,
        init_attention: str | None = None,
        resize_init: bool = False,
        fresh_attention: bool = False,
        projection: nn.Module | None = None,
        self_attention_lora: bool = False,
    ) -> None:
        super().__init__()
        layers = backbone.cross_attention_layers()
        if projection is None:
            projection = Resampler(feature_dim, layers[0].context_dim, num_queries, dim, depth, dim_head, heads)
        self.image_proj_model = projection
        modules: dict[int, FaceAttention | LowRankAttention] = {
            layer.number: FaceAttention(layer.hidden_dim, layer.context_dim, num_queries, scale, lora_rank)
            for layer in layers
        }
        if self_attention_lora:
            layers = (*layers, *backbone.self_attention_layers())
            for layer in backbone.self_attention_layers():
                modules[layer.number] = LowRankAttention(layer.hidden_dim, layer.context_dim, lora_rank)
        names = {layer.number: layer.name for layer in layers}
        self.layer_names = {str(number): names[number] for number in sorted(names)}
        self.adapter_modules = nn.ModuleDict({str(number): modules[number] for number in sorted(modules)})
        if not fresh_attention:
            self._copy_text_projections(backbone)
        if init is not None:
            self.start_from(read_adapter_file(init), resize_init)
        if init_attention is not None:
            self._take_attention(read_adapter_file(init_attention))

    @classmethod
    def from_file(cls, path: str | Path, backbone: Backbone, scale: float = 1.0, dim_head: int = 64) -> FaceAdapter:
        """Read an official, IP-Adapter or own file; its sizes come from its shapes.

        Args:
            path: see `idanim.models.adapter_file` for the formats.
            backbone: the frozen model it will attach to.
            scale: λ of Eq. 1.
            dim_head: width of a head in its resampler, which the shapes don't tell (64 in all public files).

        Raises:
            IdanimError: not an adapter, or one whose keys or shapes don't fit; the message names them.
        """
        return cls.of_file(read_adapter_file(path), backbone, scale, dim_head)

    @classmethod
    def of_file(cls, file: AdapterFile, backbone: Backbone, scale: float = 1.0, dim_head: int = 64) -> FaceAdapter:
        """See `from_file`."""
        projection = build_projection(file, dim_head)
        adapter = cls(
            backbone,
            feature_dim=0,
            num_queries=cast(int, projection.num_queries),
            scale=scale,
            lora_rank=file.lora_rank,
            projection=projection,
            self_attention_lora=any(number % 2 == 0 for number in file.lora_layers),
        )
        load_strictly(adapter, file.state, str(file.path))
        return adapter

    def to_file(self, path: str | Path, layout: str) -> None:
        """Write the weights for other programs; for our own format see `idanim.models.checkpoint`.

        Args:
            path: file to write.
            layout: "official" (animator.ckpt) or "ip_adapter" (.bin or .safetensors).

        Raises:
            IdanimError: the layout can't hold this adapter.
        """
        write_adapter_file(Path(path), self.state_dict(), layout)

    def start_from(self, file: AdapterFile, resize: bool = False) -> None:
        """Take the weights of a file as they are; only low-rank additions may be missing there.

        Args:
            file: an adapter of the same projection.
            resize: fit its resampler to this one's sizes first, see `resized`.

        Raises:
            IdanimError: a key is unknown, missing or of another shape.
        """
        fresh = {key: tensor for key, tensor in self.state_dict().items() if "_lora." in key}
        keep = fresh if not file.lora_layers else {}
        state = resized(file.state, self.state_dict()) if resize else file.state
        load_strictly(self, {**keep, **state}, str(file.path))

    def _take_attention(self, file: AdapterFile) -> None:
        own = self.state_dict()
        taken = {key: tensor for key, tensor in file.state.items() if key.startswith(MODULES)}
        kept = {key: tensor for key, tensor in own.items() if not key.startswith(MODULES) or "_lora." in key}
        load_strictly(self, {**kept, **taken}, str(file.path))

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
        return self._first.scale

    @scale.setter
    def scale(self, value: float) -> None:
        for face_attention in self.face_attentions().values():
            face_attention.scale = value

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def num_queries(self) -> int:
        """Id tokens of one reference."""
        return self._first.num_tokens

    @property
    def concatenates(self) -> bool:
        """Whether the tokens of several references stand side by side (FaceID-portrait) instead of being averaged."""
        return isinstance(self.image_proj_model, FaceIdProjection)

    @property
    def num_references(self) -> int:
        """How many references' tokens are in the context: 1 where they are averaged."""
        return self._first.num_references

    @num_references.setter
    def num_references(self, value: int) -> None:
        if value < 1 or (value > 1 and not self.concatenates):
            raise IdanimError(f"num_references={value}: expected 1, as this adapter averages its references")
        for face_attention in self.face_attentions().values():
            face_attention.num_references = value

    @property
    def _first(self) -> FaceAttention:
        return next(iter(self.face_attentions().values()))

    def face_attentions(self) -> dict[str, FaceAttention]:
        """The layers that attend to id tokens, by the name of their attention processor in the backbone."""
        pairs = zip(self.layer_names.values(), self.adapter_modules.values(), strict=True)
        return {name: module for name, module in pairs if isinstance(module, FaceAttention)}

    def attach(self, backbone: Backbone, cache: ContextCache | None = None) -> None:
        """Make the backbone attend to id tokens: from now on its context is [text | id tokens].

        Args:
            backbone: the model.
            cache: where keys and values are kept over the steps of a video.
        """
        backbone.set_processors(self.processors(cache))

    def processors(self, cache: ContextCache | None = None) -> dict[str, FaceAttentionProcessor]:
        """What lets each attention layer of the backbone, by name, attend to id tokens."""
        pairs = zip(self.layer_names.values(), self.adapter_modules.values(), strict=True)
        return {name: FaceAttentionProcessor(cast(FaceAttention, module), cache) for name, module in pairs}

    def id_tokens(self, features: Tensor) -> Tensor:
        """Id tokens of persons; those of several references are averaged, or stand side by side: `concatenates`.

        Args:
            features: [B, R, N, feature_dim] tokens of R references of each person. FaceID adapters take the ArcFace
                vector of unit length, N = 1.

        Returns:
            [B, Q, D], or [B, R·Q, D] side by side.

        Raises:
            IdanimError: side by side, and R is not `num_references`.
        """
        tokens = self.image_proj_model(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        if not self.concatenates:
            return tokens.mean(dim=1)
        if features.shape[1] != self.num_references:
            raise IdanimError(f"{features.shape[1]} references, but the adapter's num_references={self.num_references}")
        return tokens.flatten(1, 2)
