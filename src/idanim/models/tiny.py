"""Random-weight models of the real classes, small enough for tests and dry runs.

An untrained backbone generates noise, not faces: these serve to run the whole chain, not to judge it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, SparseControlNetModel, UNetMotionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.sparse_control import follow_official_numerics


def tiny_backbone(
    seed: int = 0, channels: Sequence[int] = (32, 32), context_dim: int = 32, max_frames: int = 32
) -> AnimateDiffBackbone:
    """An AnimateDiff backbone with random weights.

    Args:
        seed: of the weights; the global random state stays as it was.
        channels: widths of the UNet's levels, multiples of 8; all but the last have cross-attention.
        context_dim: width of the text tokens.
        max_frames: the longest video.
    """
    levels = len(channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetMotionModel(
            sample_size=8,
            block_out_channels=tuple(channels),
            down_block_types=("CrossAttnDownBlockMotion",) * levels + ("DownBlockMotion",),
            up_block_types=("UpBlockMotion",) + ("CrossAttnUpBlockMotion",) * levels,
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=context_dim,
            num_attention_heads=4,
            motion_num_attention_heads=4,
            motion_max_seq_length=max_frames,
            use_motion_mid_block=False,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 16, 16),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=64,
        )
        tokenizer = byte_tokenizer()
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=context_dim,
                intermediate_size=2 * context_dim,
                num_hidden_layers=2,
                num_attention_heads=4,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return AnimateDiffBackbone(unet, vae, text_encoder, tokenizer, animatediff_scheduler())


def tiny_sparse_control(backbone: AnimateDiffBackbone, kind: str = "rgb", seed: int = 0) -> SparseControlNetModel:
    """A SparseCtrl network with random weights, none of them zero, that fits a small backbone.

    Args:
        backbone: whose sizes it has.
        kind: "rgb", which takes latents, or "scribble", which takes pixels.
        seed: of the weights; the global random state stays as it was.
    """
    unet, stages = backbone.unet.config, len(backbone.vae.config.block_out_channels)
    widths = tuple(unet.block_out_channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SparseControlNetModel(
            in_channels=unet.in_channels,
            conditioning_channels=unet.in_channels if kind == "rgb" else 3,
            down_block_types=tuple(unet.down_block_types),
            block_out_channels=widths,
            layers_per_block=unet.layers_per_block,
            norm_num_groups=unet.norm_num_groups,
            cross_attention_dim=unet.cross_attention_dim,
            num_attention_heads=unet.num_attention_heads,
            motion_num_attention_heads=unet.motion_num_attention_heads,
            motion_max_seq_length=unet.motion_max_seq_length,
            conditioning_embedding_out_channels=(8, 16, 24, 32)[:stages],
            concat_conditioning_mask=True,
            use_simplified_condition_embedding=kind == "rgb",
        )
        for parameter in network.parameters():
            if not parameter.any():  # the official ones begin at zero, that is without effect
                nn.init.normal_(parameter, std=0.05)
    follow_official_numerics(network)
    return network.eval().requires_grad_(False)


def tiny_encoder(seed: int = 0, image_size: int = 64, feature_dim: int = 48) -> ClipFaceEncoder:
    """A CLIP vision encoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = CLIPVisionConfig(
            hidden_size=feature_dim,
            intermediate_size=2 * feature_dim,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=image_size,
            patch_size=16,
            projection_dim=24,
        )
        return ClipFaceEncoder(CLIPVisionModelWithProjection(config))


def byte_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: one token a byte."""
    return CLIPTokenizer(vocab=byte_vocabulary(), merges=[], model_max_length=77)


def byte_vocabulary(size: int = 514) -> dict[str, int]:
    """Token → number: bytes, bytes that end a word, unused tokens up to `size`, start and end of text."""
    symbols = list(bytes_to_unicode().values())
    unused = (f"<|unused{i}|>" for i in range(size - 2 * len(symbols) - 2))
    tokens = [*symbols, *(f"{s}</w>" for s in symbols), *unused, "<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}
