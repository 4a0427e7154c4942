"""Whether a video stays the same from frame to frame. F sampled frames · D vector width."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from idanim.metrics.face_track import FaceTrack
from idanim.metrics.identity import frame_similarities, unit
from idanim.types import FloatArray


def consecutive_similarity(features: npt.ArrayLike) -> float | None:
    """Mean cosine of consecutive feature vectors [F, D]: 1/(F-1) Σ_f cos(x_f, x_{f+1}), in [-1, 1], higher is steadier.

    On CLIP's picture features this is the frame consistency of Tune-A-Video (arXiv 2212.11565) and others. None
    for a single frame. A frozen video scores 1: read it beside `motion`.
    """
    vectors = unit(features)
    return float((vectors[1:] * vectors[:-1]).sum(axis=1).mean()) if len(vectors) > 1 else None


def temporal_consistency(track: FaceTrack) -> float | None:
    """Mean cosine of the face vectors of consecutive sampled frames, in [-1, 1], higher is steadier.

    A pair with a frame without a face counts 0, so that a flickering face is not steady. None for a single
    frame. A frozen video scores 1: read it beside `motion`.
    """
    if len(track.found) < 2:
        return None
    if not len(track.embeddings):
        return 0.0
    vectors = np.zeros((len(track.found), track.embeddings.shape[1]))
    vectors[track.found] = unit(track.embeddings)
    return float((vectors[1:] * vectors[:-1]).sum(axis=1).mean())


def identity_drift(track: FaceTrack, references: FloatArray) -> float | None:
    """Change of the similarity to the reference from the first sampled frame to the last, in about [-2, 2].

    (F - 1) · the slope of the least squares line through `frame_similarities`, a frame without a face counting
    0 there. 0 is best; below 0 the person gets lost, above 0 they take shape late. None for a single frame, and
    where there is no face at all.
    """
    if len(track.found) < 2 or not track.found.any():
        return None
    similarities = frame_similarities(track, references)
    place = np.linspace(-0.5, 0.5, len(similarities))
    return float(place @ similarities / (place @ place))
