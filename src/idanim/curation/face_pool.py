"""The face pool of a clip: faces from random frames of the whole video (paper §3.3).

The paper shuffles the frames and goes through them, discarding those with more than one face, until it has five.
Here the same is done in one pass and bounded memory: to shuffle is to sort by a random number, so each frame gets
one as it comes by, and the faces with the largest numbers are kept. With another number, such as the face's quality,
the same draw takes the best. Some faces more than wanted are kept, in place of those that turn out to be somebody else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from idanim.curation.decision import RejectedError
from idanim.data.sample import FaceMeta
from idanim.faces.align import aligned_crop, natural_size_px
from idanim.faces.quality import blur, head_pose_deg
from idanim.pictures import encode_jpeg
from idanim.types import Face, FloatArray, UInt8Array

CUTOUT_MARGIN = 1.0
"""Kept around the face's box, in box sizes: enough for an aligned crop of a tilted head."""


ENOUGH_PX, ENOUGH_BLUR = 224.0, 200.0
"""A face that is larger or sharper than this is not better for it."""


@dataclass(frozen=True)
class Cutout:
    """A face with the pixels around it, at the source's resolution.

    Attributes:
        frame: frame index in the source video.
        face: as detected, in pixels of the source frame.
        rgb: [H, W, 3] uint8, a part of the source frame.
        left: where that part begins in the source frame, in pixels.
        top: where that part begins in the source frame, in pixels.
    """

    frame: int
    face: Face
    rgb: UInt8Array
    left: int
    top: int

    @classmethod
    def take(cls, frame: int, rgb: UInt8Array, face: Face) -> Cutout:
        """Copy the surroundings of a face out of a whole frame."""
        height, width = rgb.shape[:2]
        mx, my = face.width_px * CUTOUT_MARGIN, face.height_px * CUTOUT_MARGIN
        left, right = (int(np.clip(v, 0, width)) for v in (face.box[0] - mx, face.box[2] + mx + 1))
        top, bottom = (int(np.clip(v, 0, height)) for v in (face.box[1] - my, face.box[3] + my + 1))
        if right - left < 2 or bottom - top < 2:  # a box beside the picture
            left, top, right, bottom = 0, 0, width, height
        return cls(frame, face, rgb[top:bottom, left:right].copy(), left, top)

    @property
    def local_face(self) -> Face:
        """The face in pixels of `rgb`."""
        shift = np.array([self.left, self.top], dtype=np.float32)
        left, top, right, bottom = self.face.box
        box = (left - self.left, top - self.top, right - self.left, bottom - self.top)
        return replace(self.face, box=box, landmarks=self.face.landmarks - shift)


KnownFace = tuple[Cutout, FloatArray]
"""A face and its recognition vector, [D] of unit length."""


class FaceChoice(Protocol):
    """Ranks faces; those of the highest numbers come into the pool."""

    def number(self, cutout: Cutout, rng: np.random.Generator) -> float:
        """The rank of one face."""
        ...


class RandomFaces:
    """Every face is equally likely, as in the paper."""

    def number(self, cutout: Cutout, rng: np.random.Generator) -> float:
        """A random number in [0, 1)."""
        return float(rng.random())


class BestFaces:
    """The best faces: large, sharp, turned to the camera and found with certainty."""

    def number(self, cutout: Cutout, rng: np.random.Generator) -> float:
        """Product of detection score, cosines of yaw and pitch, and size and sharpness, both with falling returns."""
        face = cutout.local_face
        yaw, pitch = np.radians(head_pose_deg(face.landmarks))
        size = min(face.width_px, face.height_px) / ENOUGH_PX
        sharpness = blur(cutout.rgb, face.landmarks) / ENOUGH_BLUR
        return float(face.score * np.cos(yaw) * np.cos(pitch) * min(size, 1) ** 0.5 * min(sharpness, 1) ** 0.5)


