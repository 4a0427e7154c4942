"""What a file of weights is, told from its keys and shapes, so that a wrong file is named for what it is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from idanim.models.weight_file import WeightFile
from idanim.types import IdanimError

ADAPTER = "a face adapter (ID-Animator)"
IP_ADAPTER = "an IP-Adapter for SD1.5"
IP_ADAPTER_SDXL = "an IP-Adapter for SDXL"
MOTION = "AnimateDiff motion modules"
MOTION_DIFFUSERS = "AnimateDiff motion modules in diffusers layout"
SPARSE_CONTROL = "a SparseCtrl network"
SD15 = "an SD1.5 checkpoint"
SDXL = "an SDXL checkpoint"
SD2 = "an SD2 checkpoint"
LORA = "a LoRA"
LORA_SDXL = "a LoRA for SDXL"
MOTION_LORA = "a motion LoRA"
CONTROLNET = "a ControlNet"
VAE = "a VAE"
IMAGE_ENCODER = "a CLIP image encoder"
UNKNOWN = "a file of unknown kind"

_TEXT_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """One of the kinds above."""
    if any("lora" in key for key in tensors) and not _has(tensors, "adapter_modules.", "ip_adapter.", "face_adapter."):
        return _lora_kind(tensors)
    if _has(tensors, "adapter_modules.", "face_adapter."):
        return ADAPTER
    if _has(tensors, "ip_adapter."):
        widths = {t.shape[-1] for key, t in tensors.items() if key.endswith("to_k_ip.weight")}
        return IP_ADAPTER_SDXL if 2048 in widths else IP_ADAPTER
    if _has(tensors, "controlnet_cond_embedding."):
        return SPARSE_CONTROL if any("motion_modules." in key for key in tensors) else CONTROLNET
    if _has(tensors, "control_model."):
        return CONTROLNET
    if any("motion_modules." in key for key in tensors):
        return MOTION if any("temporal_transformer" in key for key in tensors) else MOTION_DIFFUSERS
    return _base_kind(tensors)


def _lora_kind(tensors: Mapping[str, Tensor]) -> str:
    if any("motion_modules" in key for key in tensors):
        return MOTION_LORA
    is_xl = _has(tensors, "lora_te1_", "lora_te2_") or any(
        t.ndim >= 2 and t.shape[1] == 2048 and "attn2_to_k" in key for key, t in tensors.items()
    )
    return LORA_SDXL if is_xl else LORA


def _base_kind(tensors: Mapping[str, Tensor]) -> str:
    if _has(tensors, "model.diffusion_model."):
        if _has(tensors, "conditioner.embedders.") or "model.diffusion_model.label_emb.0.0.weight" in tensors:
            return SDXL
        text = tensors.get(_TEXT_KEY)
        return SD2 if text is not None and text.shape[-1] == 1024 else SD15
    if _has(tensors, "vision_model."):
        return IMAGE_ENCODER
    if _has(tensors, "first_stage_model.", "encoder.conv_in", "decoder.conv_in"):
        return VAE
    return UNKNOWN


def _has(tensors: Mapping[str, Tensor], *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in tensors)


def require_kind(file: WeightFile, *wanted: str) -> str:
    """The file's kind, if it is one of those wanted.

    Raises:
        IdanimError: says what the file is and what was expected.
    """
    kind = kind_of(file.tensors)
    if kind not in wanted:
        sample = ", ".join(list(file.tensors)[:3]) or "no tensors"
        raise IdanimError(f"{file.path}: this is {kind}, expected {' or '.join(wanted)} (its keys: {sample}, …)")
    return kind
