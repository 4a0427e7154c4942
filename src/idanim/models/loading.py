"""An AnimateDiff backbone out of public files: SD1.5 folder or single file, motion modules, VAE, LoRAs, SparseCtrl."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import AutoencoderKL, SparseControlNetModel, UNet2DConditionModel, UNetMotionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from idanim.models import sd15
from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.backbone import DTYPES
from idanim.models.checkpoint import load_strictly
from idanim.models.group_norm import normalise_residual_blocks_jointly
from idanim.models.lora import add_lora
from idanim.models.motion import POSITION_TABLE, MotionFile, read_motion, to_diffusers
from idanim.models.sparse_control import follow_official_numerics
from idanim.models.weight_file import WeightFile, read_weights
from idanim.models.weight_kind import SPARSE_CONTROL, require_kind
from idanim.types import IdanimError


def load_animatediff(
    base: str,
    motion: str,
    tokenizer: str | None = None,
    vae: str | None = None,
    loras: Mapping[str, float] | None = None,
    motion_version: str | None = None,
    dtype: str = "float32",
    vae_chunk_frames: int = 16,
) -> AnimateDiffBackbone:
    """Build the backbone from public files; nothing is downloaded.

    Args:
        base: SD1.5 as a folder in diffusers layout, or as a single file with LDM keys.
        motion: motion module file, .ckpt or .safetensors.
        tokenizer: folder with vocab.json and merges.txt; by default `<base>/tokenizer`.
        vae: folder in diffusers layout, or a file, in place of the base's own VAE.
        loras: file → weight, for LoRAs and motion LoRAs; added for good.
        motion_version: "v1", "v2" or "v3" when it must be that one.
        dtype: "float32", "bfloat16" or "float16".
        vae_chunk_frames: frames that go through the VAE at once.

    Raises:
        IdanimError: a file is missing, damaged or something else than it should be; the message names it.
    """
    if dtype not in DTYPES:
        raise IdanimError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
    path = Path(base).expanduser()
    modules = read_motion(motion, motion_version)
    parts = _from_folder(path) if path.is_dir() else _from_single_file(path)
    own_vae, text = parts.vae, parts.text_encoder
    unet = motion_unet(parts.unet, modules, f"{path} with {modules.path}", parts.sizes)
    if vae is not None:
        own_vae = _vae(Path(vae).expanduser())
    if own_vae is None:
        raise IdanimError(
            f"{path}: this checkpoint has no VAE in it; give one with vae=<file, or folder in diffusers layout>"
        )
    for lora, weight in (loras or {}).items():
        add_lora(unet, text, lora, weight)
    words = CLIPTokenizer.from_pretrained(_folder(tokenizer or str(path / "tokenizer"), "tokenizer"))
    backbone = AnimateDiffBackbone(unet, own_vae, text, words, animatediff_scheduler(), vae_chunk_frames)
    return backbone.to(DTYPES[dtype])


def _folder(path: str, argument: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise IdanimError(f"{argument}={path!r}: there is no such folder")
    return folder


class _Parts(NamedTuple):
    """What a base model gives: its spatial layers, arguments of `UNetMotionModel` for them, VAE and text model."""

    unet: dict[str, Tensor]
    sizes: dict[str, Any]
    vae: AutoencoderKL | None
    text_encoder: CLIPTextModel


def _from_folder(path: Path) -> _Parts:
    for part in ("unet", "vae", "text_encoder"):
        _folder(str(path / part), part)
    unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", local_files_only=True)
    vae = AutoencoderKL.from_pretrained(path, subfolder="vae", local_files_only=True)
    text = CLIPTextModel.from_pretrained(path, subfolder="text_encoder", local_files_only=True)
    same = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block")
    sizes = {key: unet.config[key] for key in (*same, "norm_num_groups", "cross_attention_dim")}
    for key in ("down_block_types", "up_block_types"):
        sizes[key] = tuple(name.replace("2D", "Motion") for name in unet.config[key])
    # In SD1.5's own configuration the number of heads has the name of their width.
    sizes["num_attention_heads"] = unet.config.num_attention_heads or unet.config.attention_head_dim
    return _Parts(unet.state_dict(), sizes, vae, text)


def _from_single_file(path: Path) -> _Parts:
    file = sd15.read_single_file(path)
    text = CLIPTextModel(CLIPTextConfig(**sd15.TEXT))
    load_strictly(text, file.text_encoder, f"{path}, text encoder")
    if file.vae is None:
        return _Parts(file.unet, sd15.UNET, None, text)
    return _Parts(file.unet, sd15.UNET, _built_vae(file.vae, f"{path}, VAE"), text)


def _vae(path: Path) -> AutoencoderKL:
    if path.is_dir():
        return AutoencoderKL.from_pretrained(path, local_files_only=True)
    return _built_vae(sd15.read_vae(path), str(path))


def _built_vae(state: Mapping[str, Tensor], source: str) -> AutoencoderKL:
    vae = AutoencoderKL(**sd15.VAE)
    load_strictly(vae, state, source)
    return vae


def motion_unet(
    spatial: Mapping[str, Tensor], motion: MotionFile, source: str, sizes: Mapping[str, Any]
) -> UNetMotionModel:
    """Spatial layers and motion modules as one UNet.

    Args:
        spatial: state dict of a `UNet2DConditionModel`.
        motion: its motion modules.
        source: what to call both in an error.
        sizes: arguments of `UNetMotionModel`, for instance `sd15.UNET`.
    """
    unet = UNetMotionModel(
        **sizes,
        use_motion_mid_block=motion.has_mid_block,
        motion_max_seq_length=motion.max_frames or 32,
    )
    load_strictly(unet, _with_tables(unet, {**spatial, **motion.state}), source)
    if motion.version == "v1":
        normalise_residual_blocks_jointly(unet)
    return unet


def _with_tables(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Position tables are a formula: a file may leave them out."""
    tables = {key: t for key, t in model.state_dict().items() if key.endswith(POSITION_TABLE)}
    return tables | dict(state)


def load_sparse_control(path: str | Path, dtype: str = "float32") -> SparseControlNetModel:
    """Read an official SparseCtrl file, scribble or rgb, with motion modules normalised frame by frame.

    Raises:
        IdanimError: damaged, something else, or keys that don't fit.
    """
    return build_sparse_control(read_weights(path)).to(DTYPES[dtype]).eval().requires_grad_(False)


def build_sparse_control(file: WeightFile) -> SparseControlNetModel:
    """See `load_sparse_control`; the kind is told from the keys."""
    require_kind(file, SPARSE_CONTROL)
    state = to_diffusers({key: t for key, t in file.tensors.items() if "animatediff_config" not in key}, str(file.path))
    model = plain_sparse_control("controlnet_cond_embedding.weight" in state)
    follow_official_numerics(model)
    load_strictly(model, _with_tables(model, state), str(file.path))
    return model


def plain_sparse_control(is_rgb: bool) -> SparseControlNetModel:
    """A fresh SparseCtrl network of the official sizes; rgb takes VAE latents, scribble takes pixels."""
    return SparseControlNetModel(
        conditioning_channels=4 if is_rgb else 3,
        concat_conditioning_mask=True,
        use_simplified_condition_embedding=is_rgb,
    )
