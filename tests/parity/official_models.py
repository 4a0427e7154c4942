"""Our models with the weights of a golden folder: official constructor arguments → diffusers and idanim classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, SparseControlNetModel, UNetMotionModel
from golden_folder import GoldenFolder
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.checkpoint import load_strictly
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.group_norm import normalise_residual_blocks_jointly
from idanim.models.motion import to_diffusers
from idanim.models.resampler import Resampler
from idanim.models.sparse_control import follow_official_numerics

MOTION_GROUPS = 32  # of the official motion modules, whatever the UNet's norm_num_groups


def motion_type(official: str) -> str:
    """CrossAttnDownBlock3D → CrossAttnDownBlockMotion."""
    return official.replace("3D", "Motion").replace("2D", "Motion")


def _require(condition: bool, what: str) -> None:
    if not condition:
        pytest.skip(f"not in diffusers: {what}")


def _motion_args(args: dict[str, Any], attentions: int) -> dict[str, Any]:
    kwargs = args["motion_module_kwargs"]
    levels = {2**i for i in range(len(args["block_out_channels"]))}
    _require(args.get("use_motion_module", True), "a UNet without motion modules")
    _require(levels <= set(args.get("motion_module_resolutions", levels)), "levels without motion modules")
    _require(not args.get("motion_module_decoder_only"), "motion modules in the decoder only")
    _require(kwargs.get("temporal_attention_dim_div", 1) == 1, "temporal_attention_dim_div other than 1")
    _require(kwargs.get("temporal_position_encoding", True), "motion modules without position table")
    _require(
        len(kwargs["attention_block_types"]) == attentions, f"other than {attentions} attentions in a motion module"
    )
    return {
        "motion_num_attention_heads": kwargs["num_attention_heads"],
        "motion_max_seq_length": kwargs["temporal_position_encoding_max_len"],
        "temporal_transformer_layers_per_block": kwargs.get("num_transformer_block", 1),
    }


def _use_official_groups(model: nn.Module) -> None:
    # diffusers gives the motion modules the UNet's number of groups.
    for name, module in model.named_modules():
        if "motion_modules" in name and isinstance(module, nn.GroupNorm):
            module.num_groups = MOTION_GROUPS


def motion_unet(golden: GoldenFolder) -> UNetMotionModel:
    """UNet3DConditionModel of the official code as a diffusers UNetMotionModel."""
    unet = new_motion_unet(golden.args("unet3d"))
    load_strictly(unet, to_diffusers(golden.weights("unet3d"), "unet3d"), "unet3d")
    return unet.eval()


def new_motion_unet(args: dict[str, Any]) -> UNetMotionModel:
    """The same without its weights, from the official constructor arguments."""
    for flag in ("unet_use_cross_frame_attention", "unet_use_temporal_attention"):
        _require(not args.get(flag), flag)
    motion = _motion_args(args, attentions=2)
    optional = ("in_channels", "out_channels", "layers_per_block", "sample_size", "norm_num_groups")
    unet = UNetMotionModel(
        **{key: args[key] for key in optional if key in args},
        **motion,
        temporal_transformer_layers_per_mid_block=motion["temporal_transformer_layers_per_block"],
        down_block_types=tuple(motion_type(t) for t in args["down_block_types"]),
        up_block_types=tuple(motion_type(t) for t in args["up_block_types"]),
        block_out_channels=tuple(args["block_out_channels"]),
        cross_attention_dim=args["cross_attention_dim"],
        num_attention_heads=_heads(args["attention_head_dim"]),
        use_linear_projection=args.get("use_linear_projection", False),
        use_motion_mid_block=args.get("motion_module_mid_block", False),
    )
    _use_official_groups(unet)
    if not args.get("use_inflated_groupnorm", False):
        normalise_residual_blocks_jointly(unet)
    return unet


def _heads(attention_head_dim: int | list[int]) -> int | tuple[int, ...]:
    # The official argument of this name is the number of heads, as in SD1.5.
    return tuple(attention_head_dim) if isinstance(attention_head_dim, list) else attention_head_dim


def sparse_controlnet(golden: GoldenFolder) -> SparseControlNetModel:
    """The official SparseCtrl network, motion modules normalised frame by frame."""
    model = new_sparse_controlnet(golden.args("sparse_controlnet"))
    load_strictly(model, to_diffusers(golden.weights("sparse_controlnet"), "sparse_controlnet"), "sparse_controlnet")
    return model.eval().requires_grad_(False)


def new_sparse_controlnet(args: dict[str, Any]) -> SparseControlNetModel:
    """The same without its weights, from the official constructor arguments."""
    _require(args.get("set_noisy_sample_input_to_zero", True), "SparseCtrl that sees the noisy sample")
    _require(not args.get("motion_module_mid_block"), "SparseCtrl with a motion module in the middle")
    motion = _motion_args(args, attentions=1)
    optional = ("in_channels", "layers_per_block", "conditioning_embedding_out_channels", "norm_num_groups")
    model = SparseControlNetModel(
        **{k: args[k] for k in ("conditioning_channels", "cross_attention_dim")},
        **{k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in optional and v is not None},
        **motion,
        down_block_types=tuple(motion_type(t) for t in args["down_block_types"]),
        block_out_channels=tuple(args["block_out_channels"]),
        attention_head_dim=_heads(args["attention_head_dim"]),
        num_attention_heads=_heads(args.get("num_attention_heads") or args["attention_head_dim"]),
        concat_conditioning_mask=args["concate_conditioning_mask"],
        use_simplified_condition_embedding=args["use_simplified_condition_embedding"],
    )
    _use_official_groups(model)
    follow_official_numerics(model)
    return model


def text_encoder(golden: GoldenFolder) -> CLIPTextModel:
    model = CLIPTextModel(CLIPTextConfig(**golden.args("clip_text")))
    own = model.state_dict().keys()
    state = golden.weights("clip_text")
    if not any(key.startswith("text_model.") for key in own):  # transformers 5 has no inner model
        state = {key.removeprefix("text_model."): tensor for key, tensor in state.items()}
    load_strictly(model, {k: t for k, t in state.items() if not k.endswith("position_ids")}, "clip_text")
    return model.eval()


def vision_encoder(golden: GoldenFolder) -> ClipFaceEncoder:
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**golden.args("clip_vision")))
    state = {k: t for k, t in golden.weights("clip_vision").items() if not k.endswith("position_ids")}
    load_strictly(model, state, "clip_vision")
    return ClipFaceEncoder(model)


def autoencoder(golden: GoldenFolder) -> AutoencoderKL:
    vae = AutoencoderKL(**golden.args("vae"))
    load_strictly(vae, golden.weights("vae"), "vae")
    return vae


def scheduler(golden: GoldenFolder, name: str = "pipeline") -> DDIMScheduler:
    """The noise levels of the pipeline; `name="scheduler"`: those of the tables."""
    pipeline = golden.entry("pipeline").get("args", {}).get("scheduler")
    return DDIMScheduler(**(pipeline if name == "pipeline" and pipeline else golden.args("scheduler")))


def tokenizer(golden: GoldenFolder) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(golden.tokenizer_path)


def unconditional_backbone(golden: GoldenFolder) -> AnimateDiffBackbone:
    """The UNet with the smallest other parts that a backbone may have; for checks of the UNet alone."""
    text = CLIPTextModel(CLIPTextConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4)
    return AnimateDiffBackbone(motion_unet(golden), vae, text, None, scheduler(golden))


def backbone(golden: GoldenFolder) -> AnimateDiffBackbone:
    """The whole model of a golden folder."""
    return AnimateDiffBackbone(
        motion_unet(golden), autoencoder(golden), text_encoder(golden), tokenizer(golden), scheduler(golden)
    )


def resampler(golden: GoldenFolder) -> Resampler:
    args = golden.args("resampler")
    model = Resampler(
        args["embedding_dim"],
        args["output_dim"],
        args["num_queries"],
        args["dim"],
        args["depth"],
        args["dim_head"],
        args["heads"],
        args["ff_mult"],
    )
    weights = golden.tensors("resampler").under("weights.")
    load_strictly(model, {k: t.float() for k, t in weights.items()}, "resampler")
    return model.eval()


def face_adapter(golden: GoldenFolder, model: AnimateDiffBackbone, scale: float = 1.0) -> FaceAdapter:
    """The adapter with the weights of `animator`; every size but the head width follows from their shapes."""
    golden.tensors("animator")  # skips where there is none
    args = golden.entry("animator").get("args") or golden.entry("resampler").get("args") or {}
    with torch.random.fork_rng(devices=[]):
        return FaceAdapter.from_file(
            golden.path / "animator.safetensors", model, scale, dim_head=args.get("dim_head", 64)
        )
