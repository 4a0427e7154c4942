"""Draw with the toy models as they are and measure what they reach."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.face_alignment import crop_faces
from idanim.toyworld.captions import caption
from idanim.toyworld.codec import NUM_COMPONENTS
from idanim.toyworld.diffusion import LATENT_SHAPE, LATENT_SIZE, build_scheduler
from idanim.toyworld.people import Attributes
from idanim.toyworld.sampling import Predictor, sample_latents
from idanim.toyworld.stages.adapter import attach
from idanim.toyworld.stages.autoencoder import decode, encode
from idanim.toyworld.stages.backbone import ImageModel, tokenize
from idanim.toyworld.stages.corpus import FRAME_SIZE_PX
from idanim.toyworld.stages.measure import (
    Judges,
    Trial,
    score_identity,
    score_motion,
)
from idanim.toyworld.stages.reader import attribute_accuracy

log = logging.getLogger(__name__)

GUIDANCE_SCALE = 3.0
NUM_STEPS = 20


@torch.no_grad()
def text_context(image: ImageModel, texts: list[str]) -> Tensor:
    """Encode texts to [len(texts), L, D]."""
    ids = tokenize(texts, image.tokenizer).to(image.text_encoder.device)
    return image.text_encoder(input_ids=ids).last_hidden_state


def picture_predictor(image: ImageModel) -> Predictor:
    """Give the picture model as it is, with whatever is attached to it."""

    def predict(latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return image.unet(latents, timesteps, context).sample

    return predict


def clip_predictor(unet: UNetMotionModel, num_frames: int) -> Predictor:
    """Give a video UNet whose context comes once per video."""

    def predict(latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return unet(latents, timesteps, context.repeat_interleave(num_frames, 0)).sample

    return predict


def prompts(wanted: Attributes) -> list[str]:
    """Write the prompts that ask for some attributes."""
    return [caption(wanted, index) for index in range(len(wanted.action))]


@torch.no_grad()
def draw_pictures(
    image: ImageModel, codec: AutoencoderKL, context: Tensor, null_context: Tensor, seed: int, batch_size: int = 64
) -> Tensor:
    """Draw one picture for every row of `context`: [B, 3, S, S] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    predict, shape = picture_predictor(image), LATENT_SHAPE
    drawn = [
        sample_latents(predict, build_scheduler(), part, null_context, shape, GUIDANCE_SCALE, NUM_STEPS, generator)
        for part in context.split(batch_size)
    ]
    return decode(codec, torch.cat(drawn))


