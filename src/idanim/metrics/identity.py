"""Identity metrics. F frames · K frames with a face · R references · D vector width.

All similarities are cosines of face recognition vectors, in [-1, 1]. Negative ones are kept: clamping them
(as ConsisID's script does) would lift the score of videos of nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from idanim.metrics.face_track import FaceTrack
from idanim.types import FloatArray

Clips = Sequence[FloatArray]
"""Faces of one person by clip: [K, D] unit vectors for each clip or photo."""


def unit(vectors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Vectors along the last axis scaled to length 1.

    Raises:
        ValueError: a vector is zero or not finite.
    """
    array = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(array, axis=-1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise ValueError("a face vector is zero or not finite; it has no direction to compare")
    return array / lengths


def frame_similarities(track: FaceTrack, references: FloatArray) -> npt.NDArray[np.float64]:
    """Similarity of each frame to the references: [F] in [-1, 1], higher is better.

    s_f = 1/R · Σ_r cos(e_f, e_r) for the largest face of frame f, and 0 for a frame without a detected face.

    Args:
        track: faces of one video.
        references: [R, D] vectors of the person.

    Raises:
        ValueError: no reference, or vectors of another width (made by another recogniser).
    """
    if references.ndim != 2 or not len(references):
        raise ValueError(f"references have shape {references.shape}, expected [R, D] with R of at least 1")
    similarities = np.zeros(len(track.found))
    if len(track.embeddings):
        if track.embeddings.shape[1] != references.shape[1]:
            raise ValueError(
                f"faces have vectors of {track.embeddings.shape[1]} numbers, references of {references.shape[1]}: "
                "they come from different recognisers"
            )
        similarities[track.found] = (unit(track.embeddings) @ unit(references).T).mean(axis=1)
    return similarities


def face_similarity(track: FaceTrack, references: FloatArray) -> float:
    """Mean of `frame_similarities` over all sampled frames, those without a face counting 0.

    In [-1, 1], higher is better. Like FaceSim-Arc of ConsisID (arXiv 2411.17440) but for frames without a
    face, which that drops.
    """
    return float(frame_similarities(track, references).mean())


def face_similarities(track: FaceTrack, people: Sequence[FloatArray]) -> npt.NDArray[np.float64]:
    """`face_similarity` to each of P people, [P], in one go; a figure does not depend on who else is in the list.

    1/F · Σ_f e_f · 1/R Σ_r e_r, which is the mean of all cosines; the order of the sums differs from
    `face_similarity`'s, and so may the last bits.

    Args:
        track: faces of one video.
        people: [R, D] vectors of each person.

    Raises:
        ValueError: as `frame_similarities`.
    """
    if not len(track.embeddings):
        return np.zeros(len(people))
    counts = np.array([len(references) for references in people])
    widths = sorted({track.embeddings.shape[1], *(references.shape[1] for references in people)})
    if len(widths) > 1 or not counts.all():
        raise ValueError(f"vectors of {widths} numbers, {counts.min()} or more a person: expected one recogniser's")
    starts = np.cumsum(counts) - counts
    means = np.add.reduceat(unit(np.concatenate(people)), starts) / counts[:, None]
    return np.asarray((means * (unit(track.embeddings).sum(axis=0) / len(track.found))).sum(axis=1))


def detected_face_similarity(track: FaceTrack, references: FloatArray) -> float | None:
    """Mean of `frame_similarities` over the frames with a face only; None where there is none.

    In [-1, 1], higher is better, but only beside `face_detection_rate`: one good frame among fifteen without
    a face scores as well as sixteen good ones.
    """
    if not track.found.any():
        return None
    return float(frame_similarities(track, references)[track.found].mean())


def face_detection_rate(track: FaceTrack) -> float:
    """Share of the sampled frames in which a face was detected: K / F, in [0, 1], higher is better."""
    return float(track.found.mean())


def chance_similarity(track: FaceTrack, others: Sequence[FloatArray]) -> float | None:
    """Mean of `face_similarity` to the references of other people; None where there are none.

    In [-1, 1]; what a video reaches without showing the right person. `face_similarity` means something only
    as far as it lies above this.
    """
    if not others:
        return None
    return float(face_similarities(track, others).mean())


def retrieval_rank1(track: FaceTrack, references: FloatArray, others: Sequence[FloatArray]) -> float | None:
    """1 where `face_similarity` is higher to the person's references than to anybody else's, else 0.

    Averaged over videos: how often the right person would be picked among N, in [0, 1], higher is better; chance
    is 1 / N. A video without a face counts 0. None where there are no others.
    """
    if not others:
        return None
    own, *rest = face_similarities(track, [references, *others])
    return float(track.found.any() and own > max(rest))


# ------------------------------------------------------------------------------------- real people


def other_clip_similarity(clips: Clips) -> float | None:
    """Mean similarity of one person's real faces between different clips; None with fewer than two clips.

    Every pair of clips has equal weight: mean over i < j of mean cos(e, e') for e in clip i, e' in clip j. In
    [-1, 1]. Averaged over people it is the ceiling: what the recogniser gives a real video of the person.
    """
    means = [unit(clip).mean(axis=0) for clip in clips if len(clip)]
    if len(means) < 2:
        return None
    # The mean cosine of all pairs between two sets of unit vectors is the product of the sets' means.
    return float(np.mean([a @ b for a, b in combinations(means, 2)]))


def same_clip_similarity(clips: Clips) -> float | None:
    """Mean similarity of two different faces of one clip; None when no clip has two.

    In [-1, 1]. Frames of one clip share light, pose and expression, so this lies above
    `other_clip_similarity` and is a ceiling only where people have one clip each.
    """
    values = []
    for clip in clips:
        if len(clip) > 1:
            vectors = unit(clip)
            total = float(np.square(vectors.sum(axis=0)).sum())
            values.append((total - len(clip)) / (len(clip) * (len(clip) - 1)))
    return float(np.mean(values)) if values else None


def different_person_similarity(people: Mapping[str, Clips]) -> dict[str, float | None]:
    """For each person, the mean similarity of their real faces to those of all other people.

    Every face of a person and every other person has equal weight. In [-1, 1]; averaged over people it is
    the floor: what the recogniser gives two strangers. None for a person without faces or without others.
    """
    means = {
        name: np.concatenate([unit(clip) for clip in clips if len(clip)]).mean(axis=0)
        for name, clips in people.items()
        if any(len(clip) for clip in clips)
    }
    return {
        name: float(np.mean([means[name] @ mean for other, mean in means.items() if other != name]))
        if name in means and len(means) > 1
        else None
        for name in people
    }


def normalised_position(similarity: float, floor: float, ceiling: float) -> float | None:
    """Where a similarity lies between strangers (0) and real pairs of the person (1).

    (similarity - floor) / (ceiling - floor); higher is better, may lie outside of [0, 1], and far above 1
    suggests that the reference was copied. None unless the ceiling lies above the floor.
    """
    return (similarity - floor) / (ceiling - floor) if ceiling > floor else None
