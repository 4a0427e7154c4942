"""Small convolutional networks that look at toy pictures: two face recognisers and a frame reader."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.toyworld.people import NUM_VALUES, POSE, POSE_MEAN, POSE_SPREAD

CROP_SIZE_PX = 28
"""The recognisers see a 112 px ArcFace crop averaged to this size."""
EMBEDDING_WIDTH = 128
RECOGNISER_WIDTHS = {"a": (48, 80, 128), "b": (40, 88, 120)}
"""Channels of the two recognisers. The second takes no part in any training: it only measures."""


def use_channels_last(module: nn.Module) -> None:
    """Store convolutions as CPUs like them; changes speed only."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + branch)


def trunk(width: tuple[int, int, int]) -> nn.Sequential:
    """Build [B, 3, S, S] → [B, width[2] × (S / 8)² rounded up]."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(12, width[0], 3, 1, 1, bias=False),
        nn.BatchNorm2d(width[0]),
        nn.ReLU(),
        ResidualBlock(width[0], width[0]),
        ResidualBlock(width[0], width[1], 2),
        ResidualBlock(width[1], width[1]),
        ResidualBlock(width[1], width[2], 2),
        nn.Flatten(),
    )


class Recogniser(nn.Module):
    """Embed aligned faces, in the layout that insightface's ArcFaceONNX wants.

    Args:
        width: channels of the three resolutions.
    """

    def __init__(self, width: tuple[int, int, int]) -> None:
        super().__init__()
        self.trunk = trunk(width)
        self.project = nn.Linear(width[2] * 16, EMBEDDING_WIDTH)
        self.norm = nn.BatchNorm1d(EMBEDDING_WIDTH)

    def embed(self, crops: Tensor) -> Tensor:
        """Embed [B, 3, 28, 28] crops in [-1, 1] to [B, 128], not of unit length."""
        return self.norm(self.project(self.trunk(crops)))

    def forward(self, crops: Tensor) -> Tensor:
        """Embed [B, 3, 112, 112] ArcFace crops in [-1, 1] to [B, 128], not of unit length."""
        return self.embed(F.avg_pool2d(crops, 4))


class Reading(NamedTuple):
    """What the reader sees in B frames."""

    attributes: dict[str, Tensor]
    """Logits [B, number of values] by attribute; no action, which one frame doesn't show."""
    pose: Tensor
    """[B, 8], see people.POSE."""


VISIBLE = {name: size for name, size in NUM_VALUES.items() if name != "action"}


class Reader(nn.Module):
    """Read attributes and pose from whole 32 px frames."""

    def __init__(self, width: tuple[int, int, int] = (40, 72, 112)) -> None:
        super().__init__()
        self.trunk = trunk(width)
        self.sizes = [*VISIBLE.values(), len(POSE)]
        self.hidden = nn.Linear(width[2] * 16, 256)
        self.heads = nn.Linear(256, sum(self.sizes))

    def forward(self, frames: Tensor) -> Reading:
        """Read [B, 3, 32, 32] frames in [-1, 1]."""
        *logits, pose = self.heads(F.relu(self.hidden(self.trunk(frames)))).split(self.sizes, dim=-1)
        return Reading(dict(zip(VISIBLE, logits, strict=True)), pose * POSE_SPREAD.to(pose) + POSE_MEAN.to(pose))


class Detection(NamedTuple):
    """Where the detector sees a face in B pictures."""

    box: Tensor
    """[B, 4] left, top, right, bottom, in picture widths."""
    landmarks: Tensor
    """[B, 5, 2] in picture widths."""
    presence: Tensor
    """[B] logit of a face being there."""


class Detector(nn.Module):
    """Find the one face of a 32 px picture."""

    def __init__(self, width: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__()
        self.trunk = trunk(width)
        self.hidden = nn.Linear(width[2] * 16, 192)
        self.heads = nn.Linear(192, 15)

    def forward(self, pictures: Tensor) -> Detection:
        """Search [B, 3, 32, 32] pictures in [-1, 1]."""
        outputs = self.heads(F.relu(self.hidden(self.trunk(pictures))))
        box, landmarks, presence = outputs.split([4, 10, 1], dim=-1)
        return Detection(box + 0.5, landmarks.unflatten(-1, (5, 2)) + 0.5, presence[:, 0])


class ActionReader(nn.Module):
    """Tell the action from the track of poses that the Reader saw."""

    def __init__(self, num_frames: int, num_actions: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_frames * len(POSE), 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, num_actions),
        )

    def forward(self, pose: Tensor) -> Tensor:
        """Map poses [B, F, 8] to logits [B, 9]."""
        return self.layers(pose)


def unit(vectors: Tensor) -> Tensor:
    """Scale [..., D] to length 1."""
    return F.normalize(torch.as_tensor(vectors), dim=-1)
