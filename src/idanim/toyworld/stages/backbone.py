"""Stage 6: text to picture. The UNet's spatial weights and the text encoder learn on single frames."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from idanim.toyworld.captions import MAX_TOKENS, build_tokenizer, caption, face_words
from idanim.toyworld.codec import PATCH_PX
from idanim.toyworld.diffusion import LATENT_SHAPE, TEXT_WIDTH, build_image_unet, build_scheduler, build_text_encoder
from idanim.toyworld.draws import Draws
from idanim.toyworld.people import Scene
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit, quick_on_gpu

UNSAID_PROB = 0.08
NULL_TEXT_PROB = 0.1
NUM_TELLINGS = 3
"""Captions of every clip, which differ in what they leave unsaid."""


class ImageModel(nn.Module):
    """The text encoder and the UNet, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.text_encoder: CLIPTextModel = build_text_encoder(self.tokenizer)
        self.unet: UNet2DConditionModel = build_image_unet()
        self.unet.to(memory_format=torch.channels_last)


class VelocityPredictor(nn.Module):
    """A UNet of pictures or of videos as a function of tensors alone.

    Args:
        unet: answers.
        *others: modules that take part in its answer without being a part of it, such as an adapter.
    """

    def __init__(self, unet: UNet2DConditionModel | UNetMotionModel, *others: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.others = nn.ModuleList(others)

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Predict the velocity, shaped like `noisy`, at [B] timesteps under [B, L, D] context."""
        return self.unet(noisy, timesteps, context).sample


@dataclass(frozen=True)
class PatchMap:
    """The encoder of the autoencoder as the linear map that it is; hundreds of times faster.

    Attributes:
        weights: [C, 48].
        bias: [C].
    """

    weights: Tensor
    bias: Tensor

    def __call__(self, pictures: Tensor) -> Tensor:
        """Encode [B, 3, S, S] in [-1, 1] to latents [B, C, h, w]."""
        patches = F.pixel_unshuffle(pictures, PATCH_PX)
        return F.conv2d(patches, self.weights[:, :, None, None], self.bias)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, C, h, w] to [B, 3, S, S] by the pseudo-inverse: the nearest that a linear map comes."""
        inverse = torch.linalg.pinv(self.weights)
        patches = F.conv2d(latents - self.bias[:, None, None], inverse[:, :, None, None])
        return F.pixel_shuffle(patches, PATCH_PX)


def tokenize(texts: list[str], tokenizer: object) -> Tensor:
    """Turn texts into [len(texts), L] int64 ids, padded."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")  # type: ignore[operator]
    return tokens.input_ids


def corpus_tokens(scene: Scene, seed: int, tokenizer: object, tell_faces: bool) -> Tensor:
    """Write and tokenize a caption for every clip, some things left unsaid: [P, L] int64.

    Args:
        scene: what the clips show.
        seed: decides what is left unsaid.
        tokenizer: of the text encoder.
        tell_faces: whether captions also describe the face, see `face_words`.
    """
    rng = random.Random(seed)
    scene_on_cpu = scene.to(torch.device("cpu"))
    texts = [caption(scene_on_cpu.attributes, clip, rng, UNSAID_PROB) for clip in range(scene.num_clips)]
    if tell_faces:
        texts = [f"{text} {face_words(scene_on_cpu.identity[clip], rng)}".strip() for clip, text in enumerate(texts)]
    return tokenize(texts, tokenizer).to(scene.identity.device)


def stratified_timesteps(batch_size: int, draws: Draws) -> Tensor:
    """Draw [B] timesteps in [0, 1000), one from each of B equal intervals, in random order."""
    offset = draws.uniform(batch_size)
    order = draws.permutation(batch_size)
    return ((order + offset) / batch_size * 1000).long().clamp(max=999)


def noised(latents: Tensor, timesteps: Tensor, noise: Tensor, scheduler: DDIMScheduler) -> tuple[Tensor, Tensor]:
    """Noise latents [B, …] and give the velocity to predict: sqrt(ā) ε - sqrt(1 - ā) x_0."""
    return scheduler.add_noise(latents, noise, timesteps), scheduler.get_velocity(latents, noise, timesteps)


def velocity_predictor(
    unet: UNet2DConditionModel | UNetMotionModel,
    latents_shape: tuple[int, ...],
    num_tokens: int,
    context_learns: bool,
    device: torch.device,
    *others: nn.Module,
) -> Callable[..., Tensor]:
    """Make the function (noisy, timesteps, context) → velocity that training calls with these sizes alone.

    Args:
        unet: answers.
        latents_shape: of the noisy latents, with the batch.
        num_tokens: L of the context, which comes once per picture.
        context_learns: whether the context asks for gradients.
        device: of everything.
        *others: modules outside of the UNet that take part in its answer.
    """
    num_pictures = latents_shape[0] * (latents_shape[2] if len(latents_shape) == 5 else 1)
    latents = torch.zeros(latents_shape, device=device)
    timesteps = torch.zeros(latents_shape[0], dtype=torch.long, device=device)
    context = torch.zeros(num_pictures, num_tokens, TEXT_WIDTH, device=device, requires_grad=context_learns)
    if latents.dim() == 4:
        latents = latents.contiguous(memory_format=torch.channels_last)
    return quick_on_gpu(VelocityPredictor(unet, *others), latents, timesteps, context)


def train_image_model(train: Corpus, encode: PatchMap, folder: Path, schedule: Schedule) -> ImageModel:
    """Train the text-to-picture model, resuming from `folder`."""
    torch.manual_seed(6)
    model = ImageModel().to(train.device)
    model.unet.set_attn_processor(AttnProcessor())  # at these sizes faster on CPUs than PyTorch's fused attention
    scheduler = build_scheduler()
    batch_size = schedule.local_batch_size
    tokens = [corpus_tokens(train.scene, seed, model.tokenizer, tell_faces=True) for seed in range(NUM_TELLINGS)]
    null_tokens = tokenize([""], model.tokenizer).to(train.device)
    predict = velocity_predictor(model.unet, (batch_size, *LATENT_SHAPE), MAX_TOKENS, True, train.device)

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(train.num_clips, batch_size)
        frame = draws.integers(train.num_frames, batch_size)
        silent = draws.uniform(batch_size, 1) < NULL_TEXT_PROB
        ids = torch.where(silent, null_tokens, tokens[step % NUM_TELLINGS][clip])
        text = model.text_encoder(input_ids=ids).last_hidden_state
        latents = encode(train.pictures(clip, frame))
        timesteps = stratified_timesteps(batch_size, draws)
        noise = draws.normal(*latents.shape)
        noisy, target = noised(latents, timesteps, noise, scheduler)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return F.mse_loss(predict(noisy, timesteps, text), target)

    fit("backbone", model, loss, schedule, folder / "backbone.pt", seed=6)
    return model.eval()
