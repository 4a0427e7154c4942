"""Scores of single videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idanim.faces.engine import FaceEngine
from idanim.metrics.face_track import FaceTrack, track_faces
from idanim.metrics.identity import (
    chance_similarity,
    detected_face_similarity,
    face_detection_rate,
    face_similarity,
)
from idanim.metrics.motion import motion
from idanim.metrics.videos import VideoRecord
from idanim.types import FloatArray, UInt8Array

PAIR_METRICS = ("face_similarity", "detected_face_similarity", "chance_similarity")
"""Scores of a video against a person."""
VIDEO_METRICS = ("face_detection_rate", "motion")
"""Scores of a video alone."""


@dataclass(frozen=True)
class VideoScore:
    """Scores of one video against one person.

    Attributes:
        video: path relative to the folder of videos.
        system: what made it.
        identity: person it is compared with.
        shown: person it was asked to show; "" if none, and then it is compared with everybody.
        prompt: text it was made from.
        group: the prompt's group.
        seed: of the initial noise.
        num_frames: frames looked at.
        num_faces: frames in which a face was found.
        problem: why the video could not be read; its similarity and detection rate are then 0.

    The other fields are the metrics of the same names; None where they are not defined.
    """

    video: str
    system: str
    identity: str
    shown: str
    prompt: str
    group: str
    seed: int
    num_frames: int
    num_faces: int
    face_similarity: float
    detected_face_similarity: float | None
    chance_similarity: float | None
    face_detection_rate: float
    motion: float | None
    problem: str | None = None


def score_video(
    video: str,
    record: VideoRecord,
    frames: UInt8Array,
    people: Mapping[str, FloatArray],
    engine: FaceEngine,
    num_sampled: int,
) -> list[VideoScore]:
    """Score one video against the person it was asked to show, or against everybody if that is nobody.

    Args:
        video: its path, for the record.
        record: what it was made from.
        frames: [F, H, W, 3] uint8 RGB.
        people: reference vectors [R, D] of each person of the evaluation.
        engine: finds and embeds faces.
        num_sampled: how many frames are looked at for faces.
    """
    track = track_faces(engine, frames, num_sampled)
    alone: dict[str, Any] = {
        "num_frames": len(track.found),
        "num_faces": int(track.found.sum()),
        "face_detection_rate": face_detection_rate(track),
        "motion": motion(frames),
    }
    return [
        VideoScore(video, identity=identity, **_made_from(record), **alone, **_against(track, identity, people))
        for identity in _targets(record, people)
    ]


def _against(track: FaceTrack, identity: str, people: Mapping[str, FloatArray]) -> dict[str, Any]:
    others = [vectors for name, vectors in people.items() if name != identity]
    return {
        "face_similarity": face_similarity(track, people[identity]),
        "detected_face_similarity": detected_face_similarity(track, people[identity]),
        "chance_similarity": chance_similarity(track, others),
    }


def score_unreadable(
    video: str, record: VideoRecord, people: Mapping[str, FloatArray], problem: str
) -> list[VideoScore]:
    """Scores of a video that can't be decoded: it shows nobody, so it must not lift the mean by its absence."""
    scores: dict[str, Any] = dict.fromkeys(("num_frames", "num_faces"), 0)
    scores |= {
        "face_similarity": 0.0,
        "face_detection_rate": 0.0,
        "chance_similarity": 0.0 if len(people) > 1 else None,
    }
    scores |= {"detected_face_similarity": None, "motion": None, "problem": problem}
    return [
        VideoScore(video, identity=identity, **_made_from(record), **scores) for identity in _targets(record, people)
    ]


def _made_from(record: VideoRecord) -> dict[str, Any]:
    return {
        "system": record.system,
        "shown": record.identity,
        "prompt": record.prompt,
        "group": record.group,
        "seed": record.seed,
    }


def _targets(record: VideoRecord, people: Mapping[str, FloatArray]) -> list[str]:
    return [record.identity] if record.identity else list(people)
