"""Adapters, and adapter files of others, with the widths of the tiny backbone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone

WIDTH, CLIP, FACE = 32, 48, 12


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


def small_adapter(backbone: AnimateDiffBackbone, lora_rank: int = 0) -> FaceAdapter:
    torch.manual_seed(3)
    adapter = FaceAdapter(backbone, CLIP, num_queries=4, depth=2, dim_head=8, heads=2, lora_rank=lora_rank)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return adapter


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def faceid_plus_state(backbone: AnimateDiffBackbone) -> dict[str, Tensor]:
    """IP-Adapter FaceID-plusv2 with the widths of the tiny backbone."""
    shapes: dict[str, tuple[int, ...]] = {
        "proj.0.weight": (24, FACE),
        "proj.0.bias": (24,),
        "proj.2.weight": (4 * WIDTH, 24),
        "proj.2.bias": (4 * WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    inner = small_adapter(backbone).image_proj_model.state_dict()
    shapes |= {f"perceiver_resampler.{k}": tuple(t.shape) for k, t in inner.items() if k != "latents"}
    shapes = {f"image_proj.{k}": s for k, s in shapes.items()}
    for layer in (*backbone.cross_attention_layers(), *backbone.self_attention_layers()):
        for part in "q", "k", "v", "out":
            source = layer.context_dim if part in "kv" else layer.hidden_dim
            shapes[f"ip_adapter.{layer.number}.to_{part}_lora.down.weight"] = (3, source)
            shapes[f"ip_adapter.{layer.number}.to_{part}_lora.up.weight"] = (layer.hidden_dim, 3)
        if layer.number % 2:
            for part in "k", "v":
                shapes[f"ip_adapter.{layer.number}.to_{part}_ip.weight"] = (layer.hidden_dim, layer.context_dim)
    return random_state(shapes)


def portrait_state(backbone: AnimateDiffBackbone, queries: int = 3) -> dict[str, Tensor]:
    """IP-Adapter FaceID-portrait with the widths of the tiny backbone."""
    shapes: dict[str, tuple[int, ...]] = {
        "image_proj.proj.0.weight": (24, FACE),
        "image_proj.proj.0.bias": (24,),
        "image_proj.proj.2.weight": (queries * WIDTH, 24),
        "image_proj.proj.2.bias": (queries * WIDTH,),
        "image_proj.norm.weight": (WIDTH,),
        "image_proj.norm.bias": (WIDTH,),
    }
    for layer in backbone.cross_attention_layers():
        for part in "k", "v":
            shapes[f"ip_adapter.{layer.number}.to_{part}_ip.weight"] = (layer.hidden_dim, layer.context_dim)
    return random_state(shapes)
