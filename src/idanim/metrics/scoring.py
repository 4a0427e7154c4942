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
    retrieval_rank1,
)
from idanim.metrics.motion import motion
from idanim.metrics.people import Person
from idanim.metrics.videos import VideoRecord
from idanim.types import UInt8Array

PAIR_METRICS = ("face_similarity", "detected_face_similarity", "chance_similarity", "retrieval_rank1")
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
        num_crowded_frames: frames looked at with more than one face, of which the largest counts.
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
    retrieval_rank1: float | None
    face_detection_rate: float
    motion: float | None
    problem: str | None = None
    num_crowded_frames: int = 0


def score_video(
    video: str,
    record: VideoRecord,
    frames: UInt8Array,
    people: Mapping[str, Person],
    engine: FaceEngine,
    num_sampled: int,
) -> list[VideoScore]:
    """Score one video against the person it was asked to show, or against everybody if that is nobody.

    Args:
        video: its path, for the record.
        record: what it was made from.
        frames: [F, H, W, 3] uint8 RGB.
        people: everybody in the evaluation, by name.
        engine: finds and embeds faces.
        num_sampled: how many frames are looked at for faces.
    """
    track = track_faces(engine, frames, num_sampled)
    alone: dict[str, Any] = {
        "num_frames": len(track.found),
        "num_faces": int(track.found.sum()),
        "num_crowded_frames": track.num_crowded,
        "face_detection_rate": face_detection_rate(track),
        "motion": motion(frames),
    }
    return [
        VideoScore(video, identity=identity, **_made_from(record), **alone, **_against(track, identity, people))
        for identity in _targets(record, people)
    ]


def _against(track: FaceTrack, identity: str, people: Mapping[str, Person]) -> dict[str, Any]:
    references = people[identity].vectors
    others = [person.vectors for name, person in people.items() if name != identity]
    return {
        "face_similarity": face_similarity(track, references),
        "detected_face_similarity": detected_face_similarity(track, references),
        "chance_similarity": chance_similarity(track, others),
        "retrieval_rank1": retrieval_rank1(track, references, others),
    }


def score_unreadable(video: str, record: VideoRecord, people: Mapping[str, Person], problem: str) -> list[VideoScore]:
    """Scores of a video that can't be decoded: it shows nobody, so it must not lift the mean by its absence."""
    scores: dict[str, Any] = dict.fromkeys(("num_frames", "num_faces"), 0)
    scores |= dict.fromkeys(("face_similarity", "face_detection_rate"), 0.0)
    scores |= dict.fromkeys(("chance_similarity", "retrieval_rank1"), 0.0 if len(people) > 1 else None)
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


def _targets(record: VideoRecord, people: Mapping[str, Person]) -> list[str]:
    if record.identity:
        return [record.identity]
    return [name for name, person in people.items() if not person.is_stranger]
