"""Stage 2: the autoencoder. Its encoder is written in closed form, its decoder is trained."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

from idanim.toyworld.codec import build_codec, principal_patches, write_encoder
from idanim.toyworld.draws import Draws
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit

log = logging.getLogger(__name__)

WHITENING = 0.5
LATENT_NOISE = 0.05
"""Standard deviation of the noise the decoder learns to bear: latents that a model drew are never exact."""


def encoded_autoencoder(train: Corpus, num_pictures: int = 4096) -> AutoencoderKL:
    """Build the autoencoder with its encoder fitted to the corpus and its decoder fresh."""
    torch.manual_seed(0)
    codec = build_codec()
    draws = Draws.seeded(0)
    clip = draws.integers(train.num_clips, num_pictures).to(train.device)
    frame = draws.integers(train.num_frames, num_pictures).to(train.device)
    write_encoder(codec, *principal_patches(train.pictures(clip, frame).cpu(), WHITENING))
    codec.encoder.requires_grad_(False)
    return codec.to(train.device)


@torch.no_grad()
def encode(codec: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Encode [B, 3, S, S] in [-1, 1] to scaled latents [B, C, h, w]."""
    return codec.encode(pictures).latent_dist.mode() * codec.config.scaling_factor


@torch.no_grad()
def decode(codec: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode scaled latents [B, C, h, w] to [B, 3, S, S] in [-1, 1]."""
    return codec.decode(latents / codec.config.scaling_factor).sample.clamp(-1, 1)


def train_autoencoder(train: Corpus, folder: Path, schedule: Schedule) -> AutoencoderKL:
    """Train the decoder, resuming from `folder`."""
    codec = encoded_autoencoder(train)
    codec.decoder.to(memory_format=torch.channels_last)

    batch_size = schedule.local_batch_size

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(train.num_clips, batch_size)
        frame = draws.integers(train.num_frames, batch_size)
        pictures = train.pictures(clip, frame)
        latents = encode(codec, pictures)
        share = draws.uniform(batch_size, 1, 1, 1)
        latents = latents + LATENT_NOISE * share * draws.normal(*latents.shape)
        restored = codec.decode(latents).sample
        return F.l1_loss(restored, pictures) + F.mse_loss(restored, pictures)

    fit("autoencoder", codec, loss, schedule, folder / "autoencoder.pt", seed=2)
    return codec.eval()


@torch.no_grad()
def measure_psnr(codec: AutoencoderKL, test: Corpus, num_pictures: int = 512) -> float:
    """Mean peak signal-to-noise ratio of reconstructions of held-out people, in dB; a picture of each clip."""
    clip = torch.arange(min(num_pictures, test.num_clips), device=test.device)
    pictures = test.pictures(clip, clip % test.num_frames)
    restored = decode(codec, encode(codec, pictures))
    error = (restored - pictures).pow(2).flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())
