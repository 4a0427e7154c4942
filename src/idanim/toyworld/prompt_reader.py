"""Does a toy video show what its prompt asks for? Read by the networks that read attributes and actions."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch

from idanim.files import sha256
from idanim.toyworld.faces import load_network, small_square
from idanim.toyworld.networks import VISIBLE, ActionReader, Reader
from idanim.toyworld.people import ACTIONS, COLOURS, HAIR_COLOURS, HAIR_STYLES, POSE_SPREAD
from idanim.types import UInt8Array

NUM_FRAMES = 8
"""Length of the clips from which the action reader tells an action."""


class ToyPromptReader:
    """Reads attributes and actions of the toy world, and compares them with a prompt's words.

    Args:
        folder: holds `reader.safetensors` and `action_reader.safetensors`.

    Raises:
        IdanimError: a file of weights is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        files = [Path(folder) / f"{name}.safetensors" for name in ("reader", "action_reader")]
        self._reader = load_network(Reader(), files[0])
        self._actions = load_network(ActionReader(NUM_FRAMES, len(ACTIONS)), files[1])
        digest = hashlib.sha256("".join(sha256(path) for path in files).encode())
        self.name = f"toy/reader-{digest.hexdigest()[:8]}"

    def asks(self, prompt: str) -> tuple[bool, bool]:
        """Whether a prompt asks for visible attributes, and whether for an action."""
        asked = asked_for(prompt)
        return any(name in VISIBLE for name in asked), "action" in asked

    @torch.no_grad()
    def read(self, frames: UInt8Array, prompt: str) -> tuple[float | None, float | None]:
        """Compare a video with its prompt; see `idanim.metrics.protocols.PromptReader`.

        Attributes are read in each frame. The action is read from the track of poses, in 8 evenly spaced frames;
        a shorter video has none.
        """
        asked = asked_for(prompt)
        reading = self._reader(torch.cat([small_square(rgb) for rgb in frames]))
        right = [
            float((reading.attributes[name].argmax(1) == value).float().mean())
            for name, value in asked.items()
            if name in VISIBLE
        ]
        attributes = sum(right) / len(right) if right else None
        if "action" not in asked or len(frames) < NUM_FRAMES:
            return attributes, None
        chosen = torch.linspace(0, len(frames) - 1, NUM_FRAMES).round().long()
        track = reading.pose[chosen][None] / POSE_SPREAD
        return attributes, float(self._actions(track).argmax(1) == asked["action"])


def asked_for(prompt: str) -> dict[str, int]:
    """What a prompt in the toy's words asks for: attribute → index of its value, unmentioned ones left out."""
    text = f" {re.sub('[^a-z]+', ' ', prompt.lower())} "
    colours = "|".join(COLOURS)
    asked: dict[str, int] = {}
    for name, noun in (("background", "background"), ("shirt", "shirt"), ("hat", "hat")):
        found = re.search(rf" ({colours}) {noun}\b", text)
        if found:
            asked[name] = COLOURS.index(found[1]) + (name == "hat")
    if " no hat " in text:
        asked["hat"] = 0
    if " glasses " in text:
        asked["glasses"] = int(" no glasses " not in text)
    style = re.search(rf" ({'|'.join(HAIR_STYLES)}) ", text)
    if style:
        asked["hair_style"] = HAIR_STYLES.index(style[1])
    hair = re.search(rf" ({'|'.join(HAIR_COLOURS)}) hair\b", text)
    if hair:
        asked["hair_colour"] = HAIR_COLOURS.index(hair[1])
    for index, action in enumerate(ACTIONS):
        if f" {action} " in text:
            asked["action"] = index
    return asked
