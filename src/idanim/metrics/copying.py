"""How much of the reference *picture*, not of the person, a video shows. K faces · R references · T other pictures.

A generator that pastes its reference scores high in face similarity. What tells: the face is nearer to the
reference than to other pictures of the same person, it looks the same way, and it stands before the same colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from idanim.faces.quality import head_pose_deg
from idanim.metrics.face_box import Box, box_mask
from idanim.metrics.face_track import FaceTrack
from idanim.metrics.identity import unit
from idanim.types import FloatArray, UInt8Array

COLOUR_LEVELS = 4
"""Levels of each channel in the colour histograms."""
LEAST_BACKGROUND = 0.05
"""Share of a picture that must lie outside of the face's box to speak of a background."""
LEAST_ANGLE = 1e-3
"""Radians between two pictures of a person below which they are the same picture."""


def angles(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Angles between vectors [A, D] and [B, D], in radians in [0, π]: [A, B]."""
    return np.arccos(np.clip(unit(a) @ unit(b).T, -1.0, 1.0))


def copy_paste(track: FaceTrack, references: FloatArray, others: FloatArray) -> float | None:
    """Whether faces are nearer to the reference picture than to other pictures of the person; in [-1, 1].

    (θ(g, t) - θ(g, r)) / θ(r, t), mean over frames g with a face, references r and other pictures t, with θ the
    angle between face vectors. 1: the reference itself; 0: as near to either; -1: the other picture itself.
    Lower is better among systems of equal face similarity. Source: WithAnyone (arXiv 2510.14975), M_CP.

    Args:
        track: faces of one video.
        references: [R, D] vectors of the pictures given to the generator.
        others: [T, D] vectors of pictures of the same person that it was not given.

    Returns:
        None without a face in the video or without another picture of the person.
    """
    if not len(track.embeddings) or not len(others):
        return None
    between = angles(references, others)
    bias = angles(track.embeddings, others)[:, None, :] - angles(track.embeddings, references)[:, :, None]
    different = between > LEAST_ANGLE
    if not different.any():
        return None
    return float((bias[:, different] / between[different]).clip(-1.0, 1.0).mean())


# ------------------------------------------------------------------------------- pose and background


@dataclass(frozen=True)
class View:
    """What a picture of a face shows besides who it is.

    Attributes:
        facing: [3] float64, unit vector of where the head looks.
        colours: [64] float64 with sum 1, colours outside of the face's box; None where the box fills the picture.
    """

    facing: npt.NDArray[np.float64]
    colours: npt.NDArray[np.float64] | None


def view(rgb: UInt8Array, box: Box, landmarks: FloatArray) -> View:
    """Look at a picture with a face in it.

    Args:
        rgb: [H, W, 3] uint8.
        box: of the face, in pixels.
        landmarks: [5, 2] pixels.
    """
    return View(facing(landmarks), background_colours(rgb, box))


def facing(landmarks: FloatArray) -> npt.NDArray[np.float64]:
    """Where the head looks, [3] of unit length: (0, 0, 1) out of the picture; its roll is left out.

    Args:
        landmarks: [5, 2] pixels, see `idanim.faces.quality.head_pose_deg`.
    """
    yaw, pitch = (math.radians(angle) for angle in head_pose_deg(landmarks))
    return np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])


def background_colours(rgb: UInt8Array, box: Box) -> npt.NDArray[np.float64] | None:
    """Histogram of the colours outside of a box: [COLOUR_LEVELS³], sum 1; None where hardly anything lies outside."""
    outside = ~box_mask(rgb.shape, box)
    if outside.mean() < LEAST_BACKGROUND:
        return None
    levels, span = [COLOUR_LEVELS] * 3, [0.0, 256.0] * 3
    counts = cv2.calcHist([np.ascontiguousarray(rgb)], [0, 1, 2], outside.view(np.uint8), levels, span)
    return counts.reshape(-1).astype(np.float64) / np.count_nonzero(outside)


def pose_similarity(views: Sequence[View], references: Sequence[View]) -> float | None:
    """Cosine between where the head looks in the video and in the reference: mean over both, in [-1, 1].

    1: always the reference's pose, which hints at a copy. Neither direction is better by itself. Good to the some
    10° of a pose estimated from five landmarks. None without a face in either.
    """
    if not views or not references:
        return None
    return float(np.mean([a.facing @ b.facing for a in views for b in references]))


def background_similarity(views: Sequence[View], references: Sequence[View]) -> float | None:
    """How alike the colours around the face are to those around the reference's: mean over both, in [0, 1].

    Σ_c √(p_c q_c) of the two colour histograms (Bhattacharyya 1943). 1: the same colours, which hints at a copied
    background where the prompt asks for another. None without a face, or where the face fills the picture.
    """
    pairs = [(a.colours, b.colours) for a in views for b in references]
    values = [float(np.sqrt(p * q).sum()) for p, q in pairs if p is not None and q is not None]
    return min(1.0, float(np.mean(values))) if values else None
