"""The models of a training step with random weights, at the sizes of the public files or scaled down for a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNetMotionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.models import sd15
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.tiny import byte_tokenizer


@dataclass(frozen=True)
class Sizes:
    """Sizes of all models and of a clip.

    Attributes:
        unet: arguments of `UNetMotionModel`.
        vae: arguments of `AutoencoderKL`.
        text: of CLIP's text model.
        image_encoder: of CLIP's vision model.
        resampler: of the adapter.
        frames: frames of a clip.
        side_px: side of a clip.
        matmul: side of the matrix product that gives the ceiling.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    image_encoder: dict[str, Any]
    resampler: dict[str, Any]
    frames: int
    side_px: int
    matmul: int


FULL = Sizes(
    {**sd15.UNET, "use_motion_mid_block": True},
    sd15.VAE,
    sd15.TEXT,
    sd15.IMAGE_ENCODER,
    {"depth": 4, "dim_head": 64, "heads": 12},
    16,
    512,
    8192,
)
"""SD1.5, motion modules v2, CLIP ViT-H/14, the paper's clip: 16 frames of 512²."""

SMALL = Sizes(
    {
        "sample_size": 16,
        "block_out_channels": (32, 64, 128, 128),
        "layers_per_block": 2,
        "cross_attention_dim": 64,
        "num_attention_heads": 4,
        "motion_num_attention_heads": 4,
        "use_motion_mid_block": True,
    },
    {**sd15.VAE, "block_out_channels": (32, 64, 128, 128), "sample_size": 128},
    {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    {
        "hidden_size": 80,
        "intermediate_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 112,
        "projection_dim": 64,
    },
    {"depth": 4, "dim_head": 64, "heads": 2},  # diffusers knows no other depth or width of a head
    8,
    128,
    1024,
)
"""The same layers, a tenth as wide; the VAE keeps its share of the work."""


@contextmanager
def _made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build_unet(sizes: Sizes, device: torch.device, dtype: torch.dtype, seed: int = 0) -> UNetMotionModel:
    """The stock UNet, made where it stays; equal seeds give equal weights."""
    torch.manual_seed(seed)
    with _made_on(device, dtype):
        return UNetMotionModel(**sizes.unet)


def build_backbone(sizes: Sizes, device: torch.device, dtype: torch.dtype, seed: int = 0) -> AnimateDiffBackbone:
    """The frozen backbone around `build_unet`."""
    unet = build_unet(sizes, device, dtype, seed)
    tokenizer, scheduler = byte_tokenizer(), animatediff_scheduler()
    with _made_on(device, dtype):
        vae = AutoencoderKL(**sizes.vae)
        text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokenizer), **sizes.text))
        return AnimateDiffBackbone(unet, vae, text, tokenizer, scheduler)


def build_encoder(sizes: Sizes, device: torch.device, dtype: torch.dtype, seed: int = 0) -> ClipFaceEncoder:
    """The frozen face encoder, made where it stays."""
    torch.manual_seed(seed)
    with _made_on(device, dtype):
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes.image_encoder))
    return ClipFaceEncoder(model).to(device)


def build_adapter(sizes: Sizes, backbone: AnimateDiffBackbone, feature_dim: int, seed: int = 0) -> FaceAdapter:
    """The adapter in float32."""
    torch.manual_seed(seed)
    return FaceAdapter(backbone, feature_dim, **sizes.resampler).to(backbone.device)
