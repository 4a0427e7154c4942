"""Who is drawn and how: identities, what captions say of a clip, and the motion of the head.

Letters: P people or clips · F frames.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

IDENTITY_PARAMETERS = (
    "face_width", "face_height", "jaw", "squareness", "skin_tone", "skin_hue",
    "eye_spacing", "eye_size", "eye_aspect", "eye_height", "eye_hue", "eye_value",
    "brow_thickness", "brow_tilt", "brow_height", "brow_value",
    "nose_length", "nose_width", "mouth_width", "mouth_height", "lip_thickness", "lip_red",
    "ear_size", "freckles", "beard", "blush", "mole", "mole_x", "mole_y",
)  # fmt: skip
"""Names of the columns of an identity vector. Each lies in [0, 1]."""

SPARSE_TRAITS = {"freckles": 0.35, "beard": 0.35, "mole": 0.3, "blush": 0.4}
"""Traits that most people lack, with the share of people who have them; 0 means absent."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "gray", "white")
HAIR_COLOURS = ("black", "brown", "blond", "ginger", "silver")
HAIR_STYLES = ("short", "long", "bald")
ACTIONS = (
    "smiling", "talking", "blinking", "nodding", "shaking head",
    "turning left", "turning right", "moving left", "moving right",
)  # fmt: skip
POSE = ("x", "y", "scale", "yaw", "pitch", "smile", "mouth_open", "blink")
"""Names of the columns of a pose: place and size of the head in half frame widths, then expression.

Yaw and pitch are positive towards the right and the bottom of the picture, in [-1, 1]; so is smile;
mouth_open and blink lie in [0, 1].
"""

POSE_MEAN = torch.tensor([0.0, 0.12, 1.36, 0.0, 0.0, 0.1, 0.05, 0.03])
POSE_SPREAD = torch.tensor([0.1, 0.05, 0.05, 0.4, 0.35, 0.35, 0.3, 0.3])
"""Rough mean and standard deviation of the columns of a pose, which give errors in them a common unit."""

NUM_IDENTITY = len(IDENTITY_PARAMETERS)
NUM_LIGHT = 3


class Attributes(NamedTuple):
    """What a caption says of a clip. Every field is [P] int64."""

    background: Tensor
    """Index into COLOURS."""
    shirt: Tensor
    """Index into COLOURS."""
    hat: Tensor
    """0 for no hat, else 1 + index into COLOURS."""
    glasses: Tensor
    """0 or 1."""
    hair_colour: Tensor
    """Index into HAIR_COLOURS; not visible on a bald person."""
    hair_style: Tensor
    """Index into HAIR_STYLES."""
    action: Tensor
    """Index into ACTIONS."""


NUM_VALUES = {
    "background": len(COLOURS),
    "shirt": len(COLOURS),
    "hat": 1 + len(COLOURS),
    "glasses": 2,
    "hair_colour": len(HAIR_COLOURS),
    "hair_style": len(HAIR_STYLES),
    "action": len(ACTIONS),
}
"""How many values each attribute takes."""


class Scene(NamedTuple):
    """Everything that P clips of F frames show: the renderer's input and the ground truth."""

    identity: Tensor
    """[P, 29] float32 in [0, 1]: the person, see IDENTITY_PARAMETERS."""
    attributes: Attributes
    """What the caption says; constant over a clip."""
    pose: Tensor
    """[P, F, 8] float32: see POSE."""
    light: Tensor
    """[P, 3] float32 in [0, 1]: shade of the background, side of the light, brightness."""

    def select(self, index: Tensor | slice) -> Scene:
        """Return the clips at `index` ([K] int64, [P] bool or a slice)."""
        return Scene(
            self.identity[index],
            Attributes(*(value[index] for value in self.attributes)),
            self.pose[index],
            self.light[index],
        )

    def to(self, device: torch.device) -> Scene:
        """Return the scene on a device."""
        attributes = Attributes(*(value.to(device) for value in self.attributes))
        return Scene(self.identity.to(device), attributes, self.pose.to(device), self.light.to(device))

    @property
    def num_clips(self) -> int:
        """P."""
        return self.identity.shape[0]


