"""Stage 1: render the people that everything else is trained and measured on.

Letters: P clips · F frames · S frame size in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from idanim.toyworld.people import Attributes, Scene, sample_identities, sample_scene
from idanim.toyworld.renderer import locate, render

FRAME_SIZE_PX = 32
NUM_FRAMES = 8
TEST_SEED = 2024
TRAIN_SEED = 1


@dataclass(frozen=True)
class Corpus:
    """Rendered clips with everything that is true of them.

    Attributes:
        scene: what was drawn; clip `i` shows person `person[i]`.
        person: [P] int64.
        frames: [P, F, 3, S, S] uint8, on disk or on a GPU.
    """

    scene: Scene
    person: Tensor
    frames: Tensor

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self.frames.device

    @property
    def num_clips(self) -> int:
        """P."""
        return len(self.person)

    @property
    def num_frames(self) -> int:
        """F."""
        return self.scene.pose.shape[1]

    def pictures(self, clip: Tensor, frame: Tensor) -> Tensor:
        """Return single frames: two [B] int64 → [B, 3, S, S] float32 in [-1, 1]."""
        return self.frames[clip, frame].float() / 127.5 - 1

    def clips(self, clip: Tensor) -> Tensor:
        """Return whole clips: [B] int64 → [B, F, 3, S, S] float32 in [-1, 1]."""
        return self.frames[clip].float() / 127.5 - 1

    def boxes_and_landmarks(self, clip: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Return the true boxes [B, 4] and landmarks [B, 5, 2] of single frames, in pixels."""
        return locate(self.scene.identity[clip], self.scene.pose[clip, frame], self.frames.shape[-1])


def render_corpus(folder: Path, num_people: int, clips_per_person: int, seed: int, device: torch.device) -> Corpus:
    """Render clips into `folder`, or read them where they are already there.

    Args:
        folder: where `frames.npy` lies.
        num_people: number of persons.
        clips_per_person: clips of each person, in independent attributes, actions and light.
        seed: people of two seeds are never the same.
        device: draws, and holds the result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    person = torch.arange(num_people).repeat_interleave(clips_per_person)
    scene = sample_scene(sample_identities(num_people, generator)[person], NUM_FRAMES, generator)
    path = folder / "frames.npy"
    if not path.exists():
        partial = folder / "frames.partial.npy"
        shape = (len(person), NUM_FRAMES, 3, FRAME_SIZE_PX, FRAME_SIZE_PX)
        frames = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        batch_size = 128 if device.type == "cpu" else 4096
        for start in range(0, len(person), 1024):
            part = slice(start, start + 1024)
            frames[part] = render(scene.select(part).to(device), FRAME_SIZE_PX, batch_size).cpu().numpy()
        frames.flush()
        partial.rename(path)
    stored = torch.from_numpy(np.load(path, mmap_mode="c"))  # copy on write: torch wants memory that it may write
    return Corpus(scene.to(device), person.to(device), stored.to(device))


def batch_of(attributes: Attributes, clip: Tensor) -> Attributes:
    """Select the attributes of some clips."""
    return Attributes(*(value[clip] for value in attributes))