class FaceDraw:
    """Keeps the faces of the highest numbers from a stream of frames, in bounded memory.

    Args:
        num_faces: how many to keep.
        choice: gives the numbers.
        rng: its source of chance.
    """

    def __init__(self, num_faces: int, choice: FaceChoice, rng: np.random.Generator) -> None:
        self._num_faces = num_faces
        self._choice = choice
        self._rng = rng
        self._kept: list[tuple[float, int, Cutout]] = []  # a heap, the smallest number first

    def offer(self, cutout: Cutout) -> None:
        """Consider the only face of one frame."""
        entry = (self._choice.number(cutout, self._rng), -cutout.frame, cutout)
        if len(self._kept) < self._num_faces:
            heapq.heappush(self._kept, entry)
        else:
            heapq.heappushpop(self._kept, entry)

    def drawn(self) -> list[Cutout]:
        """The faces kept, the highest number first."""
        return [cutout for *_, cutout in sorted(self._kept, key=lambda entry: entry[:2], reverse=True)]


@dataclass(frozen=True)
class FacePool:
    """How a clip's faces are drawn and stored.

    Attributes:
        choice: which faces of a video: `RandomFaces` or `BestFaces`.
        num_faces: faces in the pool; the paper takes five.
        max_px: side of the largest crop. Smaller faces keep their own resolution, nothing is magnified.
        jpeg_quality: 1 to 100.
    """

    choice: FaceChoice
    num_faces: int
    max_px: int
    jpeg_quality: int

    def draw(self, rng: np.random.Generator) -> FaceDraw:
        """Begin a draw from one scene; it keeps twice as many faces as the pool takes."""
        return FaceDraw(2 * self.num_faces, self.choice, rng)

    def pick(
        self, draw: FaceDraw, vector_of: Callable[[Cutout], FloatArray], is_person: Callable[[FloatArray], bool]
    ) -> list[KnownFace]:
        """The pool: the first faces drawn that are the person's.

        Args:
            draw: of the scene that the clip is cut from.
            vector_of: a face's recognition vector.
            is_person: whether a recognition vector is the person's.

        Raises:
            RejectedError: "face_pool_too_small".
        """
        pool = []
        for cutout in draw.drawn():
            vector = vector_of(cutout)
            if is_person(vector):
                pool.append((cutout, vector))
            if len(pool) == self.num_faces:
                return pool
        text = f"{len(pool)} sampled frames show the person's face alone, the pool wants {self.num_faces}"
        raise RejectedError("face_pool_too_small", text, len(pool), self.num_faces)

    def store(
        self, cutout: Cutout, vector: FloatArray, role: Literal["pool", "first_frame"], clip: str
    ) -> tuple[FaceMeta, bytes]:
        """Align and measure one face.

        Args:
            cutout: the face.
            vector: its recognition vector.
            role: what it serves as.
            clip: key of its clip.

        Returns:
            Its record, and its crop as JPEG.
        """
        face = cutout.local_face
        size = min(natural_size_px(face.landmarks), self.max_px)
        crop = aligned_crop(cutout.rgb, face.landmarks, size)
        yaw, pitch = head_pose_deg(face.landmarks)
        left, top, right, bottom = (round(v, 2) for v in cutout.face.box)
        meta = FaceMeta(
            clip=clip,
            frame=cutout.frame,
            role=role,
            box=(left, top, right, bottom),
            landmarks=tuple((round(float(x), 2), round(float(y), 2)) for x, y in cutout.face.landmarks),
            score=round(face.score, 4),
            size_px=round(min(face.width_px, face.height_px), 2),
            blur=round(blur(cutout.rgb, face.landmarks), 2),
            yaw_deg=round(yaw, 2),
            pitch_deg=round(pitch, 2),
            embedding=tuple(round(float(v), 6) for v in vector),
        )
        return meta, encode_jpeg(crop, self.jpeg_quality)
