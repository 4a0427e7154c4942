"""From scores of videos to figures with intervals: per identity, per prompt group, per system."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from idanim.metrics.identity import (
    Clips,
    different_person_similarity,
    normalised_position,
    other_clip_similarity,
    same_clip_similarity,
)
from idanim.metrics.intervals import Interval, bootstrap_interval
from idanim.metrics.paired import paired_difference
from idanim.metrics.protocols import EvaluationProtocol, Figures, Judges, protocol_report
from idanim.metrics.scoring import PAIR_METRICS, VIDEO_METRICS, VideoScore

METRICS = (*PAIR_METRICS, *VIDEO_METRICS)
_Cell = tuple[str, str, int]  # identity, prompt, seed


def per_identity(scores: Iterable[VideoScore], metric: str) -> dict[str, float | None]:
    """Mean of a metric over the videos of each identity, by name; None where none of its videos has a value.

    Scores of a video alone belong to the person it was asked to show, so that a video of nobody, compared with
    many people, is one observation and not many.
    """
    unit = "identity" if metric in PAIR_METRICS else "shown"
    values: dict[str, dict[str, float | None]] = {}
    for score in scores:
        values.setdefault(getattr(score, unit), {})[score.video] = getattr(score, metric)
    return {identity: _mean(values[identity].values()) for identity in sorted(values)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summarise(scores: Sequence[VideoScore], seed: int) -> dict[str, Interval]:
    """Each metric's mean and interval over identities.

    Every metric uses the same draws of identities, so adding a metric changes no other figure.
    """
    return {
        metric: bootstrap_interval(list(per_identity(scores, metric).values()), np.random.default_rng(seed))
        for metric in METRICS
    }


def summarise_real(people: Mapping[str, Clips], seed: int) -> tuple[dict[str, Interval], str]:
    """Ceiling and floor from real faces of the same people.

    Args:
        people: real faces by identity and clip.
        seed: of the bootstrap.

    Returns:
        `real_pair_similarity` and `different_person_similarity`; and between what the real pairs were taken:
        "other clips", or "same clip" when nobody has two clips.
    """
    ceiling: Callable[[Clips], float | None] = other_clip_similarity
    pairs = "other clips"
    if all(other_clip_similarity(clips) is None for clips in people.values()):
        ceiling, pairs = same_clip_similarity, "same clip"
    values = {
        "real_pair_similarity": [ceiling(clips) for clips in people.values()],
        "different_person_similarity": list(different_person_similarity(people).values()),
    }
    return {name: bootstrap_interval(v, np.random.default_rng(seed)) for name, v in values.items()}, pairs


def compare_systems(
    scores: Sequence[VideoScore], main_system: str, others: Iterable[str], seed: int
) -> list[dict[str, Any]]:
    """Paired differences of every metric between the main system and each other one.

    Only the part of the grid on which both have a value counts: the same person, prompt and seed. A video that
    shows nobody in particular stands against those of every person, also in the scores of a video alone.

    Returns:
        Rows {system, minus, metric, mean, low, high, p, n}, see `paired_difference`; those without a pair left out.
    """
    rows = []
    for other in others:
        for metric in METRICS:
            own, rest = (_values(scores, system, metric) for system in (main_system, other))
            common = own.keys() & rest.keys()
            pair = (_identity_means(own, common), _identity_means(rest, common))
            difference = paired_difference(*pair, np.random.default_rng(seed))
            if difference.n:
                rows.append({"system": main_system, "minus": other, "metric": metric, **asdict(difference)})
    return rows


def _values(scores: Iterable[VideoScore], system: str, metric: str) -> dict[_Cell, float]:
    """Value of each cell of a system's grid that has one."""
    own = {
        (score.identity, score.prompt, score.seed): getattr(score, metric) for score in scores if score.system == system
    }
    return {cell: value for cell, value in own.items() if value is not None}


