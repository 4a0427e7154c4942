"""Identity guidance: a face recogniser leads the sampling to the person; goes beyond the paper.

Classifier guidance (arXiv 2105.05233, Alg. 2) with the similarity of face vectors in place of a class, and with the
gradient at the predicted clean video in place of that through the denoiser, as in FreeDoM (arXiv 2303.09833, §4.2).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idanim.generation.schedulers import noise_level
from idanim.models.backbone import Backbone, Diffused
from idanim.models.face_alignment import ARCFACE_SIZE_PX
from idanim.models.recogniser import FaceRecogniser
from idanim.pictures import square
from idanim.types import Face, UInt8Array
from idanim.video import to_float, to_uint8

FindFaces = Callable[[Sequence[UInt8Array]], list[list[Face]]]
"""Finds the faces of each of some pictures, by falling size; see `idanim.faces.engine.detect_all`."""
RAMP = 0.1
"""Similarity below the limit within which guidance fades out."""
GRADIENT_SCALE = 1024.0
"""Keeps the gradients of a half-precision decoder from vanishing; it cancels in their direction."""


@dataclass(frozen=True)
class Aim:
    """What the videos of one sampling are led to.

    Attributes:
        persons: face vectors of unit length [B, D], whom each video shows.
        strength: root mean square of what a frame by itself would add to its clean latents in a step.
        limit: cosine to the person from which on a frame asks for nothing by itself; that of two pictures of a person.
    """

    persons: Tensor
    strength: float
    limit: float


class IdentityGuidance:
    """Moves the predicted clean video of every step towards frames whose faces are the person's.

    x̂_0 ← x̂_0 + strength · d, in each frame d = w · g / rms(g), with g the gradient of cos(E(x̂_0), e), e the person's
    vector, and w falling from 1 to 0 where the cosine reaches the limit. A video whose every frame moves by itself
    flickers, so a part of d is its mean over the frames, also in those that ask for nothing.

    The network that scores the videos must be another one than this.

    Args:
        backbone: decodes latents.
        recogniser: E, frozen, on the backbone's device.
        find_faces: shows where the faces are; frames without one don't count.
        min_time: earlier times of the diffusion, in [0, 1], are left alone: what changes there is no more made to fit.
        max_time: later times are left alone: they show no face yet.
        shared: the part of d, in [0, 1], that is the mean over frames.
        chunk_frames: frames, of all videos together, that are decoded with gradients at once (at least one of each
            video): what costs memory.
    """

    def __init__(
        self,
        backbone: Backbone,
        recogniser: FaceRecogniser,
        find_faces: FindFaces,
        min_time: float = 0.2,
        max_time: float = 0.9,
        shared: float = 0.5,
        chunk_frames: int = 4,
    ) -> None:
        self.backbone = backbone
        self.recogniser = recogniser
        self.find_faces = find_faces
        self.min_time = min_time
        self.max_time = max_time
        self.shared = shared
        self.chunk_frames = chunk_frames

    def face_vector(self, references: Sequence[UInt8Array]) -> Tensor:
        """The mean of the unit vectors of face crops of one person, each [H, W, 3] uint8: [1, D]."""
        return torch.stack([self._vector(crop) for crop in references]).mean(0)

    def _vector(self, crop: UInt8Array) -> Tensor:
        """Of the face as it is cut out of frames; of the whole crop where none is found in it. [1, D]."""
        device = next(self.recogniser.buffers()).device
        (faces,) = self.find_faces([crop])
        if faces:
            landmarks = torch.from_numpy(np.asarray(faces[0].landmarks))[None].float()
            return self.recogniser.embed_at(to_float(crop[None]).to(device), landmarks.to(device))
        return self.recogniser(to_float(square(crop, ARCFACE_SIZE_PX)[None]).to(device))

    def lead(self, scheduler: Any, aim: Aim) -> None:
        """Make each step of a diffusers scheduler start from the corrected answer of the denoiser.

        Args:
            scheduler: of one sampling; changed.
            aim: of that sampling.
        """
        plain_step = scheduler.step

        @functools.wraps(plain_step)  # the pipeline looks at its signature
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.min_time <= float(timestep) / scheduler.config.num_train_timesteps <= self.max_time:
                model_output = self._corrected(scheduler, model_output, timestep, sample, aim)
            return plain_step(model_output, timestep, sample, *args, **kwargs)

        scheduler.step = step

    def _corrected(self, scheduler: Any, answer: Tensor, timestep: Any, sample: Tensor, aim: Aim) -> Tensor:
        signal_share, magnified = noise_level(scheduler, timestep)
        share = torch.full((len(sample),), signal_share, device=sample.device)
        times = torch.full((len(sample),), float(timestep), device=sample.device)
        diffused = Diffused(sample.float() / magnified, times, answer, share)
        clean = self.backbone.clean(diffused, answer.float())
        moved = clean + aim.strength * self.direction(clean, aim)
        return self.backbone.answer_for(diffused, moved).to(answer.dtype)

    def direction(self, clean: Tensor, aim: Aim) -> Tensor:
        """Where the latents should go for the faces to be nearer to the person.

        Args:
            clean: predicted clean latents [B, C, F, h, w].
            aim: of these videos.

        Returns:
            d, [B, C, F, h, w] float32; 0 where no frame has a face that is to change.
        """
        chunks = clean.float().split(max(1, self.chunk_frames // len(clean)), dim=2)
        moves = torch.cat([self._frame_directions(chunk.detach(), aim) for chunk in chunks], dim=2)
        return torch.lerp(moves, moves.mean(2, keepdim=True), self.shared)

    def _frame_directions(self, clean: Tensor, aim: Aim) -> Tensor:
        """w · g / rms(g) of every frame by itself, [B, C, f, h, w]."""
        with torch.enable_grad():
            clean.requires_grad_()
            decoded = self.backbone.decode_video(clean)
            frames = decoded.flatten(0, 1)
            shown, landmarks = self._faces(frames.detach().float())
            if not shown:
                return torch.zeros_like(clean)
            vectors = self.recogniser.embed_at(frames[shown], landmarks.to(frames.device))
            wanted = aim.persons.repeat_interleave(decoded.shape[1], dim=0)[shown].to(vectors)
            cosine = (vectors * wanted).sum(1)
            (gradient,) = torch.autograd.grad(GRADIENT_SCALE * cosine.sum(), clean)
        weight = torch.zeros(len(frames), device=clean.device)
        weight[shown] = ((aim.limit - cosine.detach()) / RAMP).clamp(0, 1)
        size = gradient.pow(2).mean((1, 3, 4), keepdim=True).sqrt()
        usable = (size > 0) & size.isfinite()
        return torch.where(usable, gradient / size, 0.0) * weight.view(len(clean), 1, -1, 1, 1)

    def _faces(self, frames: Tensor) -> tuple[list[int], Tensor]:
        """Numbers of those of the frames [K, 3, H, W] that show a face, and its landmarks, [n, 5, 2] pixels.

        Frames with values that are not finite show none: who decodes the finished video says so.
        """
        finite = frames.isfinite().flatten(1).all(1)
        faces = self.find_faces(list(to_uint8(frames.nan_to_num(0.0, 0.0, 0.0))))
        shown = [number for number, found in enumerate(faces) if found and finite[number]]
        landmarks = [torch.from_numpy(np.array(faces[number][0].landmarks)).float() for number in shown]
        return shown, torch.stack(landmarks) if landmarks else torch.empty(0, 5, 2)
