"""Stage 8: the toy IP-Adapter, an image-prompt adapter pretrained on single pictures.

Trained from scratch, a resampler's tokens soon stop telling references apart: its keys and values learn
nothing while its tokens say nothing, and the other way round. So they are taught one after the other:

1. keys and values with tokens made by a small network from the true identity vector (the teacher);
2. the resampler, to give the teacher's tokens from the encoder's view of one picture;
3. keys and values again, with the resampler's tokens, which are less sure than the teacher's;
4. both together, gently. The reference is the picture itself, as in IP-Adapter;
5. both on whole clips, see `adapter_clips`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.face_alignment import crop_faces
from idanim.toyworld.captions import MAX_TOKENS
from idanim.toyworld.diffusion import LATENT_SHAPE, TEXT_WIDTH, build_scheduler
from idanim.toyworld.draws import Draws
from idanim.toyworld.networks import CROP_SIZE_PX, Recogniser
from idanim.toyworld.people import NUM_IDENTITY
from idanim.toyworld.stages.backbone import (
    ImageModel,
    PatchMap,
    corpus_tokens,
    noised,
    stratified_timesteps,
    tokenize,
    velocity_predictor,
)
from idanim.toyworld.stages.corpus import FRAME_SIZE_PX, Corpus
from idanim.toyworld.stages.loop import Schedule, fit

ID_WEIGHT = 0.4
"""Of the identity loss. The first 1200 of the joint steps of the shipped adapter, and what came before, had 0.1."""
NUM_QUERIES = 16
NULL_PROB = 0.1
"""How often the text, and independently the face, is left out."""


def build_adapter(backbone: AnimateDiffBackbone, encoder: ClipFaceEncoder) -> FaceAdapter:
    """Build the toy's face adapter: the paper's architecture in small."""
    return FaceAdapter(backbone, encoder.feature_dim, num_queries=NUM_QUERIES, depth=2, dim_head=24, heads=4)


class Teacher(nn.Module):
    """Identity vector → id tokens."""

    mean: Tensor
    std: Tensor

    def __init__(self, identity: Tensor) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(NUM_IDENTITY, 256), nn.GELU(), nn.Linear(256, NUM_QUERIES * TEXT_WIDTH))
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.register_buffer("mean", identity.mean(0))
        self.register_buffer("std", identity.std(0))

    def forward(self, identity: Tensor, known: Tensor) -> Tensor:
        """Map [B, 29] to [B, 16, 96]; rows that are not `known` ([B] bool) give the tokens of nobody."""
        standard = (identity - self.mean) / self.std * known[:, None]
        return self.norm(self.layers(standard).unflatten(-1, (-1, TEXT_WIDTH)))


class PictureLoss:
    """The loss of single pictures under given id tokens; the picture model stays frozen.

    To the diffusion loss comes how far the face in the predicted clean picture is from the true one:
    ID_WEIGHT · ā(t) · (1 - cos), by a recogniser that conditions and trains but never measures. A face is a few
    pixels of a small picture: the diffusion loss alone needs many times the steps to care.

    Args:
        image: text encoder and UNet, frozen here.
        adapter: attached to the UNet here.
        train: pictures and captions.
        encode: pictures → latents.
        recogniser: judges the predicted faces.
    """

    def __init__(
        self, image: ImageModel, adapter: FaceAdapter, train: Corpus, encode: PatchMap, recogniser: Recogniser
    ) -> None:
        self.recogniser = recogniser.requires_grad_(False).eval()
        image.requires_grad_(False).eval()
        attach(adapter, image.unet)
        self.image, self.train, self.encode = image, train, encode
        self.scheduler = build_scheduler()
        self.tokens = corpus_tokens(train.scene, 9, image.tokenizer, tell_faces=False)
        self.null_tokens = tokenize([""], image.tokenizer).to(train.device)
        self.predict: Callable[..., Tensor] | None = None
        self.adapter = adapter

    def prepare(self, batch_size: int, tokens_learn: bool) -> None:
        """Get ready for batches of this size, with those weights of the adapter that ask for gradients now."""
        num_tokens = MAX_TOKENS + NUM_QUERIES
        shape = (batch_size, *LATENT_SHAPE)
        self.predict = velocity_predictor(
            self.image.unet, shape, num_tokens, tokens_learn, self.train.device, self.adapter.adapter_modules
        )

    def __call__(self, clip: Tensor, frame: Tensor, known: Tensor, id_tokens: Tensor, draws: Draws) -> Tensor:
        """Noise the pictures at (clip, frame) and compare what the model answers; scalar.

        Args:
            clip: [B].
            frame: [B].
            known: [B] bool, whether the id tokens are those of the person.
            id_tokens: [B, Q, D].
            draws: noise, times and dropped texts.
        """
        silent = draws.uniform(len(clip), 1) < NULL_PROB
        ids = torch.where(silent, self.null_tokens, self.tokens[clip])
        with torch.no_grad():
            text = self.image.text_encoder(input_ids=ids).last_hidden_state
            pictures = self.train.pictures(clip, frame)
            latents = self.encode(pictures)
        timesteps = stratified_timesteps(len(clip), draws)
        noise = draws.normal(*latents.shape)
        noisy, target = noised(latents, timesteps, noise, self.scheduler)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        assert self.predict is not None, "prepare() comes first"
        answer = self.predict(noisy, timesteps, torch.cat([text, id_tokens], 1))
        clean, signal = predicted_clean(noisy, answer, timesteps, self.scheduler)
        faces = self.encode.decode(clean)
        _, landmarks = self.train.boxes_and_landmarks(clip, frame)
        away = 1 - face_similarity(self.recogniser, faces, pictures, landmarks)
        return F.mse_loss(answer, target) + ID_WEIGHT * (signal * known * away).mean()


def predicted_clean(
    noisy: Tensor, answer: Tensor, timesteps: Tensor, scheduler: DDIMScheduler
) -> tuple[Tensor, Tensor]:
    """Give the clean latents [B, …] that a predicted velocity stands for, and ā(t) [B]."""
    signal = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    share = signal.view(-1, *[1] * (noisy.dim() - 1))
    return share.sqrt() * noisy - (1 - share).sqrt() * answer, signal


def face_similarity(recogniser: Recogniser, predicted: Tensor, true: Tensor, landmarks: Tensor) -> Tensor:
    """Cosines [B] of the faces in two batches of pictures [B, 3, S, S], all cut at the true landmarks [B, 5, 2]."""
    found, wanted = (recogniser.embed(crop_faces(faces, landmarks, CROP_SIZE_PX)) for faces in (predicted, true))
    return F.cosine_similarity(found, wanted)


def attach(adapter: FaceAdapter, unet: UNet2DConditionModel | UNetMotionModel) -> None:
    """Make a UNet attend to id tokens; the picture model's layers have the names of the video model's."""
    unet.set_attn_processor({**unet.attn_processors, **adapter.processors()})


def _random_pictures(train: Corpus, draws: Draws, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    clip = draws.integers(train.num_clips, batch_size)
    frame = draws.integers(train.num_frames, batch_size)
    known = draws.uniform(batch_size) >= NULL_PROB
    return clip, frame, known


def face_features(
    encoder: ClipFaceEncoder, train: Corpus, clip: Tensor, frame: Tensor, known: Tensor, draws: Draws
) -> Tensor:
    """Encode the faces at (clip, frame), cut with slightly wrong landmarks: [B, 1, N, D]; null where not known."""
    _, landmarks = train.boxes_and_landmarks(clip, frame)
    landmarks = landmarks + 0.3 * draws.normal(*landmarks.shape)
    crops = crop_faces(train.pictures(clip, frame), landmarks, FRAME_SIZE_PX)
    features = encoder.encode(crops[:, None])
    return torch.where(known[:, None, None, None], features, encoder.null_features())


def train_teacher(loss_of: PictureLoss, adapter: FaceAdapter, folder: Path, schedule: Schedule) -> Teacher:
    """Train keys and values with the teacher's tokens, resuming from `folder`."""
    torch.manual_seed(9)
    train = loss_of.train
    teacher = Teacher(train.scene.identity).to(train.device)
    adapter.requires_grad_(True)
    loss_of.prepare(schedule.local_batch_size, tokens_learn=True)
    trained = nn.ModuleDict({"teacher": teacher, "attention": adapter.adapter_modules})

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, known = _random_pictures(train, draws, schedule.local_batch_size)
        return loss_of(clip, frame, known, teacher(train.scene.identity[clip], known), draws)

    fit("teacher", trained, loss, schedule, folder / "adapter_teacher.pt", seed=9)
    return teacher.requires_grad_(False).eval()