def _identity_means(values: Mapping[_Cell, float], cells: Collection[_Cell]) -> dict[str, float | None]:
    by_identity: dict[str, list[float]] = {}
    for cell in sorted(cells):
        by_identity.setdefault(cell[0], []).append(values[cell])
    return {identity: _mean(own) for identity, own in by_identity.items()}


def protocol_section(protocol: EvaluationProtocol, scores: Iterable[VideoScore], judges: Judges) -> dict[str, Any]:
    """What `metrics.json` says under `protocol`: figures by another benchmark's definitions, and their flaws."""
    figures: dict[str, list[Figures]] = {}
    for score in scores:
        if score.protocol:
            figures.setdefault(score.system, []).append(score.protocol)
    return {"protocol": asdict(protocol_report(protocol, figures, judges))}


NO_VALUE = Interval(None, None, None, 0)


def normalise(similarity: Interval, real: Mapping[str, Interval]) -> Interval:
    """`normalised_position` of a mean and of the ends of its interval; floor and ceiling count as exact."""
    floor, ceiling = real["different_person_similarity"].mean, real["real_pair_similarity"].mean
    if floor is None or ceiling is None or similarity.mean is None or ceiling <= floor:
        return NO_VALUE
    low, mean, high = (
        None if value is None else normalised_position(value, floor, ceiling)
        for value in (similarity.low, similarity.mean, similarity.high)
    )
    return Interval(mean, low, high, similarity.n)


def report(
    scores: Sequence[VideoScore], people: Mapping[str, Clips], main_system: str, seed: int = 0
) -> dict[str, Any]:
    """Everything `metrics.json` says about scores, ready for strict JSON.

    Args:
        scores: of all videos.
        people: real faces by identity and clip, for ceiling and floor.
        main_system: its figures have plain names in `summary`; those of another system are prefixed
            "<system>/".
        seed: of the bootstrap.

    Returns:
        `summary` (name → mean, low, high, n), `real_pairs`, `differences` (see `compare_systems`), `groups` (system →
        prompt group → metric), `identities` (one row a system and identity), `videos` (one row a video and identity).
    """
    real, pairs = summarise_real(people, seed)
    systems = sorted({score.system for score in scores}, key=lambda name: (name != main_system, name))
    summary: dict[str, Interval] = {}
    groups: dict[str, Any] = {}
    identities: list[dict[str, Any]] = []
    for system in systems:
        own = [score for score in scores if score.system == system]
        figures = summarise(own, seed)
        # Where nobody is seen, 0 above a negative floor would look like a step towards the person.
        seen = any(score.num_faces for score in own)
        figures["normalised_similarity"] = normalise(figures["face_similarity"], real) if seen else NO_VALUE
        prefix = "" if system == main_system else f"{system}/"
        summary |= {f"{prefix}{name}": interval for name, interval in figures.items()}
        groups[system] = _by_group(own, seed)
        identities += _identity_rows(system, own)
    return {
        "summary": {name: asdict(interval) for name, interval in (summary | real).items()},
        "real_pairs": pairs,
        "differences": compare_systems(scores, main_system, [name for name in systems if name != main_system], seed),
        "groups": groups,
        "identities": identities,
        "videos": [asdict(score) for score in scores],
    }


def _by_group(scores: Sequence[VideoScore], seed: int) -> dict[str, Any]:
    names = list(dict.fromkeys(score.group for score in scores))
    return {
        name: {
            metric: asdict(interval)
            for metric, interval in summarise([s for s in scores if s.group == name], seed).items()
        }
        for name in names
    }


def _identity_rows(system: str, scores: Sequence[VideoScore]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(score.identity for score in scores))
    tables = {metric: per_identity(scores, metric) for metric in METRICS}
    counts = {name: len({s.video for s in scores if s.identity == name}) for name in names}
    return [
        {"system": system, "identity": name, "num_videos": counts[name]}
        | {metric: table.get(name) for metric, table in tables.items()}
        for name in names
    ]
