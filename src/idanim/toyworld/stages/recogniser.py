"""Stage 3: two ArcFace recognisers of different width, seed and people; the second only measures."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.models.face_alignment import crop_faces
from idanim.toyworld.degrade import degrade
from idanim.toyworld.draws import Draws
from idanim.toyworld.networks import (
    CROP_SIZE_PX,
    EMBEDDING_WIDTH,
    RECOGNISER_WIDTHS,
    Recogniser,
    unit,
    use_channels_last,
)
from idanim.toyworld.people import NUM_IDENTITY
from idanim.toyworld.stages.corpus import Corpus
from idanim.toyworld.stages.loop import Schedule, fit

log = logging.getLogger(__name__)

LOGIT_SCALE = 24.0
MARGIN = 0.2
PARAMETERS_WEIGHT = 5.0


class Classifier(nn.Module):
    """A recogniser with the heads that train it and are then thrown away.

    One head has a direction per training person (ArcFace, arXiv 1801.07698). The other tells the renderer's
    identity parameters: far more to learn from per picture, which is what counts when training is short.
    """

    def __init__(self, width: tuple[int, int, int], num_people: int) -> None:
        super().__init__()
        self.recogniser = Recogniser(width)
        self.people = nn.Parameter(0.05 * torch.randn(num_people, EMBEDDING_WIDTH))
        self.parameters_head = nn.Linear(EMBEDDING_WIDTH, NUM_IDENTITY)

    def loss(self, crops: Tensor, person: Tensor, identity: Tensor, margin: float) -> Tensor:
        """Cross-entropy with an additive angular margin for the right person, plus the error of the parameters.

        Args:
            crops: [B, 3, 28, 28].
            person: [B] int64.
            identity: [B, 29], standardised.
            margin: in radians.
        """
        embedding = self.recogniser.embed(crops)
        cosine = unit(embedding) @ unit(self.people).T
        angle = torch.acos(cosine.gather(1, person[:, None]).clamp(-0.999, 0.999))
        logits = LOGIT_SCALE * cosine.scatter(1, person[:, None], torch.cos(angle + margin))
        return F.cross_entropy(logits, person) + PARAMETERS_WEIGHT * F.mse_loss(
            self.parameters_head(embedding), identity
        )


def random_crops(corpus: Corpus, clip: Tensor, frame: Tensor, draws: Draws, size_px: int = CROP_SIZE_PX) -> Tensor:
    """Cut aligned faces with landmarks off by about half a pixel and pictures a little degraded."""
    pictures = degrade(corpus.pictures(clip, frame), draws, blur=0.25, grain=0.08)
    _, landmarks = corpus.boxes_and_landmarks(clip, frame)
    landmarks = landmarks + 0.4 * draws.normal(*landmarks.shape)
    return crop_faces(pictures, landmarks, size_px)


def train_recogniser(name: str, train: Corpus, folder: Path, schedule: Schedule) -> Recogniser:
    """Train recogniser "a" or "b", resuming from `folder`. They share no people."""
    half = train.scene.num_clips // 2
    first = 0 if name == "a" else half
    people = train.person[first : first + half]
    torch.manual_seed(33 + ord(name))
    model = Classifier(RECOGNISER_WIDTHS[name], int(people.max() - people.min()) + 1).to(train.device)
    identity = train.scene.identity
    identity = (identity - identity.mean(0)) / identity.std(0)
    use_channels_last(model.recogniser.trunk)

    def loss(step: int, draws: Draws) -> Tensor:
        clip = first + draws.integers(half, schedule.local_batch_size)
        frame = draws.integers(train.num_frames, schedule.local_batch_size)
        margin = MARGIN * min(1.0, step / (0.4 * schedule.num_steps))
        crops = random_crops(train, clip, frame, draws)
        return model.loss(crops, train.person[clip] - people.min(), identity[clip], margin)

    fit(f"recogniser {name}", model, loss, schedule, folder / f"recogniser_{name}.pt", seed=ord(name))
    return model.recogniser.eval()


@dataclass(frozen=True)
class Verification:
    """How well embeddings tell people apart.

    Attributes:
        accuracy: balanced accuracy at the best threshold, in [0, 1].
        rank1: share of faces whose nearest neighbour among one face of each person is the right one.
        same: mean cosine of two clips of a person.
        different: mean cosine of two persons.
        num_people: people compared.
    """

    accuracy: float
    rank1: float
    same: float
    different: float
    num_people: int


@torch.no_grad()
def verify(recogniser: Recogniser, test: Corpus, clips_per_person: int = 4) -> Verification:
    """Compare held-out people across clips, with one frame of each clip."""
    clip = torch.arange(test.num_clips, device=test.device)
    frame = clip * 5 % test.num_frames
    _, landmarks = test.boxes_and_landmarks(clip, frame)
    embedding = unit(recogniser.embed(crop_faces(test.pictures(clip, frame), landmarks, CROP_SIZE_PX)))
    embedding = embedding.unflatten(0, (-1, clips_per_person))
    cosine = torch.einsum("ikd,jld->ijkl", embedding, embedding).cpu()
    num_people = len(embedding)
    same_person = torch.eye(num_people, dtype=torch.bool)
    other_clip = ~torch.eye(clips_per_person, dtype=torch.bool)
    same, different = cosine[same_person][:, other_clip].flatten(), cosine[~same_person].flatten()
    thresholds = torch.linspace(-0.2, 0.9, 111)
    accuracy = max(float(((same > t).float().mean() + (different <= t).float().mean()) / 2) for t in thresholds)
    nearest = (embedding[:, 0] @ embedding[:, 1].T).argmax(1)
    rank1 = float((nearest.cpu() == torch.arange(num_people)).float().mean())
    return Verification(accuracy, rank1, float(same.mean()), float(different.mean()), num_people)
