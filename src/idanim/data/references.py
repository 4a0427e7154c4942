"""Reference strategies: which picture of the person stands for the identity (paper §3.4).

A strategy is a pure function of a clip's record and a random generator. It returns member names of the
sample (`face.<i>.jpg`, `frame.jpg`), so that only the pictures that are used get read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from idanim.data.sample import ClipMeta
from idanim.types import IdanimError

ReferenceStrategy = Callable[[ClipMeta, np.random.Generator], list[str]]


class NoReferenceError(IdanimError):
    """The clip has no picture that the strategy may take."""


def first_frame(meta: ClipMeta, rng: np.random.Generator) -> list[str]:
    """The first frame of the clip, whole: the image-to-video case that the paper argues against."""
    return ["frame.jpg"]


def same_face(meta: ClipMeta, rng: np.random.Generator) -> list[str]:
    """The face in a frame that is being reconstructed."""
    return [_pick(_own_faces(meta, "first_frame"), rng, meta, "a face in its first frame")]


def random_reference(meta: ClipMeta, rng: np.random.Generator, pool_size: int | None = None) -> list[str]:
    """Any face of the clip's face pool: the paper's random reference training.

    Args:
        meta: the clip's record.
        rng: the sample's own generator.
        pool_size: draw from so many faces of the pool, always the same ones of a clip; None = from all.
    """
    pool = _own_faces(meta, "pool")
    if pool_size is not None and pool_size < len(pool):
        order = np.random.default_rng(list(meta.key.encode())).permutation(len(pool))
        pool = [pool[i] for i in order[:pool_size]]  # a smaller pool lies within a larger one
    return [_pick(pool, rng, meta, "a face pool")]


def checked_random_reference(pool_size: int | None = None) -> ReferenceStrategy:
    """`random_reference` with a checked size of the pool.

    Raises:
        IdanimError: it is no number of faces.
    """
    if pool_size is not None and (not isinstance(pool_size, int) or pool_size < 1):
        raise IdanimError(f"reference.pool_size={pool_size}: expected 1 or more faces of the pool, or null for all")
    return partial(random_reference, pool_size=pool_size)


def checked_multi(num_references: int = 3) -> ReferenceStrategy:
    """`multi` with a checked number of references.

    Raises:
        IdanimError: it is no number of pictures.
    """
    if not isinstance(num_references, int) or num_references < 1:
        raise IdanimError(f"reference.num_references={num_references}: expected 1 or more pictures")
    return partial(multi, num_references=num_references)


def multi(meta: ClipMeta, rng: np.random.Generator, num_references: int = 3) -> list[str]:
    """Several different faces of the pool, whose tokens are averaged; repeated where the pool is smaller."""
    pool = _own_faces(meta, "pool")
    if not pool:
        raise NoReferenceError(f"clip {meta.key!r} has no face pool")
    order = rng.permutation(len(pool))
    return [_member(pool[order[i % len(pool)]]) for i in range(num_references)]


def cross_clip(
    meta: ClipMeta, rng: np.random.Generator, min_similarity: float = 0.0, max_similarity: float = 0.9
) -> list[str]:
    """A face of the same person from another clip, but never a near-duplicate of a face in this one.

    Args:
        meta: the clip's record.
        rng: the sample's own generator.
        min_similarity: below this cosine to every face of the clip it may be someone else.
        max_similarity: above this cosine to any face of the clip it is a near-duplicate.
    """
    own = np.array([face.embedding for face in meta.faces if face.clip == meta.key])
    candidates = []
    for i, face in enumerate(meta.faces):
        if face.clip != meta.key and len(own):
            similarity = float((own @ np.array(face.embedding)).max())
            if min_similarity <= similarity <= max_similarity:
                candidates.append(i)
    return [_pick(candidates, rng, meta, "a usable face from another clip of the person")]


def mixed(
    meta: ClipMeta,
    rng: np.random.Generator,
    strategies: Mapping[str, ReferenceStrategy],
    weights: Mapping[str, float],
) -> list[str]:
    """A strategy drawn by weight; one that finds nothing in this clip gives way to the others."""
    names = list(strategies)
    left = np.array([weights[name] for name in names], dtype=float)
    while left.sum() > 0:
        i = int(rng.choice(len(names), p=left / left.sum()))
        try:
            return strategies[names[i]](meta, rng)
        except NoReferenceError:
            left[i] = 0
    raise NoReferenceError(f"clip {meta.key!r} has no picture for any of {', '.join(names)}")


def _own_faces(meta: ClipMeta, role: str) -> list[int]:
    return [i for i, face in enumerate(meta.faces) if face.clip == meta.key and face.role == role]


def _pick(candidates: list[int], rng: np.random.Generator, meta: ClipMeta, what: str) -> str:
    if not candidates:
        raise NoReferenceError(f"clip {meta.key!r} has no {what.removeprefix('a ')}")
    return _member(candidates[int(rng.integers(len(candidates)))])


def _member(face: int) -> str:
    return f"face.{face}.jpg"
