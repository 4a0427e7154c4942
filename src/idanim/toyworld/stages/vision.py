"""Stage 5: the reference encoder, a CLIP vision model that tells from one picture who is shown.

Trained on caption words alone such an encoder forgets identity, which captions never say. So it learns to
regress the renderer's parameters: who is shown, how posed, and what the caption says.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.models.face_alignment import crop_faces
from idanim.toyworld.degrade import degrade
from idanim.toyworld.draws import Draws
from idanim.toyworld.networks import VISIBLE
from idanim.toyworld.people import IDENTITY_PARAMETERS, NUM_IDENTITY, POSE, POSE_SPREAD
from idanim.toyworld.stages.corpus import FRAME_SIZE_PX, Corpus
from idanim.toyworld.stages.loop import Schedule, fit

log = logging.getLogger(__name__)

WHOLE_FRAME_PROB = 0.25
CLIP_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
SEEN_POSE = slice(POSE.index("yaw"), len(POSE))
"""Pose columns that an aligned crop still shows."""


def build_vision_model() -> CLIPVisionModelWithProjection:
    """Build the reference encoder, random weights."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=384,
            projection_dim=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=FRAME_SIZE_PX,
            patch_size=4,
        )
    )


class VisionRegression(nn.Module):
    """The encoder with the heads that train it and are then thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_vision_model()
        self.sizes = [NUM_IDENTITY, POSE.index("blink") - POSE.index("yaw") + 1, *VISIBLE.values()]
        num_tokens = (FRAME_SIZE_PX // 4) ** 2 + 1
        self.reduce = nn.Linear(128, 24)
        self.from_tokens = nn.Linear(24 * num_tokens, sum(self.sizes))
        self.from_embedding = nn.Linear(128, sum(self.sizes))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from [B, 3, 32, 32] in [-1, 1]: by the penultimate tokens and by the embedding, each [B, all]."""
        pixels = ((pictures + 1) / 2 - CLIP_MEAN.to(pictures)) / CLIP_STD.to(pictures)
        outputs = self.encoder(pixel_values=pixels, output_hidden_states=True)
        tokens = F.layer_norm(outputs.hidden_states[-2], (128,))
        return (
            self.from_tokens(F.gelu(self.reduce(tokens)).flatten(1)),
            self.from_embedding(outputs.image_embeds),
        )


def references(corpus: Corpus, clip: Tensor, frame: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Draw reference pictures: aligned crops, and whole frames for a quarter.

    Returns:
        Pictures [B, 3, 32, 32] in [-1, 1], and a [B] bool mask of the whole frames.
    """
    pictures = corpus.pictures(clip, frame)
    _, landmarks = corpus.boxes_and_landmarks(clip, frame)
    landmarks = landmarks + 0.3 * draws.normal(*landmarks.shape)
    crops = crop_faces(pictures, landmarks, FRAME_SIZE_PX)
    whole = draws.uniform(len(clip)) < WHOLE_FRAME_PROB
    return torch.where(whole[:, None, None, None], pictures, crops), whole


def train_vision_model(train: Corpus, folder: Path, schedule: Schedule) -> VisionRegression:
    """Train the reference encoder, resuming from `folder`."""
    torch.manual_seed(7)
    model = VisionRegression().to(train.device)
    identity = train.scene.identity
    mean, std = identity.mean(0), identity.std(0)
    spread = POSE_SPREAD[SEEN_POSE].to(train.device)
    has_mole = IDENTITY_PARAMETERS.index("mole")
    mole_place = [IDENTITY_PARAMETERS.index("mole_x"), IDENTITY_PARAMETERS.index("mole_y")]
    attributes = train.scene.attributes._asdict()

    def error(predicted: Tensor, clip: Tensor, frame: Tensor, whole: Tensor) -> Tensor:
        person, pose, *logits = predicted.split(model.sizes, dim=-1)
        weight = torch.ones_like(person)
        weight[:, mole_place] = (identity[clip, has_mole] > 0).float()[:, None]
        total = (weight * (person - (identity[clip] - mean) / std).pow(2)).mean()
        wanted = train.scene.pose[clip, frame][:, SEEN_POSE] / spread
        total = total + 0.3 * (pose - wanted).pow(2).mean()
        for name, score in zip(VISIBLE, logits, strict=True):
            entropy = F.cross_entropy(score, attributes[name][clip], reduction="none")
            seen = whole.float() if name in ("background", "shirt") else 1.0
            total = total + 0.05 * (entropy * seen).mean()
        return total

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(train.num_clips, schedule.local_batch_size)
        frame = draws.integers(train.num_frames, schedule.local_batch_size)
        pictures, whole = references(train, clip, frame, draws)
        by_tokens, by_embedding = model(degrade(pictures, draws, blur=0.15, grain=0.05))
        return error(by_tokens, clip, frame, whole) + 0.5 * error(by_embedding, clip, frame, whole)

    fit("vision", model, loss, schedule, folder / "vision.pt", seed=7)
    return model.eval()


@torch.no_grad()
def identity_r2(model: VisionRegression, train: Corpus, test: Corpus) -> dict[str, float]:
    """Share of the variance of each identity parameter read from one aligned crop of a held-out person."""
    clip = torch.arange(test.num_clips, device=test.device)
    pictures, whole = references(test, clip, clip % test.num_frames, Draws.seeded(0, test.device))
    identity = train.scene.identity
    predicted = model(pictures[~whole])[0][:, :NUM_IDENTITY] * identity.std(0) + identity.mean(0)
    truth = test.scene.identity[~whole]
    r2 = 1 - (predicted - truth).pow(2).mean(0) / truth.var(0)
    return dict(zip(IDENTITY_PARAMETERS, r2.tolist(), strict=True))
