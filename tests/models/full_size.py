"""The public files at full size, without their values: keys and shapes as meta tensors, and the real architecture."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNetMotionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.weight_file import WeightFile

KEYS = Path(__file__).parent / "keys"


def public(name: str) -> dict[str, Tensor]:
    """Every tensor of a public file, on the meta device."""
    shapes = json.loads((KEYS / f"{name}.json").read_text())
    return {key: torch.empty(s["shape"] if isinstance(s, dict) else s, device="meta") for key, s in shapes.items()}


def public_file(name: str) -> WeightFile:
    return WeightFile(Path(name), public(name), {})


@cache
def meta_backbone() -> AnimateDiffBackbone:
    """SD1.5 with motion modules (v2: also in the middle) at full size; VAE and text encoder are small."""
    with torch.device("meta"):
        unet = UNetMotionModel(cross_attention_dim=768)
        text = CLIPTextModel(CLIPTextConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
        vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4)
        return AnimateDiffBackbone(unet, vae, text, None, animatediff_scheduler())
