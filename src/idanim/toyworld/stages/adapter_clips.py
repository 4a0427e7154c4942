"""Stage 8, its end: the toy IP-Adapter on whole clips.

An adapter that only ever saw single pictures takes motion away: through the motion modules its faces hold still.
Here it learns beside them, and beside the text's keys and values as motion training left them. The face comes from
any frame of the clip, so that it can't tell where the head is in another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional as F

from idanim.models.adapter import FaceAdapter
from idanim.models.encoder import ClipFaceEncoder
from idanim.toyworld.captions import MAX_TOKENS
from idanim.toyworld.codec import NUM_COMPONENTS
from idanim.toyworld.diffusion import LATENT_SIZE, build_scheduler
from idanim.toyworld.draws import Draws
from idanim.toyworld.networks import Recogniser
from idanim.toyworld.stages.adapter import (
    ID_WEIGHT,
    NULL_PROB,
    NUM_QUERIES,
    attach,
    face_features,
    face_similarity,
    predicted_clean,
)
from idanim.toyworld.stages.backbone import (
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

NUM_JUDGED = 2
"""Frames of a clip whose faces are compared with the true ones."""


class ClipLoss:
    """The loss of whole clips under given id tokens; the video model stays frozen.

    As `PictureLoss`: the diffusion loss, and how far the faces of a few frames of the predicted clean clip are from
    the true ones.

    Args:
        image: its text encoder.
        unet: of videos.
        adapter: attached to the UNet here.
        train: clips and captions.
        encode: pictures → latents.
        recogniser: judges the predicted faces.
        batch_size: clips of a step.
    """

    def __init__(
        self,
        image: ImageModel,
        unet: UNetMotionModel,
        adapter: FaceAdapter,
        train: Corpus,
        encode: PatchMap,
        recogniser: Recogniser,
        batch_size: int,
    ) -> None:
        self.recogniser = recogniser.requires_grad_(False).eval()
        self.image, self.train, self.encode = image.requires_grad_(False).eval(), train, encode
        unet.requires_grad_(False).eval()
        unet.set_attn_processor(AttnProcessor())  # at these sizes faster on CPUs than PyTorch's fused attention
        attach(adapter, unet)
        self.scheduler = build_scheduler()
        self.tokens = corpus_tokens(train.scene, 10, image.tokenizer, tell_faces=False)
        self.null_tokens = tokenize([""], image.tokenizer).to(train.device)
        latents_shape = (batch_size, NUM_COMPONENTS, train.num_frames, LATENT_SIZE, LATENT_SIZE)
        num_tokens = MAX_TOKENS + NUM_QUERIES
        self.predict: Callable[..., Tensor] = velocity_predictor(
            unet, latents_shape, num_tokens, True, train.device, adapter.adapter_modules
        )

    def __call__(self, clip: Tensor, known: Tensor, id_tokens: Tensor, draws: Draws) -> Tensor:
        """Noise clips and compare what the model answers; scalar.

        Args:
            clip: [B].
            known: [B] bool, whether the id tokens are those of the person.
            id_tokens: [B, Q, D].
            draws: noise, times, dropped texts and judged frames.
        """
        silent = draws.uniform(len(clip), 1) < NULL_PROB
        with torch.no_grad():
            ids = torch.where(silent, self.null_tokens, self.tokens[clip])
            text = self.image.text_encoder(input_ids=ids).last_hidden_state
            pictures = self.train.clips(clip)
            latents = self.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).transpose(1, 2)
        timesteps = stratified_timesteps(len(clip), draws)
        noisy, target = noised(latents, timesteps, draws.normal(*latents.shape), self.scheduler)
        context = torch.cat([text, id_tokens], 1).repeat_interleave(self.train.num_frames, dim=0)
        answer = self.predict(noisy, timesteps, context)
        clean, signal = predicted_clean(noisy, answer, timesteps, self.scheduler)
        row = torch.arange(len(clip), device=clip.device).repeat(NUM_JUDGED)
        frame = draws.integers(self.train.num_frames, len(row))
        _, landmarks = self.train.boxes_and_landmarks(clip[row], frame)
        faces = self.encode.decode(clean[row, :, frame])
        away = 1 - face_similarity(self.recogniser, faces, pictures[row, frame], landmarks)
        return F.mse_loss(answer, target) + ID_WEIGHT * ((signal * known)[row] * away).mean()


def train_on_clips(
    loss_of: ClipLoss, encoder: ClipFaceEncoder, adapter: FaceAdapter, folder: Path, schedule: Schedule
) -> None:
    """Train resampler, keys and values on clips with a random frame as reference, resuming from `folder`."""
    train = loss_of.train

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(train.num_clips, schedule.local_batch_size)
        frame = draws.integers(train.num_frames, schedule.local_batch_size)
        known = draws.uniform(schedule.local_batch_size) >= NULL_PROB
        features = face_features(encoder, train, clip, frame, known, draws)
        return loss_of(clip, known, adapter.id_tokens(features), draws)

    fit("adapter on clips", adapter, loss, schedule, folder / "adapter_clips.pt", seed=13)
