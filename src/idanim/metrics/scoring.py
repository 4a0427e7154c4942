"""Scores of single videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from idanim.metrics.consistency import consecutive_similarity, identity_drift, temporal_consistency
from idanim.metrics.copying import View, background_similarity, copy_paste, pose_similarity, view
from idanim.metrics.face_track import FaceTrack, sampled_frames, track_faces
from idanim.metrics.identity import (
    chance_similarity,
    detected_face_similarity,
    face_detection_rate,
    face_similarity,
    retrieval_rank1,
)
from idanim.metrics.motion import motion_by_region
from idanim.metrics.people import Person
from idanim.metrics.protocols import EvaluationProtocol, Figures, Judges, PromptReader
from idanim.metrics.text_alignment import ClipScorer, text_alignment
from idanim.metrics.videos import VideoRecord
from idanim.types import UInt8Array

PAIR_METRICS = (
    "face_similarity",
    "detected_face_similarity",
    "chance_similarity",
    "retrieval_rank1",
    "copy_paste",
    "pose_similarity",
    "background_similarity",
    "identity_drift",
)
"""Scores of a video against a person."""
READ_METRICS = ("prompt_attributes", "prompt_action")
"""Scores by a `PromptReader`, in its order."""
VIDEO_METRICS = (
    "face_detection_rate",
    "motion",
    "face_motion",
    "background_motion",
    "temporal_consistency",
    "text_alignment",
    "frame_consistency",
    *READ_METRICS,
)
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
        protocol: figures by another benchmark's definitions, see `idanim.metrics.protocols`.

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
    copy_paste: float | None = None
    pose_similarity: float | None = None
    background_similarity: float | None = None
    identity_drift: float | None = None
    face_motion: float | None = None
    background_motion: float | None = None
    temporal_consistency: float | None = None
    text_alignment: float | None = None
    frame_consistency: float | None = None
    prompt_attributes: float | None = None
    prompt_action: float | None = None
    problem: str | None = None
    num_crowded_frames: int = 0
    protocol: dict[str, float | None] = field(default_factory=dict)


def score_video(
    video: str,
    record: VideoRecord,
    frames: UInt8Array,
    people: Mapping[str, Person],
    judges: Judges,
    num_sampled: int,
    protocol: EvaluationProtocol | None = None,
) -> list[VideoScore]:
    """Score one video against the person it was asked to show, or against everybody if that is nobody.

    Args:
        video: its path, for the record.
        record: what it was made from.
        frames: [F, H, W, 3] uint8 RGB.
        people: everybody in the evaluation, by name.
        judges: the models; without CLIP the scores that need it are None.
        num_sampled: how many frames are looked at for faces.
        protocol: another benchmark's definitions, to be scored by, too.
    """
    indices = sampled_frames(len(frames), num_sampled)
    track = track_faces(judges.engine, frames, num_sampled)
    seen = indices[track.found]
    views = [view(frames[i], face.box, face.landmarks) for i, face in zip(seen, track.faces, strict=True)]
    motion = motion_by_region(frames, {int(i): face.box for i, face in zip(seen, track.faces, strict=True)})
    alone: dict[str, Any] = {
        "num_frames": len(track.found),
        "num_faces": int(track.found.sum()),
        "num_crowded_frames": track.num_crowded,
        "face_detection_rate": face_detection_rate(track),
        "motion": motion.everywhere,
        "face_motion": motion.face,
        "background_motion": motion.background,
        "temporal_consistency": temporal_consistency(track),
        **_by_clip(judges.clip, frames[indices], record.prompt),
        **_by_reader(judges.reader, frames, record.prompt),
    }
    targets = _targets(record, people)
    theirs: dict[str, Figures] = {}
    if protocol is not None:
        theirs = protocol.score(frames, record.prompt, {name: people[name] for name in targets}, judges)
    return [
        VideoScore(
            video,
            identity=identity,
            **_made_from(record),
            **alone,
            **_against(track, views, identity, people),
            protocol=theirs.get(identity, {}),
        )
        for identity in targets
    ]


def _by_clip(clip: ClipScorer | None, frames: UInt8Array, prompt: str) -> dict[str, float | None]:
    """Scores that need CLIP; an empty prompt has nothing to align with."""
    if clip is None:
        return {}
    features = clip.picture_features(frames)
    return {
        "text_alignment": text_alignment(features, clip.text_features(prompt)) if prompt.strip() else None,
        "frame_consistency": consecutive_similarity(features),
    }


def _by_reader(reader: PromptReader | None, frames: UInt8Array, prompt: str) -> dict[str, float | None]:
    if reader is None:
        return {}
    return dict(zip(READ_METRICS, reader.read(frames, prompt), strict=True))


def _against(track: FaceTrack, views: list[View], identity: str, people: Mapping[str, Person]) -> dict[str, Any]:
    person = people[identity]
    others = [other.vectors for name, other in people.items() if name != identity]
    return {
        "face_similarity": face_similarity(track, person.vectors),
        "detected_face_similarity": detected_face_similarity(track, person.vectors),
        "chance_similarity": chance_similarity(track, others),
        "retrieval_rank1": retrieval_rank1(track, person.vectors, others),
        "copy_paste": copy_paste(track, person.vectors, person.other_pictures),
        "pose_similarity": pose_similarity(views, person.views),
        "background_similarity": background_similarity(views, person.views),
        "identity_drift": identity_drift(track, person.vectors),
    }


def score_unreadable(
    video: str,
    record: VideoRecord,
    people: Mapping[str, Person],
    problem: str,
    by_clip: bool = False,
    reader: PromptReader | None = None,
) -> list[VideoScore]:
    """Scores of a video that can't be decoded: it shows nothing, so it must not lift a mean by its absence.

    What has a better direction counts 0, as a frame without a face does. Motion and the metrics of copying have none
    and are None.

    Args:
        video: its path, for the record.
        record: what it was made from.
        people: everybody in the evaluation, by name.
        problem: why it can't be read.
        by_clip: whether readable videos have scores by CLIP.
        reader: of readable videos; what a prompt does not ask for stays None.
    """
    scores: dict[str, Any] = dict.fromkeys(("num_frames", "num_faces"), 0)
    scores |= dict.fromkeys(("face_similarity", "face_detection_rate", "temporal_consistency"), 0.0)
    scores |= dict.fromkeys(("chance_similarity", "retrieval_rank1"), 0.0 if len(people) > 1 else None)
    scores["text_alignment"] = 0.0 if by_clip and record.prompt.strip() else None
    scores["frame_consistency"] = 0.0 if by_clip else None
    asked = (False, False) if reader is None else reader.asks(record.prompt)
    scores |= {name: 0.0 if is_asked else None for name, is_asked in zip(READ_METRICS, asked, strict=True)}
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
