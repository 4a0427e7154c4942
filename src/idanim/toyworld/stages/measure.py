"""The gates: what the toy models reach on people who are in no training data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from idanim.models.face_alignment import crop_faces
from idanim.toyworld.networks import CROP_SIZE_PX, ActionReader, Detector, Reader, Recogniser, unit
from idanim.toyworld.people import Attributes, Scene, sample_attributes, sample_pose
from idanim.toyworld.renderer import render
from idanim.toyworld.stages.autoencoder import decode, encode
from idanim.toyworld.stages.corpus import FRAME_SIZE_PX, Corpus
from idanim.toyworld.stages.reader import action_accuracy, attribute_accuracy


@dataclass(frozen=True)
class Judges:
    """The networks that measure; the recogniser is the one that took no part in training."""

    detector: Detector
    recogniser: Recogniser
    reader: Reader
    actions: ActionReader

    @torch.no_grad()
    def embed(self, pictures: Tensor) -> Tensor:
        """Find and embed the faces of [B, 3, S, S] in [-1, 1]: unit vectors [B, 128], zero where no face is found."""
        found = self.detector(pictures)
        landmarks = found.landmarks * FRAME_SIZE_PX - 0.5
        vectors = unit(self.recogniser.embed(crop_faces(pictures, landmarks, CROP_SIZE_PX)))
        return vectors * (found.presence > 0).float()[:, None]


@dataclass(frozen=True)
class Trial:
    """One picture of each of N held-out people, and a prompt for each that has nothing to do with it.

    Attributes:
        references: [N, 3, S, S] in [-1, 1].
        landmarks: [N, 5, 2] of the references.
        wanted: [N] attributes that the prompts ask for.
        clips: [N, F, 3, S, S] in [-1, 1]: the right people doing what the prompts ask.
    """

    references: Tensor
    landmarks: Tensor
    wanted: Attributes
    clips: Tensor

    @property
    def renders(self) -> Tensor:
        """The middle frames of the clips, [N, 3, S, S]."""
        return self.clips[:, self.clips.shape[1] // 2]

    def first(self, count: int) -> Trial:
        """The trial of the first `count` people."""
        wanted = Attributes(*(value[:count] for value in self.wanted))
        return Trial(self.references[:count], self.landmarks[:count], wanted, self.clips[:count])


def make_trial(test: Corpus, num_people: int, clips_per_person: int, seed: int) -> Trial:
    """Set the task: reference pictures, prompts, and what a perfect model would draw."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.arange(num_people, device=test.device) * clips_per_person
    frame = torch.zeros_like(clip)
    _, landmarks = test.boxes_and_landmarks(clip, frame)
    wanted = sample_attributes(num_people, generator)
    pose = sample_pose(wanted.action, test.num_frames, generator)
    light = torch.rand(num_people, 3, generator=generator)
    scene = Scene(test.scene.identity[clip].cpu(), wanted, pose, light).to(test.device)
    clips = render(scene, FRAME_SIZE_PX).float() / 127.5 - 1
    return Trial(test.pictures(clip, frame), landmarks, scene.attributes, clips)


@dataclass(frozen=True)
class IdentityScore:
    """How far drawn faces are those of the references.

    Attributes:
        similarity: mean cosine to the reference's face, with the bounds of a 95 % bootstrap interval.
        floor: the same for renders of the wrong people, through the codec.
        ceiling: the same for renders of the right people as the prompts ask, through the codec.
        position: where `similarity` lies between floor 0 and ceiling 1.
        rank1: share of drawn faces whose nearest reference among all is the right one.
        found: share of pictures in which a face was found.
        num_people: n.
    """

    similarity: tuple[float, float, float]
    floor: float
    ceiling: float
    position: float
    rank1: float
    found: float
    num_people: int


@torch.no_grad()
def score_identity(judges: Judges, codec: AutoencoderKL, trial: Trial, drawn: Tensor) -> IdentityScore:
    """Compare drawn pictures [N, 3, S, S] with the references of a trial."""
    reference, found = judges.embed(trial.references), judges.embed(drawn)
    perfect = judges.embed(decode(codec, encode(codec, trial.renders)))
    cosine = (found * reference).sum(1)
    ceiling = float((perfect * reference).sum(1).mean())
    floor = float((perfect.roll(1, 0) * reference).sum(1).mean())
    nearest = (found @ reference.T).argmax(1)
    mean = float(cosine.mean())
    return IdentityScore(
        similarity=(mean, *bootstrap(cosine.cpu())),
        floor=floor,
        ceiling=ceiling,
        position=(mean - floor) / (ceiling - floor),
        rank1=float((nearest.cpu() == torch.arange(len(nearest))).float().mean()),
        found=float((found.norm(dim=1) > 0).float().mean()),
        num_people=len(cosine),
    )


def bootstrap(values: Tensor, draws: int = 2000) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of the mean of [N]."""
    generator = torch.Generator().manual_seed(0)
    means = values[torch.randint(len(values), (draws, len(values)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


@torch.no_grad()
def codec_retention(judges: Judges, codec: AutoencoderKL, test: Corpus, clips_per_person: int) -> float:
    """Similarity of reconstructions to another clip of the person, as a share of that of the original frames."""
    first = torch.arange(0, test.num_clips, clips_per_person, device=test.device)
    pictures, other = test.pictures(first, first % 8), judges.embed(test.pictures(first + 1, first % 8))
    restored = judges.embed(decode(codec, encode(codec, pictures)))
    return float((restored * other).sum(1).mean() / (judges.embed(pictures) * other).sum(1).mean())


@dataclass(frozen=True)
class MotionScore:
    """How clips move.

    Attributes:
        actions: share of clips whose action is read as asked.
        flicker: mean absolute change between neighbouring frames, over that of renders of the same prompts.
        attributes: share of attributes read as asked, mean over attributes, in the middle frame.
        num_clips: n.
    """

    actions: float
    flicker: float
    attributes: float
    num_clips: int


@torch.no_grad()
def score_motion(judges: Judges, drawn: Tensor, rendered: Tensor, wanted: Attributes) -> MotionScore:
    """Read clips [P, F, 3, S, S] in [-1, 1] that should show `wanted`; `rendered` went through the codec."""
    middle = drawn[:, drawn.shape[1] // 2]
    accuracy = attribute_accuracy(judges.reader, middle, wanted)
    change = (drawn[:, 1:] - drawn[:, :-1]).abs().mean() / (rendered[:, 1:] - rendered[:, :-1]).abs().mean()
    return MotionScore(
        actions=action_accuracy(judges.reader, judges.actions, drawn, wanted.action),
        flicker=float(change),
        attributes=sum(accuracy.values()) / len(accuracy),
        num_clips=len(drawn),
    )
