"""Scores of video files, each stored as soon as it is there, so that scoring goes on where it stopped."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idanim.files import read_json, sha256, write_json
from idanim.metrics.people import Person
from idanim.metrics.picture_grid import thumbnails
from idanim.metrics.protocols import PromptReader
from idanim.metrics.scoring import VideoScore, score_unreadable
from idanim.metrics.videos import VideoRecord
from idanim.pictures import decode_picture, encode_jpeg
from idanim.types import IdanimError, UInt8Array
from idanim.video import UnreadableVideoError, read_frames

STRIP_FRAMES = 3
_PACKAGE = Path(__file__).parents[1]
SCORING_CODE = (
    Path(__file__).parent,
    _PACKAGE / "faces",
    _PACKAGE / "pictures.py",
    *sorted(_PACKAGE.glob("video*.py")),
    _PACKAGE / "models" / "curricular_face.py",
    _PACKAGE / "toyworld" / "faces.py",
    _PACKAGE / "toyworld" / "prompt_reader.py",
)
"""Modules and folders of modules whose change makes stored scores worthless."""

ScoreFrames = Callable[[str, VideoRecord, UInt8Array], list[VideoScore]]
"""Name of a video, what it was made from, its frames [F, H, W, 3] → its scores against each person."""


@dataclass(frozen=True)
class ScoredVideo:
    """What is known of one video.

    Attributes:
        scores: one for each person it is compared with.
        remarks: what is wrong with it, each beginning with a name: "unreadable", "missing", "no_face", "several_faces",
            "one_frame", "length", "size".
        strip: JPEG of some of its frames side by side; None where it can't be read.
    """

    scores: list[VideoScore]
    remarks: list[str]
    strip: bytes | None

    @property
    def tiles(self) -> list[UInt8Array]:
        """The frames of the strip."""
        if self.strip is None:
            return []
        picture = decode_picture(self.strip, "strip")
        return [picture[:, left : left + picture.shape[0]] for left in range(0, picture.shape[1], picture.shape[0])]


class VideoScorer:
    """Scores videos, or takes the scores that are stored.

    A stored score counts only for the same file content, record, people, settings and code of the metrics.

    Args:
        people: everybody in the evaluation.
        score_frames: scores the frames of one video.
        settings: everything else that decides the scores: face engine, frames looked at.
        store: folder of the stored scores.
        by_clip: whether there are scores by CLIP.
        reader: reads what prompts ask for; None without one.
    """

    def __init__(
        self,
        people: Sequence[Person],
        score_frames: ScoreFrames,
        settings: Mapping[str, Any],
        store: Path,
        by_clip: bool = False,
        reader: PromptReader | None = None,
    ) -> None:
        self.by_clip = by_clip
        self.reader = reader
        self.people = {person.identity: person for person in people}
        self.score_frames = score_frames
        self.store = store
        self.settings = dict(settings) | {"people": _people_digest(people), "code": _code_digest()}
        self.num_stored = 0

    def score(self, name: str, path: Path, record: VideoRecord, failure: str | None = None) -> ScoredVideo:
        """Score one video; one that can't be read shows nobody.

        Args:
            name: of the video in the report.
            path: of the file.
            record: what it was made from.
            failure: why there is no video, where that is known.
        """
        if failure is not None or not path.is_file():
            return self._nothing(name, record, failure or "missing: there is no such file")
        key = self._key(path, record)
        stored = self._read(name, key)
        if stored is not None:
            self.num_stored += 1
            return stored
        try:
            frames = read_frames(path)
        except UnreadableVideoError as error:
            return self._nothing(name, record, f"unreadable: {error}")
        scores = self.score_frames(name, record, frames)
        tiles = thumbnails(frames, STRIP_FRAMES)
        scored = ScoredVideo(scores, _remarks(scores[0], record, frames), encode_jpeg(np.concatenate(tiles, 1), 85))
        write_json(self._file(name), {"key": key} | asdict(scored) | {"strip": _as_text(scored.strip)})
        return scored

    def _nothing(self, name: str, record: VideoRecord, problem: str) -> ScoredVideo:
        scores = score_unreadable(name, record, self.people, problem, self.by_clip, self.reader)
        return ScoredVideo(scores, [problem], None)

    def _file(self, name: str) -> Path:
        return self.store / f"{name}.json"

    def _key(self, path: Path, record: VideoRecord) -> str:
        content = {"video": sha256(path), "record": asdict(record), **self.settings}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _read(self, name: str, key: str) -> ScoredVideo | None:
        try:
            stored = read_json(self._file(name))
            if stored["key"] != key:
                return None
            scores = [VideoScore(**score) for score in stored["scores"]]
            return ScoredVideo(scores, stored["remarks"], base64.b64decode(stored["strip"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None  # damaged: the video is scored again


def _as_text(content: bytes | None) -> str:
    return base64.b64encode(content or b"").decode()


def _people_digest(people: Sequence[Person]) -> str:
    digest = hashlib.sha256()
    for person in people:
        digest.update(json.dumps([person.identity, person.digest, person.is_stranger]).encode())
        for vectors in (person.vectors, *person.clips):
            digest.update(str(vectors.shape).encode() + np.ascontiguousarray(vectors).tobytes())
    return digest.hexdigest()


def _code_digest() -> str:
    digest = hashlib.sha256()
    for place in SCORING_CODE:
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _remarks(score: VideoScore, record: VideoRecord, frames: UInt8Array) -> list[str]:
    """What is wrong with a video that could be read."""
    remarks = []
    if not score.num_faces:
        remarks.append("no_face: in none of the frames looked at")
    if score.num_crowded_frames:
        remarks.append(f"several_faces: in {score.num_crowded_frames} of {score.num_frames} frames, the largest counts")
    if len(frames) == 1:
        remarks.append("one_frame: nothing moves, motion is not defined")
    sampling = record.made_with.get("sampling")
    expected = sampling if isinstance(sampling, dict) else {}
    length = expected.get("num_frames")
    if length is not None and length != len(frames):
        remarks.append(f"length: {len(frames)} frames, {length} expected")
    size = tuple(expected.get(side, got) for side, got in zip(("width", "height"), frames.shape[2:0:-1], strict=True))
    if size != frames.shape[2:0:-1]:
        remarks.append(f"size: {frames.shape[2]} × {frames.shape[1]}, {size[0]} × {size[1]} expected")
    return remarks


def remark_counts(scored: Sequence[ScoredVideo]) -> dict[str, int]:
    """How many videos have each kind of remark."""
    kinds = [remark.partition(":")[0] for video in scored for remark in video.remarks]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def require_readable(folder: Path, scored: Mapping[str, ScoredVideo]) -> None:
    """Refuse an evaluation of which no video is there.

    Raises:
        IdanimError: every video is missing or unreadable.
    """
    if scored and all(video.strip is None for video in scored.values()):
        name, video = next(iter(scored.items()))
        raise IdanimError(f"{folder}: none of the {len(scored)} videos can be read; {name}: {video.remarks[0]}")
