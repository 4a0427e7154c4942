"""Stand-ins for the public files: true names, layouts, keys and shapes, random values.

With them every program can be tried at full size without a download. They generate noise. Keys and shapes come from
the model classes themselves; the names are those of `idanim.models.catalogue`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNetMotionModel
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.files import atomic_path, write_text
from idanim.models import sd15
from idanim.models.adapter import FaceAdapter
from idanim.models.adapter_file import write_ip_adapter, write_official
from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.backbone import DTYPES
from idanim.models.loading import plain_sparse_control
from idanim.models.motion import to_official
from idanim.models.tiny import byte_tokenizer, byte_vocabulary
from idanim.types import IdanimError

BLOCK_VALUES = 1_000_003
"""Random values that are drawn; a file repeats them. A prime, so that no two rows of a matrix are the same."""
ANIMATOR_RANK = 128
VOCABULARY_SIZE = 49408
State = dict[str, Tensor]


def write_fake(name: str, path: Path, dtype: str = "float16", seed: int = 0) -> None:
    """Write the stand-in of a public file.

    Args:
        name: in the catalogue.
        path: file to write.
        dtype: of the tensors, "float32", "bfloat16" or "float16".
        seed: of the values.

    Raises:
        IdanimError: there is no stand-in of that name, or no such type.
    """
    if name in _TEXTS:
        write_text(path, _TEXTS[name]())
        return
    if name not in _STATES:
        raise IdanimError(f"there is no stand-in for {name!r}; known: {', '.join([*_TEXTS, *_STATES])}")
    if dtype not in DTYPES:
        raise IdanimError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    state = filled(public_state(name), DTYPES[dtype], seed)
    if name == "animator":
        write_official(path, state)
    elif name == "plus-face":
        write_ip_adapter(path, state)
    else:
        with atomic_path(path) as temporary:
            if path.suffix == ".safetensors":
                safetensors.torch.save_file(state, temporary, {"format": "pt"})
            else:
                torch.save({"state_dict": state}, temporary)


def public_state(name: str) -> State:
    """Tensors of a public file on the meta device: keys (of adapters: ours) and shapes without values."""
    with torch.device("meta"), torch.no_grad():
        return _STATES[name]()


def filled(state: Mapping[str, Tensor], dtype: torch.dtype, seed: int) -> State:
    """Values for meta tensors, such that activations stay of order one.

    Norm weights are 1, biases 0, position tables what they are, matrices random with deviation 1 / (2 √fan-in).
    """
    block = torch.randn(BLOCK_VALUES, generator=torch.Generator().manual_seed(seed)).to(dtype)
    result, start = {}, 0
    for key, tensor in state.items():
        shape, count = tuple(tensor.shape), tensor.numel()
        if key.endswith("pos_encoder.pe"):
            result[key] = SinusoidalPositionalEmbedding(shape[2], max_seq_length=shape[1]).pe.to(dtype)
        elif key.endswith(".bias") or (key.endswith(".weight") and len(shape) == 1):
            result[key] = torch.full(shape, float(key.endswith(".weight")), dtype=dtype)
        else:
            values = block.repeat(-(-(start + count) // BLOCK_VALUES))[start : start + count]
            result[key] = (values * (0.5 / math.sqrt(count / shape[0]))).view(shape)
            start = (start + count) % BLOCK_VALUES
    return result


# ------------------------------------------------------------------------------------------ the models


def _unet() -> UNet2DConditionModel:
    sizes = {key: value for key, value in sd15.UNET.items() if key != "num_attention_heads"}
    # In SD1.5's own configuration the number of heads has the name of their width.
    return UNet2DConditionModel(**sizes, attention_head_dim=sd15.UNET["num_attention_heads"])


def _vae() -> AutoencoderKL:
    return AutoencoderKL(**sd15.VAE)


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(**sd15.TEXT, vocab_size=VOCABULARY_SIZE, architectures=["CLIPTextModel"])


def _image_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(**sd15.IMAGE_ENCODER, architectures=["CLIPVisionModelWithProjection"])


def _text_encoder() -> State:
    return {f"text_model.{key}": tensor for key, tensor in CLIPTextModel(_text_config()).state_dict().items()}


def _motion(has_mid_block: bool, max_frames: int = 32) -> State:
    unet = UNetMotionModel(**sd15.UNET, use_motion_mid_block=has_mid_block, motion_max_seq_length=max_frames)
    state = unet.state_dict()
    return to_official({key: tensor for key, tensor in state.items() if "motion_modules." in key})


def _sparse_control(is_rgb: bool) -> State:
    return to_official(plain_sparse_control(is_rgb).state_dict())


def _adapter(lora_rank: int) -> State:
    # Of the backbone only the attention layers count.
    text = CLIPTextModel(CLIPTextConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4)
    backbone = AnimateDiffBackbone(UNetMotionModel(**sd15.UNET), vae, text, byte_tokenizer(), animatediff_scheduler())
    return FaceAdapter(backbone, sd15.IMAGE_ENCODER["hidden_size"], lora_rank=lora_rank).state_dict()


_STATES: dict[str, Callable[[], State]] = {
    "sd15-unet": lambda: _unet().state_dict(),
    "sd15-vae": lambda: _vae().state_dict(),
    "sd15-text": _text_encoder,
    "motion-v1": partial(_motion, False, 24),
    "motion-v2": partial(_motion, True),
    "motion-v3": partial(_motion, False),
    "sparsectrl-rgb": partial(_sparse_control, True),
    "sparsectrl-scribble": partial(_sparse_control, False),
    "image-encoder": lambda: CLIPVisionModelWithProjection(_image_config()).state_dict(),
    "plus-face": partial(_adapter, 0),
    "animator": partial(_adapter, ANIMATOR_RANK),
}


# ---------------------------------------------------------------------------------- their small companions


def _json_on_meta(make: Callable[[], UNet2DConditionModel | AutoencoderKL]) -> str:
    with torch.device("meta"):
        return make().to_json_string()


_TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
}
_TEXTS: dict[str, Callable[[], str]] = {
    "sd15-unet-config": partial(_json_on_meta, _unet),
    "sd15-vae-config": partial(_json_on_meta, _vae),
    "sd15-text-config": lambda: _text_config().to_json_string(),
    "image-encoder-config": lambda: _image_config().to_json_string(),
    "sd15-vocab": lambda: json.dumps(byte_vocabulary(VOCABULARY_SIZE), ensure_ascii=False),
    "sd15-merges": lambda: "#version: 0.2\n",
    "sd15-tokenizer-config": lambda: json.dumps(_TOKENIZER, indent=1),
}


def stand_ins() -> Sequence[str]:
    """Names of the files that `write_fake` writes."""
    return [*_STATES, *_TEXTS]