@torch.no_grad()
def draw_clips(
    unet: UNetMotionModel, codec: AutoencoderKL, context: Tensor, null_context: Tensor, num_frames: int, seed: int
) -> Tensor:
    """Draw one clip for every row of `context` [P, L, D]: [P, F, 3, S, S] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_COMPONENTS, num_frames, LATENT_SIZE, LATENT_SIZE)
    parts = []
    for part in context.split(16):
        predictor = clip_predictor(unet, num_frames)
        latents = sample_latents(
            predictor, build_scheduler(), part, null_context, shape, GUIDANCE_SCALE, NUM_STEPS, generator
        )
        parts.append(decode(codec, latents.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, num_frames)))
    return torch.cat(parts)


def gate_pictures(judges: Judges, image: ImageModel, codec: AutoencoderKL, trial: Trial) -> Tensor:
    """Gate 2 without motion: what pictures without adapter show, and that they show nobody in particular."""
    image.unet.set_attn_processor(AttnProcessor2_0())  # takes off an adapter
    context, null_context = text_context(image, prompts(trial.wanted)), text_context(image, [""])
    drawn = draw_pictures(image, codec, context, null_context, seed=2)
    for name, pictures in (("pictures", drawn), ("renders", decode(codec, encode(codec, trial.renders)))):
        accuracy = attribute_accuracy(judges.reader, pictures, trial.wanted)
        log.info("%s n %d: attributes %.3f %s", name, len(pictures), sum(accuracy.values()) / len(accuracy), accuracy)
    log.info("no adapter: %s", asdict(score_identity(judges, codec, trial, drawn)))
    return drawn


def gate_clips(
    judges: Judges,
    image: ImageModel,
    unet: UNetMotionModel,
    codec: AutoencoderKL,
    trial: Trial,
    tokens: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Actions, flicker, attributes and identity of clips: gate 2, or with an adapter's tokens gate 3.

    Args:
        judges: measure.
        image: its text encoder says what the prompts say.
        unet: draws; with the adapter attached where `tokens` are given.
        codec: decodes.
        trial: what to draw.
        tokens: id tokens of the people [N, Q, D] and of nobody [1, Q, D].

    Returns:
        The clips [N, F, 3, S, S].
    """
    context, null_context = text_context(image, prompts(trial.wanted)), text_context(image, [""])
    if tokens is None:
        unet.set_attn_processor(AttnProcessor2_0())  # takes off an adapter
    else:
        context, null_context = torch.cat([context, tokens[0]], 1), torch.cat([null_context, tokens[1]], 1)
    flat = trial.clips.flatten(0, 1)
    restored = torch.cat([decode(codec, encode(codec, part)) for part in flat.split(64)]).view_as(trial.clips)
    drawn = draw_clips(unet, codec, context, null_context, trial.clips.shape[1], seed=4)
    name = "clips, no adapter" if tokens is None else "clips, adapter"
    identity = asdict(score_identity(judges, codec, trial, drawn[:, drawn.shape[1] // 2]))
    log.info("%s: %s; %s", name, score_motion(judges, drawn, restored, trial.wanted), identity)
    if tokens is None:
        log.info("renders through the codec: %s", score_motion(judges, restored, restored, trial.wanted))
    return drawn


@torch.no_grad()
def reference_tokens(encoder: ClipFaceEncoder, adapter: FaceAdapter, trial: Trial) -> tuple[Tensor, Tensor]:
    """Id tokens of a trial's references [N, Q, D] and of nobody [1, Q, D]."""
    crops = crop_faces(trial.references, trial.landmarks, FRAME_SIZE_PX)
    return adapter.id_tokens(encoder.encode(crops[:, None])), adapter.id_tokens(encoder.null_features())


def gate_adapter(
    judges: Judges,
    image: ImageModel,
    codec: AutoencoderKL,
    adapter: FaceAdapter,
    tokens: tuple[Tensor, Tensor],
    trial: Trial,
    scales: tuple[float, ...] = (1.0, 1.5, 2.0),
) -> dict[float, Tensor]:
    """Gate 3 on pictures: identity and attributes at several adapter scales.

    Returns:
        The pictures [N, 3, S, S] by scale.
    """
    attach(adapter, image.unet)
    id_tokens, nobody = tokens
    context = torch.cat([text_context(image, prompts(trial.wanted)), id_tokens], 1)
    null_context = torch.cat([text_context(image, [""]), nobody], 1)
    pictures = {}
    for scale in scales:
        adapter.scale = scale
        drawn = draw_pictures(image, codec, context, null_context, seed=2)
        accuracy = attribute_accuracy(judges.reader, drawn, trial.wanted)
        score = score_identity(judges, codec, trial, drawn)
        mean = sum(accuracy.values()) / len(accuracy)
        log.info("adapter scale %.1f: attributes %.3f %s; %s", scale, mean, accuracy, asdict(score))
        pictures[scale] = drawn
    adapter.scale = 1.0
    return pictures


def token_share(tokens: Tensor) -> float:
    """Share of the power of id tokens [N, Q, D] that differs between references."""
    return float(tokens.var(0).mean() / tokens.pow(2).mean())


def save_grid(path: Path, rows: list[Tensor], num_columns: int = 16, zoom: int = 3) -> None:
    """Write rows of pictures [N, 3, S, S] in [-1, 1], in blocks of `num_columns`, one picture below the other."""
    count = min(map(len, rows)) // num_columns * num_columns or min(map(len, rows))
    num_columns = min(num_columns, count)
    table = torch.stack([row[:count].cpu() for row in rows], 1).unflatten(0, (-1, num_columns))
    blocks, columns, height, _, side, _ = table.shape
    sheet = table.permute(0, 2, 4, 1, 5, 3).reshape(blocks * height * side, columns * side, 3)
    image = Image.fromarray(((sheet.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path)
