"""The largest face of each sampled frame of a video. F frames · H W pixels · K faces · D vector width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from idanim.faces.engine import FaceEngine, detect_all, embed_all
from idanim.types import Face, FloatArray, UInt8Array


@dataclass(frozen=True)
class FaceTrack:
    """Who was seen in the sampled frames of one video, and where.

    Attributes:
        found: [F] bool, whether a face was detected in the frame.
        embeddings: [K, D] float32 of unit length, the largest face of each of the K frames with a face,
            in the order of the frames.
        faces: those K faces, in pixels of the frame; empty where only their vectors are known.
        num_crowded: frames with more than one face.
    """

    found: npt.NDArray[np.bool_]
    embeddings: FloatArray
    faces: tuple[Face, ...] = ()
    num_crowded: int = 0

    def __post_init__(self) -> None:
        if int(self.found.sum()) != len(self.embeddings):
            raise ValueError(f"{int(self.found.sum())} frames with a face, but {len(self.embeddings)} vectors")
        if self.faces and len(self.faces) != len(self.embeddings):
            raise ValueError(f"{len(self.faces)} faces, but {len(self.embeddings)} vectors")


def sampled_frames(num_frames: int, num_sampled: int) -> npt.NDArray[np.int64]:
    """Indices of at most `num_sampled` frames, evenly spaced from the first to the last.

    Raises:
        ValueError: one of the numbers is below 1.
    """
    if num_frames < 1 or num_sampled < 1:
        raise ValueError(f"num_frames={num_frames}, num_sampled={num_sampled}, expected both at least 1")
    return np.linspace(0, num_frames - 1, min(num_frames, num_sampled)).round().astype(np.int64)


def track_faces(engine: FaceEngine, frames: UInt8Array, num_sampled: int) -> FaceTrack:
    """Detect and embed the largest face of each sampled frame, all frames of the video in one go.

    Args:
        engine: finds and embeds faces.
        frames: [F, H, W, 3] uint8 RGB.
        num_sampled: how many frames are looked at (see `sampled_frames`).
    """
    pictures = [frames[index] for index in sampled_frames(len(frames), num_sampled)]
    detected = detect_all(engine, pictures)
    found = np.array([bool(faces) for faces in detected], dtype=np.bool_)
    largest = tuple(faces[0] for faces in detected if faces)
    seen = [picture for picture, is_found in zip(pictures, found, strict=True) if is_found]
    num_crowded = sum(len(faces) > 1 for faces in detected)
    return FaceTrack(found, embed_all(engine, seen, largest), largest, num_crowded)
