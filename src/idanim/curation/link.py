"""Links: the same person in several clips. Faces of the other clips go into a clip's sample, for `cross_clip`.

Who is the same person is told by names, which `people.py` gives. `Linker.find_leaks` looks for those whom the names do
not link.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from idanim.curation.chance import rng_for
from idanim.curation.results import ClipEntry, Result
from idanim.data.sample import ClipSample
from idanim.types import FloatArray, IdanimError

FaceChoice = tuple[str, tuple[int, ...]]
"""(key of a clip, indices of faces in its sample)."""


ROUNDING = 2e-3
"""Cosines are told from vectors of half precision."""


@dataclass(frozen=True)
class Leak:
    """Two videos of different names, one in each split, that seem to show one person.

    Attributes:
        train: file name of the training video.
        val: file name of the validation video.
        similarity: cosine of the two most similar faces.
    """

    train: str
    val: str
    similarity: float


@dataclass(frozen=True)
class Linker:
    """Gives each clip faces of the other clips of its person.

    Attributes:
        max_faces: at most this many faces of other clips go into a sample.
        min_similarity: least cosine of such a face to the mean of the clip's own faces.
        max_similarity: largest one.
        warn_similarity: two faces of a higher cosine are taken for one person by `find_leaks`.
        seed: of the draw, where there are more.
    """

    max_faces: int
    min_similarity: float
    max_similarity: float
    warn_similarity: float
    seed: int

    def __post_init__(self) -> None:
        if self.max_faces < 0 or self.min_similarity > self.max_similarity:
            raise IdanimError(
                f"link.max_faces={self.max_faces} link.min_similarity={self.min_similarity} "
                f"link.max_similarity={self.max_similarity}: wanted max_faces ≥ 0 and min_similarity ≤ max_similarity"
            )

    def choose(self, entries: Sequence[ClipEntry]) -> dict[str, list[FaceChoice]]:
        """Which pool faces of other clips each clip gets: by clip key, in the order of the other clips' keys."""
        people: dict[str, list[ClipEntry]] = defaultdict(list)
        for entry in sorted(entries, key=lambda entry: entry.key):
            people[entry.identity].append(entry)
        return {entry.key: self._choose_for(entry, clips) for clips in people.values() for entry in clips}

    def _choose_for(self, entry: ClipEntry, clips: Sequence[ClipEntry]) -> list[FaceChoice]:
        faces = [(other.key, i) for other in clips if other.key != entry.key for i in self._fitting(entry, other)]
        if len(faces) > self.max_faces:
            drawn = rng_for(self.seed, f"link {entry.key}").choice(len(faces), self.max_faces, replace=False)
            faces = [faces[i] for i in sorted(drawn)]
        by_clip: dict[str, list[int]] = defaultdict(list)
        for key, i in faces:
            by_clip[key].append(i)
        return [(key, tuple(indices)) for key, indices in by_clip.items()]

    def _fitting(self, entry: ClipEntry, other: ClipEntry) -> list[int]:
        """Faces of another clip that are neither too unlike nor too like the clip's own."""
        if entry.vectors is None or other.vectors is None:
            return list(other.pool_bytes)
        mean = entry.vectors.astype(np.float32).mean(axis=0)
        similarities = other.vectors.astype(np.float32) @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
        limits = (self.min_similarity - ROUNDING, self.max_similarity + ROUNDING)
        return [i for i, v in zip(other.pool_bytes, similarities.tolist(), strict=True) if limits[0] <= v <= limits[1]]

    def find_leaks(self, train: Iterable[Result], val: Sequence[Result]) -> list[Leak]:
        """Videos of the training split that seem to show a person of the validation split, most similar first.

        Args:
            train: accepted videos for training, read one at a time.
            val: accepted videos for validation.
        """
        if not val:
            return []
        vectors = [_vectors(result) for result in val]
        starts = np.cumsum([0, *(len(own) for own in vectors[:-1])])
        matrix = np.concatenate(vectors)
        leaks = []
        for result in train:
            best = np.maximum.reduceat((matrix @ _vectors(result).T).max(axis=1), starts)
            for other, similarity in zip(val, best.tolist(), strict=True):
                if similarity > self.warn_similarity:
                    leaks.append(Leak(result.decision.source, other.decision.source, round(similarity, 4)))
        return sorted(leaks, key=lambda leak: (-leak.similarity, leak.train, leak.val))


def _vectors(result: Result) -> FloatArray:
    return np.array([face.embedding for face in result.meta().faces], dtype=np.float32)


def with_faces(sample: ClipSample, choices: Sequence[FaceChoice], results: Mapping[str, Result]) -> ClipSample:
    """A sample with faces of other clips behind its own.

    Args:
        sample: as curated.
        choices: which faces.
        results: the accepted results by clip key.
    """
    metas, pictures = sample.meta.faces, sample.faces
    for key, indices in choices:
        other_metas, other_pictures = results[key].faces(indices)
        metas, pictures = metas + other_metas, pictures + other_pictures
    return replace(sample, meta=replace(sample.meta, faces=metas), faces=pictures)