def distil_resampler(
    teacher: Teacher, encoder: ClipFaceEncoder, adapter: FaceAdapter, train: Corpus, folder: Path, schedule: Schedule
) -> None:
    """Teach the resampler the teacher's tokens, resuming from `folder`."""
    torch.manual_seed(10)
    resampler = adapter.image_proj_model

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, known = _random_pictures(train, draws, schedule.local_batch_size)
        features = face_features(encoder, train, clip, frame, known, draws)
        return F.mse_loss(adapter.id_tokens(features), teacher(train.scene.identity[clip], known))

    fit("resampler", resampler, loss, schedule, folder / "adapter_resampler.pt", seed=10)


def train_attention(
    loss_of: PictureLoss, encoder: ClipFaceEncoder, adapter: FaceAdapter, folder: Path, schedule: Schedule
) -> None:
    """Train keys and values with the tokens of the resampler, which stays as it is, resuming from `folder`."""
    train = loss_of.train
    loss_of.prepare(schedule.local_batch_size, tokens_learn=False)

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, known = _random_pictures(train, draws, schedule.local_batch_size)
        with torch.no_grad():
            tokens = adapter.id_tokens(face_features(encoder, train, clip, frame, known, draws))
        return loss_of(clip, frame, known, tokens, draws)

    fit("attention", adapter.adapter_modules, loss, schedule, folder / "adapter_attention.pt", seed=12)


def train_adapter(
    loss_of: PictureLoss, encoder: ClipFaceEncoder, adapter: FaceAdapter, folder: Path, schedule: Schedule
) -> None:
    """Train resampler, keys and values together with the picture itself as reference, resuming from `folder`."""
    train = loss_of.train
    loss_of.prepare(schedule.local_batch_size, tokens_learn=True)

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, known = _random_pictures(train, draws, schedule.local_batch_size)
        features = face_features(encoder, train, clip, frame, known, draws)
        return loss_of(clip, frame, known, adapter.id_tokens(features), draws)

    fit("adapter", adapter, loss, schedule, folder / "adapter.pt", seed=11)
