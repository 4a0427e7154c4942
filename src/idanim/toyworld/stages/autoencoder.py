"""Stage 2: the autoencoder. Its encoder is written in closed form, its decoder is trained."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from torch.nn import functional as F

from idanim.toyworld.codec import build_codec, principal_patches, write_encoder
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit

log = logging.getLogger(__name__)

WHITENING = 0.5
BATCH_SIZE = 32
LATENT_NOISE = 0.05
"""Standard deviation of the noise the decoder learns to bear: latents that a model drew are never exact."""


def encoded_autoencoder(train: Corpus, num_pictures: int = 4096) -> AutoencoderKL:
    """Build the autoencoder with its encoder fitted to the corpus and its decoder fresh."""
    torch.manual_seed(0)
    codec = build_codec()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(train.num_clips, (num_pictures,), generator=generator)
    frame = torch.randint(train.num_frames, (num_pictures,), generator=generator)
    write_encoder(codec, *principal_patches(train.pictures(clip, frame), WHITENING))
    codec.encoder.requires_grad_(False)
    return codec


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

    def loss(step: int, generator: Generator) -> Tensor:
        clip = torch.randint(train.num_clips, (BATCH_SIZE,), generator=generator)
        frame = torch.randint(train.num_frames, (BATCH_SIZE,), generator=generator)
        pictures = train.pictures(clip, frame)
        latents = encode(codec, pictures)
        share = torch.rand(BATCH_SIZE, 1, 1, 1, generator=generator)
        latents = latents + LATENT_NOISE * share * torch.randn(latents.shape, generator=generator)
        restored = codec.decode(latents).sample
        return F.l1_loss(restored, pictures) + F.mse_loss(restored, pictures)

    fit("autoencoder", codec, loss, schedule, folder / "autoencoder.pt", seed=2)
    return codec.eval()


@torch.no_grad()
def measure_psnr(codec: AutoencoderKL, test: Corpus, num_pictures: int = 512) -> float:
    """Mean peak signal-to-noise ratio of reconstructions of held-out people, in dB."""
    clip = torch.arange(num_pictures) % test.num_clips
    pictures = test.pictures(clip, clip % test.num_frames)
    restored = decode(codec, encode(codec, pictures))
    error = (restored - pictures).pow(2).flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())
