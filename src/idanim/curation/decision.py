"""Why a video is not in the dataset: named reasons, each with what was measured and what was allowed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from idanim.video import UnusableVideoError

REASONS = {
    "file_not_readable": "the file can't be opened",
    "file_missing": "a list names the file, but it is not there",
    "duplicate": "the same content as another file",
    "empty_file": "the file has no content",
    "not_a_video": "the content is not a video",
    "truncated": "the file ends before the video does",
    "no_video_stream": "sound or data only",
    "no_frames": "no frame can be decoded",
    "too_large": "frames of more pixels than are read",
    "corrupt": "decoding fails midway, or too many frames are damaged",
    "too_short": "fewer frames than a clip needs, in the whole video or in its longest scene",
    "several_faces": "too large a share of the sampled frames shows several faces",
    "no_face": "too large a share of the sampled frames shows no face",
    "face_too_small": "the face has too few pixels",
    "face_too_large": "the face fills the picture",
    "low_score": "the detector is not sure that it is a face",
    "blurred": "the face is not sharp",
    "turned_away": "the head is turned away from the camera",
    "face_jumps": "the face is now here, now there: hardly one person",
    "person_changes": "the face is not the same person's throughout",
    "no_single_face_span": "no stretch of a clip's length shows exactly one face throughout, the same person's",
    "frozen": "nothing moves in the clip",
    "face_pool_too_small": "too few frames with exactly one face to draw the face pool from",
    "bad_sidecar": "the .json or .txt file beside the video can't be used",
    "internal_error": "a library failed on this video; the text says how",
    "kills_worker": "two worker processes ended while they worked on it",
    "timed_out": "the work took longer than allowed",
}
"""Every reason a video can be rejected for, with its meaning."""


RETRIED = frozenset({"file_not_readable", "file_missing", "bad_sidecar", "internal_error", "kills_worker", "timed_out"})
"""Reasons that may be gone the next time, for instance a network folder that was away: such a video is tried again."""


class RejectedError(UnusableVideoError):
    """A stage turns a video down; its `reason` is a key of `REASONS`."""


@dataclass(frozen=True)
class Decision:
    """What became of one video.

    Attributes:
        source: file name, relative to the input folder.
        key: clip key.
        reason: None when accepted, else a key of `REASONS`.
        text: the reason in words.
        measured: the number the decision was made on, where there is one.
        threshold: what it was compared with.
    """

    source: str
    key: str
    reason: str | None = None
    text: str = ""
    measured: float | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        assert self.reason is None or self.reason in REASONS, self.reason

    @property
    def accepted(self) -> bool:
        """Whether the video is in the dataset."""
        return self.reason is None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in reports."""
        return {"status": "accepted" if self.accepted else "rejected"} | asdict(self)
