"""The interface of a face engine. Engines are chosen by the config group `faces`."""

from __future__ import annotations

from typing import Protocol

from idanim.types import Face, FloatArray, UInt8Array

MIN_SIDE_PX = 16
"""Engines find no face in a picture with a shorter side; detectors fail on slivers."""


class FaceEngine(Protocol):
    """Finds faces and describes them by vectors that are close for the same person."""

    @property
    def name(self) -> str:
        """Engine and pack, for instance "insightface/buffalo_l". Vectors of different names never compare."""
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
