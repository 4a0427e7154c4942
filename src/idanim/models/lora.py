"""LoRAs of others, added to the weights: W + weight · α/r · up · down.

Read are the key names of kohya-ss (`lora_unet_…lora_down.weight`), of diffusers and peft
(`unet.….lora_A.weight`, `….to_q_lora.down.weight`) and of AnimateDiff's motion LoRAs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from idanim.models.motion import diffusers_key
from idanim.models.weight_file import read_weights
from idanim.models.weight_kind import LORA, MOTION_LORA, require_kind
from idanim.types import IdanimError

_DOWN = re.compile(
    r"(?P<layer>.+?)(\.lora_down|\.lora_A|\.lora_A\.default|_lora\.down|\.lora\.down|\.lora_linear_layer\.down)\.weight"
)


class LowRankPair(NamedTuple):
    """One addition: up [out, r, …], down [r, in, …], and α (r where the file has none)."""

    up: Tensor
    down: Tensor
    alpha: float


def add_lora(unet: nn.Module, text_encoder: nn.Module, path: str | Path, weight: float = 1.0) -> int:
    """Add a LoRA or motion LoRA to the weights of the models, for good.

    Args:
        unet: by diffusers' module names.
        text_encoder: CLIP's text model.
        path: the LoRA's file.
        weight: how much of it.

    Returns:
        How many layers were changed.

    Raises:
        IdanimError: not a LoRA for SD1.5, or a key that fits no layer; the message names it.
    """
    file = read_weights(path)
    require_kind(file, LORA, MOTION_LORA)
    layers = _layers_by_name(unet, text_encoder)
    pairs = _pairs(file.tensors, str(file.path))
    for name, pair in pairs.items():
        if name not in layers:
            raise IdanimError(f"{file.path}: unknown key {name}: this backbone has no such layer")
        _add(layers[name], pair, weight, f"{file.path}: {name}")
    return len(pairs)


def _layers_by_name(unet: nn.Module, text_encoder: nn.Module) -> dict[str, nn.Module]:
    """Layers by each of the names that LoRA files have for them."""
    layers: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            layers |= {name: module, f"unet.{name}": module, f"lora_unet_{name.replace('.', '_')}": module}
    for name, module in text_encoder.named_modules():
        if isinstance(module, nn.Linear):
            full = f"text_model.{name.removeprefix('text_model.')}"
            layers |= {f"text_encoder.{full}": module, f"lora_te_{full.replace('.', '_')}": module}
    return layers


def _pairs(tensors: Mapping[str, Tensor], source: str) -> dict[str, LowRankPair]:
    pairs, used = {}, set()
    for key, down in tensors.items():
        match = _DOWN.fullmatch(key)
        if match is None:
            continue
        up_key = key.replace("lora_down", "lora_up").replace("lora_A", "lora_B").replace(".down.", ".up.")
        if up_key not in tensors:
            raise IdanimError(f"{source}: missing key {up_key}")
        alpha_key = f"{match['layer']}.alpha"
        alpha = float(tensors[alpha_key]) if alpha_key in tensors else float(down.shape[0])
        used |= {key, up_key, alpha_key}
        pairs[_layer_name(match["layer"])] = LowRankPair(tensors[up_key], down, alpha)
    unknown = sorted(tensors.keys() - used)
    if unknown:
        raise IdanimError(f"{source}: unknown key {unknown[0]} in a LoRA ({len(unknown)} in all)")
    return pairs


def _layer_name(layer: str) -> str:
    """Name of the layer in our models; attention outputs are `to_out.0` there."""
    name = diffusers_key(layer.replace(".processor", ""))
    return f"{name}.0" if name.endswith(".to_out") else name


@torch.no_grad()
def _add(layer: nn.Module, pair: LowRankPair, weight: float, source: str) -> None:
    target = layer.weight
    assert isinstance(target, Tensor)
    up, down = pair.up.float().flatten(1), pair.down.float().flatten(1)
    if up.shape[1] != down.shape[0] or up.shape[0] * down.shape[1] != target.numel():
        raise IdanimError(f"{source} has shapes {tuple(up.shape)} and {tuple(down.shape)}, for {tuple(target.shape)}")
    addition = weight * pair.alpha / down.shape[0] * (up @ down)
    target.add_(addition.view(target.shape).to(target.dtype).to(target.device))
