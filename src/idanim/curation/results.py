"""Finished videos on disk, one file each, so that an interrupted run goes on where it stopped.

A result is a one-sample shard `<key>-<version>.tar` for an accepted video and `<key>-<version>.json` for a rejected
one, with `<key>-<version>.jpg` beside it where there are pictures to show. The version names the file, its sidecars and
all settings it depends on. Files are whole or not there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idanim.captioning.caption import ClipCaptions
from idanim.curation.decision import RETRIED, Decision
from idanim.curation.sources import SourceVideo
from idanim.data.sample import SCHEMA_VERSION, ClipMeta, ClipSample, FaceMeta, from_members, parse_meta
from idanim.data.shards import ShardIndex, write_shard
from idanim.files import read_json, write_bytes, write_json
from idanim.types import IdanimError

RESULT_VERSION = 3
"""Raised when the same video and settings would give another sample than before."""


AWAY = ("file_missing", "file_not_readable")
"""Reasons that say nothing of the video itself, which may be back the next time."""


@dataclass(frozen=True)
class ClipEntry:
    """What linking and packing need to know of an accepted clip; small, since all of them are held at once.

    Attributes:
        key: clip key.
        identity: name of the person.
        num_bytes: size of all its members.
        pool_bytes: size of each face crop of its pool, by index of the face.
        vectors: recognition vectors of the pool in the same order, [faces, D] float16; None where they don't matter.
    """

    key: str
    identity: str
    num_bytes: int
    pool_bytes: dict[int, int]
    vectors: npt.NDArray[np.float16] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Result:
    """One finished video.

    Attributes:
        decision: what became of it.
        path: the file that holds the result.
        captions: take the place of those in the file, once the clip is captioned.
        person: name of the person, in place of the one stored; see `idanim.curation.people`.
    """

    decision: Decision
    path: Path
    captions: ClipCaptions | None = None
    person: str | None = None

    @property
    def version(self) -> str:
        """Names the state of the sample."""
        captions = [self.captions.texts, self.captions.states] if self.captions else None
        return json.dumps([self.path.name, self.person, captions], sort_keys=True)

    @property
    def picture(self) -> Path:
        """Where a few frames of a rejected video are, if any were seen."""
        return self.path.with_suffix(".jpg")

    def sample(self) -> ClipSample:
        """The sample of an accepted video.

        Raises:
            IdanimError: the file was damaged since.
        """
        sample = from_members(ShardIndex.scan(self.path).read(self.decision.key))
        return replace(sample, meta=self._current(sample.meta))

    def video(self) -> bytes:
        """The mp4 of the sample."""
        content: bytes = ShardIndex.scan(self.path).read(self.decision.key, ["mp4"])["mp4"]
        return content

    def meta(self) -> ClipMeta:
        """The JSON part of the sample."""
        key = self.decision.key
        return self._current(parse_meta(ShardIndex.scan(self.path).read(key, ["json"])["json"], key))

    def _current(self, meta: ClipMeta) -> ClipMeta:
        if self.captions is not None:
            meta = replace(meta, captions=self.captions.texts, caption_states=self.captions.states)
        return meta if self.person is None else replace(meta, identity=self.person)

    def faces(self, indices: Sequence[int]) -> tuple[tuple[FaceMeta, ...], tuple[bytes, ...]]:
        """Records and JPEG bytes of some of the sample's faces."""
        key = self.decision.key
        members = ShardIndex.scan(self.path).read(key, ["json", *(f"face.{i}.jpg" for i in indices)])
        meta = parse_meta(members["json"], key)
        return tuple(meta.faces[i] for i in indices), tuple(members[f"face.{i}.jpg"] for i in indices)

    def entry(self) -> ClipEntry:
        """The clip's entry for linking and packing."""
        meta = self.meta()
        sizes = {ending: size for ending, (_, size) in ShardIndex.scan(self.path).members[meta.key].items()}
        pool = {i: sizes[f"face.{i}.jpg"] for i, face in enumerate(meta.faces) if face.role == "pool"}
        vectors = np.array([meta.faces[i].embedding for i in pool], dtype=np.float16)
        return ClipEntry(meta.key, meta.identity, sum(sizes.values()), pool, vectors)


class ResultStore:
    """The results of one set of settings in one folder.

    Args:
        folder: where results are kept; made when the first one is written.
        settings: everything that a result depends on besides the video.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = json.dumps([SCHEMA_VERSION, RESULT_VERSION, settings], sort_keys=True)

    def stem(self, video: SourceVideo) -> str:
        """Name of the result of a video as it is now, without ending."""
        version = hashlib.sha256((self._settings + video.version()).encode()).hexdigest()[:16]
        return f"{video.key}-{version}"

    def find(self, video: SourceVideo) -> Result | None:
        """The result of a video, if it was finished before and neither it nor the settings have changed.

        A rejection for a reason that may have gone since (`RETRIED`) does not count.
        """
        accepted, rejected = (self._folder / f"{self.stem(video)}{ending}" for ending in (".tar", ".json"))
        if accepted.is_file():
            return Result(Decision(video.name, video.key), accepted)
        if rejected.is_file():
            try:
                decision = Decision(**read_json(rejected))
            except (IdanimError, TypeError, AssertionError):
                return None  # not one of ours: the video is worked on again
            return Result(decision, rejected) if decision.reason not in RETRIED else None
        return None

    def save(
        self, stem: str, video: SourceVideo, outcome: ClipSample | Decision, picture: bytes | None = None
    ) -> Result:
        """Keep what a video came to.

        Args:
            stem: of the video before work on it began; it may have been written to since.
            video: the video.
            outcome: its sample, or why there is none.
            picture: JPEG of a few frames of a rejected video.

        Raises:
            OSError: it can't be written; nothing is left behind.
        """
        if isinstance(outcome, Decision):
            rejected = Result(outcome, self._folder / f"{stem}.json")
            if picture:
                write_bytes(rejected.picture, picture)
            write_json(rejected.path, asdict(outcome))
            return rejected
        path = self._folder / f"{stem}.tar"
        write_shard(path, [outcome])
        return Result(Decision(video.name, video.key), path)

    def remove_others(self, keep: Collection[Result]) -> None:
        """Remove what other settings, removed videos and killed runs left in the folder.

        What is known of a video that is away just now stays, for when it is back.
        """
        names = {path.name for result in keep for path in (result.path, result.picture)}
        away = {f"{result.decision.key}-" for result in keep if result.decision.reason in AWAY}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            is_away = path.name.removesuffix(path.suffix).rpartition("-")[0] + "-" in away
            if path.is_file() and path.name not in names and not is_away:
                path.unlink()
