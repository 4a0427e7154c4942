"""Stage 7: motion. The motion modules learn on whole clips while the spatial weights stay as they are.

All but the keys and values of the text: to a picture model "nodding" says next to nothing, so what it lets through of
such words is too little to move by.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Generator, Tensor
from torch.nn import functional as F

from idanim.models.group_norm import normalise_frames_separately
from idanim.toyworld.diffusion import build_motion_unet, build_scheduler
from idanim.toyworld.stages.backbone import (
    NULL_TEXT_PROB,
    ImageModel,
    PatchMap,
    corpus_tokens,
    noised,
    stratified_timesteps,
    tokenize,
)
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit, share_of_batch

BATCH_SIZE = 8


def train_motion(
    image: ImageModel, train: Corpus, encode: PatchMap, folder: Path, schedule: Schedule
) -> UNetMotionModel:
    """Inflate the picture model and train its motion modules, resuming from `folder`."""
    torch.manual_seed(8)
    unet = build_motion_unet(image.unet)
    normalise_frames_separately(unet)
    unet.set_attn_processor(AttnProcessor())  # at these sizes faster on CPUs than PyTorch's fused attention
    unet.requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("motion_modules" in name or name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")))
    scheduler = build_scheduler()
    tokens = corpus_tokens(train.scene, 8, image.tokenizer, tell_faces=True)
    batch_size = share_of_batch(BATCH_SIZE)
    null_tokens = tokenize([""], image.tokenizer)

    def loss(step: int, generator: Generator) -> Tensor:
        clip = torch.randint(train.num_clips, (batch_size,), generator=generator)
        silent = torch.rand(batch_size, 1, generator=generator) < NULL_TEXT_PROB
        with torch.no_grad():
            text = image.text_encoder(input_ids=torch.where(silent, null_tokens, tokens[clip])).last_hidden_state
            latents = encode(train.clips(clip).flatten(0, 1)).unflatten(0, (batch_size, -1)).transpose(1, 2)
        timesteps = stratified_timesteps(batch_size, generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy, target = noised(latents, timesteps, noise, scheduler)
        text = text.repeat_interleave(train.num_frames, dim=0)
        return F.mse_loss(unet(noisy, timesteps, text).sample, target)

    fit("motion", unet, loss, schedule, folder / "motion.pt", seed=8)
    return unet.eval()
