"""Stage 7: motion. The motion modules learn on whole clips while the spatial weights stay as they are.

All but the keys and values of the text: to a picture model "nodding" says next to nothing, so what it lets through of
such words is too little to move by.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F

from idanim.models.group_norm import normalise_frames_separately
from idanim.toyworld.captions import MAX_TOKENS
from idanim.toyworld.codec import NUM_COMPONENTS
from idanim.toyworld.diffusion import LATENT_SIZE, build_motion_unet, build_scheduler
from idanim.toyworld.draws import Draws
from idanim.toyworld.stages.backbone import (
    NULL_TEXT_PROB,
    ImageModel,
    PatchMap,
    corpus_tokens,
    noised,
    stratified_timesteps,
    tokenize,
    velocity_predictor,
)
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit


def train_motion(
    image: ImageModel, train: Corpus, encode: PatchMap, folder: Path, schedule: Schedule
) -> UNetMotionModel:
    """Inflate the picture model and train its motion modules, resuming from `folder`."""
    torch.manual_seed(8)
    unet = build_motion_unet(image.unet)
    normalise_frames_separately(unet)
    unet.to(train.device)
    unet.set_attn_processor(AttnProcessor())  # at these sizes faster on CPUs than PyTorch's fused attention
    unet.requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("motion_modules" in name or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")))
    scheduler = build_scheduler()
    tokens = corpus_tokens(train.scene, 8, image.tokenizer, tell_faces=True)
    batch_size = schedule.local_batch_size
    null_tokens = tokenize([""], image.tokenizer).to(train.device)
    latents_shape = (batch_size, NUM_COMPONENTS, train.num_frames, LATENT_SIZE, LATENT_SIZE)
    predict = velocity_predictor(unet, latents_shape, MAX_TOKENS, False, train.device)

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(train.num_clips, batch_size)
        silent = draws.uniform(batch_size, 1) < NULL_TEXT_PROB
        with torch.no_grad():
            text = image.text_encoder(input_ids=torch.where(silent, null_tokens, tokens[clip])).last_hidden_state
            latents = encode(train.clips(clip).flatten(0, 1)).unflatten(0, (batch_size, -1)).transpose(1, 2)
        timesteps = stratified_timesteps(batch_size, draws)
        noise = draws.normal(*latents.shape)
        noisy, target = noised(latents, timesteps, noise, scheduler)
        text = text.repeat_interleave(train.num_frames, dim=0)
        return F.mse_loss(predict(noisy, timesteps, text), target)

    fit("motion", unet, loss, schedule, folder / "motion.pt", seed=8)
    return unet.eval()
