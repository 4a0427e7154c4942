"""Stable Diffusion 1.5: sizes of its parts, and single-file checkpoints with LDM key names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from idanim.models.weight_file import WeightFile, read_weights
from idanim.models.weight_kind import SD15, require_kind
from idanim.models.weight_kind import VAE as VAE_KIND
from idanim.types import IdanimError

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "num_attention_heads": 8,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
IMAGE_ENCODER: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
"""CLIP ViT-H/14, the image encoder of the IP-Adapters for SD1.5."""

_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
_SCHEDULE = ("betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "logvar", "scale_factor", "lvlb_")
_IGNORED = ("model_ema.", "first_stage_model.loss.", "cond_stage_model.logit_scale", *_SCHEDULE)


@dataclass(frozen=True)
class SingleFile:
    """A community checkpoint, by diffusers' key names.

    Attributes:
        path: where it was read.
        unet: the spatial UNet.
        vae: None where the file has none.
        text_encoder: CLIP's text model, without the prefix `text_model.`.
    """

    path: Path
    unet: dict[str, Tensor]
    vae: dict[str, Tensor] | None
    text_encoder: dict[str, Tensor]


def read_single_file(path: str | Path) -> SingleFile:
    """Read an SD1.5 checkpoint with LDM keys, .safetensors or .ckpt, with or without VAE.

    Raises:
        IdanimError: damaged, of another model, or with unknown keys; the message names them.
    """
    return parse_single_file(read_weights(path))


def parse_single_file(file: WeightFile) -> SingleFile:
    """See `read_single_file`."""
    require_kind(file, SD15)
    tensors = {
        key: tensor
        for key, tensor in file.tensors.items()
        if not key.startswith(_IGNORED) and not key.endswith("embeddings.position_ids")
    }
    unknown = [key for key in tensors if not key.startswith((_UNET, _VAE, _TEXT))]
    unet = {key: t for key, t in tensors.items() if key.startswith(_UNET)}
    vae = {key: t for key, t in tensors.items() if key.startswith(_VAE)}
    text = {key: t for key, t in tensors.items() if key.startswith(_TEXT)}
    # The converters change their input and pass over keys that they don't know.
    new_unet = convert_ldm_unet_checkpoint(dict(unet), {"layers_per_block": UNET["layers_per_block"]})
    unknown += _passed_over(unet, new_unet)
    if unknown:
        raise IdanimError(f"{file.path}: unknown key {unknown[0]} in an SD1.5 checkpoint ({len(unknown)} in all)")
    new_vae = _converted_vae(file.path, vae) if vae else None
    prefix = f"{_TEXT}text_model."
    return SingleFile(file.path, new_unet, new_vae, {key.removeprefix(prefix): t for key, t in text.items()})


def read_vae(path: str | Path) -> dict[str, Tensor]:
    """Read a VAE file of its own, such as vae-ft-mse-840000-ema-pruned, with LDM or diffusers keys.

    Returns:
        Tensors by diffusers' key names.

    Raises:
        IdanimError: damaged, of another kind, or with unknown keys; the message names them.
    """
    file = read_weights(path)
    require_kind(file, VAE_KIND)
    tensors = {key.removeprefix(_VAE): tensor for key, tensor in file.tensors.items()}
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(("loss.", "model_ema."))}
    if any(".down_blocks." in key for key in tensors):
        return tensors
    return _converted_vae(file.path, {f"{_VAE}{key}": tensor for key, tensor in tensors.items()})


def _converted_vae(path: Path, vae: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = convert_ldm_vae_checkpoint(dict(vae), VAE)
    unknown = _passed_over(vae, converted)
    if unknown:
        raise IdanimError(f"{path}: unknown key {unknown[0]} in an SD1.5 VAE ({len(unknown)} in all)")
    return converted


def _passed_over(source: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> list[str]:
    kept = {id(tensor) for tensor in converted.values()}
    # Of the VAE's attention the 1 × 1 convolutions become new tensors, matrices.
    return [key for key, t in source.items() if id(t) not in kept and ".attn_1." not in key]
