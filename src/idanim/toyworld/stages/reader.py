"""Stage 4: the readers that measure prompt following and motion, and the face detector."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from idanim.toyworld.degrade import degrade
from idanim.toyworld.draws import Draws
from idanim.toyworld.networks import VISIBLE, ActionReader, Detector, Reader, use_channels_last
from idanim.toyworld.people import ACTIONS, HAIR_STYLES, POSE, POSE_SPREAD, Attributes
from idanim.toyworld.stages.corpus import FRAME_SIZE_PX, Corpus
from idanim.toyworld.stages.loop import Schedule, fit

log = logging.getLogger(__name__)

NUM_TRACKS = 6000
"""Clips that the action reader learns from."""
POSE_WEIGHT = 8.0
HIDDEN_SHARE = 0.3
"""Share of the detector's pictures without a face."""


def _random_frames(train: Corpus, draws: Draws, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw (clip, frame, pictures); a little blurred, shaded and noisy, as generated ones are."""
    clip = draws.integers(train.num_clips, batch_size)
    frame = draws.integers(train.num_frames, batch_size)
    return clip, frame, degrade(train.pictures(clip, frame), draws)


def train_reader(train: Corpus, folder: Path, schedule: Schedule) -> Reader:
    """Train the frame reader, resuming from `folder`."""
    torch.manual_seed(4)
    model = Reader().to(train.device)
    use_channels_last(model.trunk)
    attributes, spread = train.scene.attributes._asdict(), POSE_SPREAD.to(train.device)

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, pictures = _random_frames(train, draws, schedule.local_batch_size)
        reading = model(pictures)
        total = POSE_WEIGHT * ((reading.pose - train.scene.pose[clip, frame]) / spread).pow(2).mean()
        for name, logits in reading.attributes.items():
            total = total + F.cross_entropy(logits, attributes[name][clip])
        return total

    fit("reader", model, loss, schedule, folder / "reader.pt", seed=4)
    return model.eval()


@torch.no_grad()
def read_tracks(reader: Reader, clips: Tensor, batch_size: int = 64) -> Tensor:
    """Read the poses [P, F, 8] of clips [P, F, 3, S, S]."""
    parts = [reader(part.flatten(0, 1)).pose.unflatten(0, part.shape[:2]) for part in clips.split(batch_size)]
    return torch.cat(parts)


def train_action_reader(reader: Reader, train: Corpus, folder: Path, schedule: Schedule) -> ActionReader:
    """Train the action reader on what the frame reader sees in the first clips."""
    torch.manual_seed(5)
    model = ActionReader(train.num_frames, len(ACTIONS)).to(train.device)
    spread = POSE_SPREAD.to(train.device)

    @cache
    def tracks() -> Tensor:
        parts = torch.arange(min(NUM_TRACKS, train.num_clips), device=train.device).split(256)
        return torch.cat([read_tracks(reader, train.clips(part)) for part in parts]) / spread

    action = train.scene.attributes.action

    def loss(step: int, draws: Draws) -> Tensor:
        clip = draws.integers(len(tracks()), schedule.local_batch_size)
        track = tracks()[clip]
        track = track + 0.15 * draws.normal(*track.shape)
        return F.cross_entropy(model(track), action[clip])

    fit("action reader", model, loss, schedule, folder / "action_reader.pt", seed=5)
    return model.eval()


@torch.no_grad()
def attribute_accuracy(reader: Reader, frames: Tensor, attributes: Attributes) -> dict[str, float]:
    """Share of frames [B, 3, S, S] in which each attribute ([B] fields) is read right.

    Hair colour counts only where hair can be seen: on people who are not bald.
    """
    reading = reader(frames)
    wanted = attributes._asdict()
    haired = attributes.hair_style != HAIR_STYLES.index("bald")
    accuracy = {}
    for name in VISIBLE:
        right = (reading.attributes[name].argmax(1) == wanted[name]).float()
        accuracy[name] = float(right[haired].mean() if name == "hair_colour" else right.mean())
    return accuracy


@torch.no_grad()
def action_accuracy(reader: Reader, actions: ActionReader, clips: Tensor, action: Tensor) -> float:
    """Share of clips [P, F, 3, S, S] whose action [P] is read right."""
    read = actions(read_tracks(reader, clips) / POSE_SPREAD.to(clips.device)).argmax(1)
    return float((read == action).float().mean())


@torch.no_grad()
def pose_r2(reader: Reader, frames: Tensor, pose: Tensor) -> dict[str, float]:
    """Share of the variance of each pose column [B, 8] that is read from frames [B, 3, S, S]."""
    error = (reader(frames).pose - pose).pow(2).mean(0) / pose.var(0)
    return dict(zip(POSE, (1 - error).tolist(), strict=True))


def _zoomed(pictures: Tensor, points: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Cut random squares out of pictures, from wide to close up.

    Points [B, K, 2] in pixels go along, and come back as shares of the side.
    """
    number, side = len(pictures), pictures.shape[-1]
    size = 0.6 + 0.75 * draws.uniform(number)
    places = (points + 0.5) * 2 / side - 1
    face = places[:, :2].mean(1)
    pull = (1.2 - size).clamp(0.0, 0.5)[:, None] / 0.5
    middle = face * pull + 0.3 * (draws.uniform(number, 2) - 0.5)
    theta = torch.zeros(number, 2, 3, device=pictures.device)
    theta[:, 0, 0] = theta[:, 1, 1] = size
    theta[:, :, 2] = middle
    grid = F.affine_grid(theta, [number, 3, side, side], align_corners=False)
    cut = F.grid_sample(pictures, grid, align_corners=False, padding_mode="border")
    return cut, ((places - middle[:, None]) / size[:, None, None] + 1) / 2


def _without_faces(pictures: Tensor, draws: Draws) -> Tensor:
    """Turn pictures into ones without a face: shuffled blocks, or one flat and noisy colour."""
    number, side = len(pictures), pictures.shape[-1]
    block = 8
    cells = F.unfold(pictures, block, stride=block)
    shuffled = cells[:, :, draws.permutation(cells.shape[-1])]
    blocks = F.fold(shuffled, side, block, stride=block)
    flat = pictures[:, :, :1, :1] + 0.3 * draws.normal(number, 3, side, side)
    return torch.where(draws.uniform(number, 1, 1, 1) < 0.6, blocks, flat).clamp(-1, 1)


def train_detector(train: Corpus, folder: Path, schedule: Schedule) -> Detector:
    """Train the face detector, resuming from `folder`."""
    torch.manual_seed(6)
    model = Detector().to(train.device)
    use_channels_last(model.trunk)
    num_hidden = int(HIDDEN_SHARE * schedule.local_batch_size)
    present = torch.ones(schedule.local_batch_size, device=train.device)
    present[:num_hidden] = 0

    def loss(step: int, draws: Draws) -> Tensor:
        clip, frame, pictures = _random_frames(train, draws, schedule.local_batch_size)
        boxes, landmarks = train.boxes_and_landmarks(clip, frame)
        points = torch.cat([boxes.unflatten(-1, (2, 2)), landmarks], dim=1)
        pictures, points = _zoomed(pictures, points, draws)
        pictures = torch.cat([_without_faces(pictures[:num_hidden], draws), pictures[num_hidden:]])
        found = model(pictures)
        placed = torch.cat([found.box.unflatten(-1, (2, 2)), found.landmarks], dim=1)
        error = F.smooth_l1_loss(placed[num_hidden:], points[num_hidden:], beta=0.02)
        return 10 * error + 0.3 * F.binary_cross_entropy_with_logits(found.presence, present)

    fit("detector", model, loss, schedule, folder / "detector.pt", seed=6)
    return model.eval()


@torch.no_grad()
def landmark_error_px(detector: Detector, test: Corpus) -> float:
    """Mean distance of found to true landmarks on held-out frames, in pixels of a 32 px frame."""
    clip = torch.arange(test.num_clips, device=test.device)
    frame = clip % test.num_frames
    _, landmarks = test.boxes_and_landmarks(clip, frame)
    found = detector(test.pictures(clip, frame)).landmarks * FRAME_SIZE_PX - 0.5
    return float((found - landmarks).norm(dim=-1).mean())
