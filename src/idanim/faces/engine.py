"""The interface of a face engine. Engines are chosen by the config group `faces`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from idanim.types import Face, FloatArray, UInt8Array

MIN_SIDE_PX = 16
"""Engines find no face in a picture with a shorter side; detectors fail on slivers."""


class FaceEngine(Protocol):
    """Finds faces and describes them by vectors that are close for the same person."""

    @property
    def name(self) -> str:
        """Engine and pack, for instance "insightface/buffalo_l". Vectors of different names never compare."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of weights that decide what it finds."""
        ...

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """Find faces, without embeddings.

        Args:
            rgb: [H, W, 3] uint8.

        Returns:
            Faces by falling box area.
        """
        ...

    def embed(self, rgb: UInt8Array, face: Face) -> FloatArray:
        """Recognition vector of one face found in `rgb`: [D] float32 of unit length."""
        ...


@runtime_checkable
class BatchFaceEngine(FaceEngine, Protocol):
    """An engine that looks at many pictures in one go, which is faster."""

    def detect_many(self, pictures: Sequence[UInt8Array]) -> list[list[Face]]:
        """`detect` on each of some pictures of one size, each [H, W, 3] uint8."""
        ...

    def embed_many(self, pictures: Sequence[UInt8Array], faces: Sequence[Face]) -> FloatArray:
        """`embed` on one face of each of K ≥ 1 pictures of one size: [K, D] float32 of unit length."""
        ...


def detect_all(engine: FaceEngine, pictures: Sequence[UInt8Array]) -> list[list[Face]]:
    """The faces of each of some pictures of one size, by falling box area; in one go where the engine can."""
    if pictures and isinstance(engine, BatchFaceEngine):
        return engine.detect_many(pictures)
    return [engine.detect(picture) for picture in pictures]


def embed_all(engine: FaceEngine, pictures: Sequence[UInt8Array], faces: Sequence[Face]) -> FloatArray:
    """Vectors of one face of each of K pictures of one size, [K, D] float32; [0, 0] for none."""
    if not pictures:
        return np.zeros((0, 0), np.float32)
    if isinstance(engine, BatchFaceEngine):
        return engine.embed_many(pictures, faces)
    vectors = [engine.embed(picture, face) for picture, face in zip(pictures, faces, strict=True)]
    return np.stack(vectors).astype(np.float32, copy=False)


# ------------------------------------------------------------------ what engines have in common


def to_bgr(rgb: UInt8Array) -> UInt8Array:
    """[H, W, 3] uint8 RGB as the BGR that OpenCV's and insightface's models were trained on."""
    return np.ascontiguousarray(rgb[..., ::-1])


def unit_vector(feature: Any) -> FloatArray:
    """A recogniser's output, one number a dimension in any shape, as [D] float32 of unit length."""
    vector = np.asarray(feature, dtype=np.float32).reshape(-1)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def largest_first(faces: Iterable[Face]) -> list[Face]:
    """Faces by falling box area."""
    return sorted(faces, key=lambda face: -face.width_px * face.height_px)
