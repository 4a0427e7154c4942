"""Faces as published evaluation scripts find and align them with insightface: square detection, bilinear crops."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from idanim.faces.align import ARCFACE_TEMPLATE, TEMPLATE_PX
from idanim.faces.engine import FaceEngine
from idanim.types import FloatArray, UInt8Array

DET_SIZE, DET_THRESHOLD = 320, 0.5
"""`FaceAnalysis.prepare(det_size=(320, 320))` of ConsisID and OpenS2V-Eval; the threshold is its default."""


class LargestFace(NamedTuple):
    """The largest face of a picture: landmarks [5, 2] in its pixels, and vector [D], not of unit length."""

    landmarks: FloatArray
    vector: FloatArray


@runtime_checkable
class PublishedEngine(Protocol):
    """An engine that can also do as the scripts do."""

    def largest_as_published(self, rgb: UInt8Array) -> LargestFace | None:
        """The largest face of [H, W, 3] uint8 by their settings; the last of several equals, None without one."""
        ...


def largest_as_published(engine: FaceEngine, rgb: UInt8Array) -> LargestFace | None:
    """The largest face as the scripts find it; by the engine's own settings where it has no such way."""
    if isinstance(engine, PublishedEngine):
        return engine.largest_as_published(rgb)
    faces = engine.detect(rgb)
    return LargestFace(faces[0].landmarks, engine.embed(rgb, faces[0])) if faces else None


def bilinear_crop(picture: UInt8Array, landmarks: FloatArray, size: int) -> UInt8Array:
    """`insightface.utils.face_align.norm_crop`: like `aligned_crop`, but without antialiasing.

    Args:
        picture: [H, W, 3] uint8.
        landmarks: [5, 2] pixels in it.
        size: side of the crop in pixels.

    Returns:
        [size, size, 3] uint8, black outside of the picture.
    """
    matrix = _fit_in_single_precision(landmarks, ARCFACE_TEMPLATE.astype(np.float32) * np.float32(size / TEMPLATE_PX))
    return np.asarray(cv2.warpAffine(picture, matrix, (size, size), borderValue=0.0), dtype=np.uint8)


def _fit_in_single_precision(source: FloatArray, target: FloatArray) -> npt.NDArray[np.float64]:
    """`fit_similarity` with scikit-image's order of operations: its last bits decide how some pixels are rounded."""
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    moved, wanted = source - source_mean, target - target_mean
    covariance = wanted.T @ moved / len(source)
    signs = np.array([1.0, -1.0 if np.linalg.det(covariance) < 0 else 1.0])
    u, singular, vt = np.linalg.svd(covariance)
    rotation = (u @ np.diag(signs) @ vt).astype(np.float64)
    scale = 1.0 / moved.var(axis=0).sum() * (singular @ signs)
    return np.column_stack([scale * rotation, target_mean - scale * (rotation @ source_mean)])
