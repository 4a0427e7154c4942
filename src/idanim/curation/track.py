"""Tracking: is it one person from the first sampled frame to the last? Told by boxes and by recognition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from idanim.curation.decision import RejectedError
from idanim.curation.face_pool import Cutout
from idanim.curation.scan import SampledFrame, Scan
from idanim.faces.engine import FaceEngine
from idanim.types import Face, FloatArray


@dataclass
class Track:
    """One person in a video.

    Attributes:
        vector: the person's face that is most like all others, as recognition vector [D] of unit length.
        min_similarity: a face of a lower cosine to it is somebody else.
        engine: embeds faces that were not embedded yet.
    """

    vector: FloatArray
    min_similarity: float
    engine: FaceEngine
    _vectors: dict[int, FloatArray] = field(default_factory=dict)

    def shows_person(self, sample: SampledFrame) -> bool:
        """Whether a frame's only face is the person's."""
        vector = self._vectors.get(sample.index)
        if vector is None:
            vector = self._vectors[sample.index] = embed(sample, self.engine)
        return self.matches(vector)

    def vector_of(self, cutout: Cutout) -> FloatArray:
        """Recognition vector of a face of one of the frames looked at."""
        vector = self._vectors.get(cutout.frame)
        return self.engine.embed(cutout.rgb, cutout.local_face) if vector is None else vector

    def matches(self, vector: FloatArray) -> bool:
        """Whether a recognition vector is the person's."""
        return float(vector @ self.vector) >= self.min_similarity


@dataclass(frozen=True)
class Tracker:
    """Keeps videos that show one person throughout.

    Two shares of disagreement are looked at, as in Concat-ID (there: 30 % of consecutive cosines below 0.5): of faces
    that are not like the one before, and of faces that are not like the face that is most like all others. The first
    finds people who take turns, the second those who relieve each other once.

    Attributes:
        min_similarity: cosine above which two faces are one person.
        max_stranger_share: allowed share of either disagreement, in [0, 1].
        min_overlap: intersection over union of the boxes on two frames looked at, below which a face has jumped.
        max_jump_share: allowed share of jumps, in [0, 1].
        max_faces: at most this many faces, evenly spaced, are compared.
    """

    min_similarity: float
    max_stranger_share: float
    min_overlap: float
    max_jump_share: float
    max_faces: int

    def follow(self, scan: Scan, engine: FaceEngine) -> Track:
        """The person of a video that shows at least one face.

        Raises:
            RejectedError: "face_jumps" or "person_changes".
        """
        samples = scan.single
        faces = [sample.faces[0] for sample in samples]
        jumps = _share([box_overlap(a, b) < self.min_overlap for a, b in pairwise(faces)])
        if jumps > self.max_jump_share:
            text = f"the face is elsewhere on {jumps:.0%} of the frames looked at, allowed {self.max_jump_share:.0%}"
            raise RejectedError("face_jumps", text, jumps, self.max_jump_share)
        if len(samples) > self.max_faces:
            samples = [samples[i] for i in np.linspace(0, len(samples) - 1, self.max_faces).round().astype(int)]
        vectors = np.stack([embed(sample, engine) for sample in samples])
        similarity = vectors @ vectors.T
        middle = int(similarity.sum(axis=0).argmax())
        share = max(
            _share(np.diagonal(similarity, 1) < self.min_similarity),
            _share(similarity[middle] < self.min_similarity),
        )
        if share > self.max_stranger_share:
            text = f"{share:.0%} of the faces are of somebody else, allowed {self.max_stranger_share:.0%}"
            raise RejectedError("person_changes", text, share, self.max_stranger_share)
        known = {sample.index: vector for sample, vector in zip(samples, vectors, strict=True)}
        return Track(vectors[middle], self.min_similarity, engine, known)


def embed(sample: SampledFrame, engine: FaceEngine) -> FloatArray:
    """Recognition vector of a frame's only face, from its thumbnail."""
    assert sample.thumbnail is not None
    return engine.embed(sample.thumbnail, sample.thumbnail_face)


def box_overlap(a: Face, b: Face) -> float:
    """Intersection over union of two faces' boxes, in [0, 1]."""
    width = min(a.box[2], b.box[2]) - max(a.box[0], b.box[0])
    height = min(a.box[3], b.box[3]) - max(a.box[1], b.box[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = a.width_px * a.height_px + b.width_px * b.height_px - shared
    return shared / both if both > 0 else 0.0


def _share(flags: Sequence[bool] | np.ndarray) -> float:
    return float(np.mean(flags)) if len(flags) else 0.0
