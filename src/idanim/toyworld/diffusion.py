"""The toy text-to-video model's parts, of the same classes as the real one's, and their scheduler."""

from __future__ import annotations

from diffusers import DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from idanim.toyworld.captions import MAX_TOKENS
from idanim.toyworld.codec import NUM_COMPONENTS

TEXT_WIDTH = 96
UNET_WIDTH = (64, 128)
LATENT_SIZE = 8
LATENT_SHAPE = (NUM_COMPONENTS, LATENT_SIZE, LATENT_SIZE)
MAX_FRAMES = 16
NUM_GROUPS = 8
NUM_HEADS = 4


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the text encoder, random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=256,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=NUM_HEADS,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_image_unet() -> UNet2DConditionModel:
    """Build the text-to-image UNet, random weights."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=NUM_COMPONENTS,
        out_channels=NUM_COMPONENTS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=UNET_WIDTH,
        layers_per_block=1,
        norm_num_groups=NUM_GROUPS,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=NUM_HEADS,
    )


def build_motion_unet(image_unet: UNet2DConditionModel) -> UNetMotionModel:
    """Inflate the image UNet with motion modules, random but for their outputs, which start at zero."""
    motion = MotionAdapter(
        block_out_channels=UNET_WIDTH,
        motion_layers_per_block=1,
        motion_mid_block_layers_per_block=1,
        motion_num_attention_heads=NUM_HEADS,
        motion_norm_num_groups=NUM_GROUPS,
        motion_max_seq_length=MAX_FRAMES,
        use_motion_mid_block=True,
    )
    unet = UNetMotionModel.from_unet2d(image_unet, motion)
    for name, module in unet.named_modules():
        if name.endswith("proj_out") and "motion_modules" in name:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return unet


def build_scheduler() -> DDIMScheduler:
    """Build the noise schedule: cosine, velocity prediction.

    The linear schedule of the real models spends half of its steps below a cumulative alpha of .08, where a
    small model learns nothing.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        clip_sample=False,
        prediction_type="v_prediction",
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