def sample_identities(num_people: int, generator: Generator) -> Tensor:
    """Draw people.

    Returns:
        [P, 29] float32 in [0, 1].
    """
    identity = torch.rand(num_people, NUM_IDENTITY, generator=generator)
    for name, share in SPARSE_TRAITS.items():
        column = IDENTITY_PARAMETERS.index(name)
        present = torch.rand(num_people, generator=generator) < share
        identity[:, column] = torch.where(present, 0.4 + 0.6 * identity[:, column], 0.0)
    return identity


def sample_attributes(num_clips: int, generator: Generator) -> Attributes:
    """Draw what captions say, independently of the person. Half of the clips show a hat, 12 % are bald."""

    def integers(high: int) -> Tensor:
        return torch.randint(high, (num_clips,), generator=generator)

    def chance(probability: float) -> Tensor:
        return torch.rand(num_clips, generator=generator) < probability

    return Attributes(
        background=integers(len(COLOURS)),
        shirt=integers(len(COLOURS)),
        hat=torch.where(chance(0.5), 1 + integers(len(COLOURS)), 0),
        glasses=chance(0.4).long(),
        hair_colour=integers(len(HAIR_COLOURS)),
        hair_style=torch.where(chance(0.12), HAIR_STYLES.index("bald"), integers(2)),
        action=integers(len(ACTIONS)),
    )


def sample_pose(action: Tensor, num_frames: int, generator: Generator) -> Tensor:
    """Move a head as its action says, from a random place, size and direction.

    Args:
        action: [P] int64 index into ACTIONS.
        num_frames: F, spread evenly over the action.
        generator: source of randomness.

    Returns:
        [P, F, 8] float32, see POSE.
    """
    num_clips = len(action)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num_clips, 1, generator=generator)

    def doing(name: str) -> Tensor:
        return (action == ACTIONS.index(name)).float()[:, None]

    time = torch.linspace(0, 1, num_frames)[None].expand(num_clips, num_frames)
    strength, phase = uniform(0.8, 1.0), uniform(-0.06, 0.06)
    ramp = ((time + phase - 0.1) / 0.75).clamp(0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    side = torch.where(uniform(0, 1) < 0.5, 1.0, -1.0)
    swing = side * strength * torch.sin(2 * math.pi * 1.6 * (time + phase))
    chatter = strength * (0.5 - 0.5 * torch.cos(2 * math.pi * (2.3 * time + 2 * phase)))

    def drift(amount: float) -> Tensor:
        return amount * torch.sin(2 * math.pi * (0.5 * time + uniform(0, 1)))

    moving, turning = doing("moving right") - doing("moving left"), doing("turning right") - doing("turning left")
    x = uniform(-0.05, 0.05) + drift(0.02) + moving * strength * 0.24 * (2 * ramp - 1)
    y = uniform(0.08, 0.16) + drift(0.015)
    scale = uniform(1.3, 1.42).expand_as(time)
    steady_head = 1 - 0.7 * (doing("shaking head") + turning.abs())
    yaw = uniform(-0.3, 0.3) * steady_head + doing("shaking head") * swing + turning * strength * ramp
    pitch = uniform(-0.25, 0.25) * (1 - 0.7 * doing("nodding")) + doing("nodding") * swing
    smile = uniform(-0.15, 0.25) + doing("smiling") * strength * ramp
    mouth_open = doing("talking") * chatter
    blink = doing("blinking") * torch.exp(-(((time - 0.5 - 2 * phase) / 0.17) ** 2))
    return torch.stack([x, y, scale, yaw, pitch, smile, mouth_open, blink], dim=-1)


def sample_scene(identity: Tensor, num_frames: int, generator: Generator) -> Scene:
    """Draw one clip for every row of `identity` ([P, 29])."""
    attributes = sample_attributes(len(identity), generator)
    pose = sample_pose(attributes.action, num_frames, generator)
    light = torch.rand(len(identity), NUM_LIGHT, generator=generator)
    return Scene(identity, attributes, pose, light)
