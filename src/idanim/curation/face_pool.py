"""The face pool of a clip: faces from random frames of the whole video (paper §3.3).

The paper shuffles the frames and goes through them, discarding those with more than one face, until it has five.
Here the same is done in one pass and bounded memory: to shuffle is to sort by a random number, so each frame gets
one as it comes by, and the faces with the smallest numbers are kept.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from idanim.curation.decision import RejectedError
from idanim.data.sample import FaceMeta
from idanim.faces.align import aligned_crop, natural_size_px
from idanim.faces.engine import FaceEngine
from idanim.faces.quality import blur, head_pose_deg
from idanim.pictures import encode_jpeg
from idanim.types import Face, UInt8Array

CUTOUT_MARGIN = 1.0
"""Kept around the face's box, in box sizes: enough for an aligned crop of a tilted head."""


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


class FaceDraw:
    """Draws faces at random from a stream of frames, each equally likely, in bounded memory.

    Args:
        num_faces: how many to keep.
        rng: the source of chance; it is advanced once for every face offered.
    """

    def __init__(self, num_faces: int, rng: np.random.Generator) -> None:
        self._num_faces = num_faces
        self._rng = rng
        self._kept: list[tuple[float, int, Cutout]] = []  # a heap, the largest number first
        self.num_offered = 0

    def offer(self, frame: int, rgb: UInt8Array, face: Face) -> None:
        """Consider the only face of one frame."""
        self.num_offered += 1
        number = float(self._rng.random())
        if len(self._kept) < self._num_faces:
            heapq.heappush(self._kept, (-number, frame, Cutout.take(frame, rgb, face)))
        elif -number > self._kept[0][0]:
            heapq.heapreplace(self._kept, (-number, frame, Cutout.take(frame, rgb, face)))

    def drawn(self) -> list[Cutout]:
        """The faces drawn, in random order."""
        return [cutout for _, _, cutout in sorted(self._kept, key=lambda entry: -entry[0])]


@dataclass(frozen=True)
class FacePool:
    """How a clip's faces are drawn and stored.

    Attributes:
        num_faces: faces in the pool; the paper takes five.
        max_px: side of the largest crop. Smaller faces keep their own resolution, nothing is magnified.
        jpeg_quality: 1 to 100.
    """

    num_faces: int
    max_px: int
    jpeg_quality: int

    def check(self, draw: FaceDraw) -> list[Cutout]:
        """The faces drawn.

        Raises:
            RejectedError: "face_pool_too_small".
        """
        faces = draw.drawn()
        if len(faces) < self.num_faces:
            text = f"{len(faces)} sampled frames show exactly one face, the pool wants {self.num_faces}"
            raise RejectedError("face_pool_too_small", text, len(faces), self.num_faces)
        return faces

    def store(
        self, cutout: Cutout, role: Literal["pool", "first_frame"], clip: str, engine: FaceEngine
    ) -> tuple[FaceMeta, bytes]:
        """Align, measure and embed one face.

        Args:
            cutout: the face.
            role: what it serves as.
            clip: key of its clip.
            engine: embeds it.

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
            embedding=tuple(round(float(v), 6) for v in engine.embed(cutout.rgb, face)),
        )
        return meta, encode_jpeg(crop, self.jpeg_quality)
