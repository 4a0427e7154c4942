"""Our models with the weights of a golden folder: official constructor arguments → diffusers and idanim classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, SparseControlNetModel, UNetMotionModel
from golden_folder import GoldenFolder
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.checkpoint import load_strictly
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.motion import to_diffusers
from idanim.models.resampler import Resampler
from idanim.models.sparse_control import follow_official_numerics

ADAPTER_PREFIX = "module."


def motion_type(official: str) -> str:
    """CrossAttnDownBlock3D → CrossAttnDownBlockMotion."""
    return official.replace("3D", "Motion").replace("2D", "Motion")


def _require(condition: bool, what: str) -> None:
    if not condition:
        pytest.skip(f"not in diffusers: {what}")


def _motion_args(args: dict[str, Any]) -> dict[str, Any]:
    kwargs = args["motion_module_kwargs"]
    _require(args.get("use_motion_module", True), "a UNet without motion modules")
    _require(kwargs.get("temporal_attention_dim_div", 1) == 1, "temporal_attention_dim_div other than 1")
    return {
        "motion_num_attention_heads": kwargs["num_attention_heads"],
        "motion_max_seq_length": kwargs["temporal_position_encoding_max_len"],
        "temporal_transformer_layers_per_block": kwargs["num_transformer_block"],
    }


def motion_unet(golden: GoldenFolder) -> UNetMotionModel:
    """UNet3DConditionModel of the official code as a diffusers UNetMotionModel."""
    args = golden.args("unet3d")
    _require(args.get("use_inflated_groupnorm", True), "GroupNorm over all frames")
    kwargs = {k: args[k] for k in ("in_channels", "out_channels", "layers_per_block", "sample_size")}
    unet = UNetMotionModel(
        **kwargs,
        **_motion_args(args),
        temporal_transformer_layers_per_mid_block=args["motion_module_kwargs"]["num_transformer_block"],
        down_block_types=tuple(motion_type(t) for t in args["down_block_types"]),
        up_block_types=tuple(motion_type(t) for t in args["up_block_types"]),
        block_out_channels=tuple(args["block_out_channels"]),
        cross_attention_dim=args["cross_attention_dim"],
        num_attention_heads=_heads(args["attention_head_dim"]),
        norm_num_groups=args["norm_num_groups"],
        use_linear_projection=args.get("use_linear_projection", False),
        use_motion_mid_block=args["motion_module_mid_block"],
    )
    load_strictly(unet, to_diffusers(golden.weights("unet3d"), "unet3d"), "unet3d")
    return unet.eval()


def _heads(attention_head_dim: int | list[int]) -> int | tuple[int, ...]:
    # The official argument of this name is the number of heads, as in SD1.5.
    return tuple(attention_head_dim) if isinstance(attention_head_dim, list) else attention_head_dim


def sparse_controlnet(golden: GoldenFolder) -> SparseControlNetModel:
    """The official SparseCtrl network, motion modules normalised frame by frame."""
    args = golden.args("sparse_controlnet")
    _require(args.get("set_noisy_sample_input_to_zero", True), "SparseCtrl that sees the noisy sample")
    motion = _motion_args(args)
    optional = ("conditioning_embedding_out_channels", "norm_num_groups")
    model = SparseControlNetModel(
        **{k: args[k] for k in ("in_channels", "conditioning_channels", "layers_per_block", "cross_attention_dim")},
        **{k: tuple(v) if isinstance(v, list) else v for k, v in args.items() if k in optional and v is not None},
        **motion,
        down_block_types=tuple(motion_type(t) for t in args["down_block_types"]),
        block_out_channels=tuple(args["block_out_channels"]),
        attention_head_dim=_heads(args["attention_head_dim"]),
        num_attention_heads=_heads(args.get("num_attention_heads") or args["attention_head_dim"]),
        concat_conditioning_mask=args["concate_conditioning_mask"],
        use_simplified_condition_embedding=args["use_simplified_condition_embedding"],
    )
    follow_official_numerics(model)
    load_strictly(model, to_diffusers(golden.weights("sparse_controlnet"), "sparse_controlnet"), "sparse_controlnet")
    return model.eval().requires_grad_(False)


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


def scheduler(golden: GoldenFolder) -> DDIMScheduler:
    name = "scheduler" if golden.entry("scheduler") else "pipeline"
    args = golden.args(name)
    return DDIMScheduler(**args.get("scheduler", args))


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


def adapter_state(golden: GoldenFolder) -> dict[str, Tensor]:
    return {key.removeprefix(ADAPTER_PREFIX): tensor for key, tensor in golden.weights("animator").items()}


def face_adapter(golden: GoldenFolder, model: AnimateDiffBackbone, scale: float = 1.0) -> FaceAdapter:
    """The adapter with the weights of `animator`; every size but the head width follows from their shapes."""
    state = adapter_state(golden)
    latents = state["image_proj_model.latents"]
    inner = state["image_proj_model.layers.0.0.to_q.weight"].shape[0]
    args = golden.entry("animator").get("args") or golden.entry("resampler").get("args") or {}
    dim_head = args.get("dim_head", 64)
    lora = [t for k, t in state.items() if k.endswith("to_q_lora.down.weight")]
    with torch.random.fork_rng(devices=[]):
        adapter = FaceAdapter(
            model,
            feature_dim=state["image_proj_model.proj_in.weight"].shape[1],
            num_queries=latents.shape[1],
            depth=1 + max(int(k.split(".")[2]) for k in state if k.startswith("image_proj_model.layers.")),
            dim=latents.shape[2],
            dim_head=dim_head,
            heads=inner // dim_head,
            scale=scale,
            lora_rank=lora[0].shape[0] if lora else 0,
        )
    load_strictly(adapter, state, "animator")
    return adapter
