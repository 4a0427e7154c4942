"""The videos of an input folder, and the names they go by."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from idanim.curation.decision import RejectedError
from idanim.types import IdanimError
from idanim.video_part import WHOLE, Part

VIDEO_ENDINGS = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()  # noqa: SIM905
)
SIDECAR_ENDINGS = (".json", ".txt")
MAX_SIDECAR_BYTES = 2**20

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True)
class SourceVideo:
    """One video file, or a part of one.

    Attributes:
        path: where it is.
        name: path relative to the input folder, with forward slashes (see `printable`); of a part with a media
            fragment behind it, as in `film.mp4#t=12,20`.
        key: clip key; a pure function of `name`, or of the name that a list gives the clip.
        part: what is read of the file: times and a box; all of it by default.
        identity: the person's name, where a list gives it.
        source_id: which video it is a part of, where a list says so.
        duplicate_of: name of an earlier video of the same content.
    """

    path: Path
    name: str
    key: str
    part: Part = WHOLE
    identity: str | None = None
    source_id: str | None = None
    duplicate_of: str | None = None

    @property
    def stem(self) -> str:
        """Name of the file without its ending."""
        return self.name.partition(fragment(self.part) or "\0")[0].removesuffix(self.path.suffix)

    def check(self) -> None:
        """Let a video pass that is there, and not for the second time.

        Raises:
            RejectedError: "file_missing" or "duplicate".
        """
        if self.duplicate_of is not None:
            raise RejectedError("duplicate", f"the same as {self.duplicate_of}")
        if self.source_id is not None and not self.path.exists():
            raise RejectedError("file_missing", f"{self.path}: the list names it, but it is not there")

    @property
    def sidecars(self) -> tuple[Path, ...]:
        """Files beside the video that describe it: same name, ending .json or .txt."""
        places = (self.path.with_suffix(ending) for ending in SIDECAR_ENDINGS)
        return tuple(place for place in places if place.is_file())

    def version(self) -> str:
        """Names the state of the file and its sidecars: size, modification time, sidecars' content."""
        try:
            status = self.path.stat()
            stamp = f"{self.name}|{status.st_size}|{status.st_mtime_ns}"
        except OSError as error:  # a dangling link; reading it will give the reason
            stamp = f"{self.name}|{error.errno}"
        stamp += f"|{self.part}|{self.identity}|{self.duplicate_of}"
        digest = hashlib.sha256(stamp.encode("utf-8", "surrogateescape"))
        for sidecar in self.sidecars:
            digest.update(sidecar.suffix.encode())
            try:
                with sidecar.open("rb") as file:
                    digest.update(file.read(MAX_SIDECAR_BYTES + 1))
            except OSError as error:  # reading it will give the reason, too
                digest.update(f"error {error.errno}".encode())
        return digest.hexdigest()


def fragment(part: Part) -> str:
    """A part as W3C media fragment, "" for a whole video: `#t=12,20&xywh=percent:10,0,80,100`."""
    words = []
    if part.start_s or part.end_s is not None:
        words.append(f"t={part.start_s:g}" + ("" if part.end_s is None else f",{part.end_s:g}"))
    if part.box is not None:
        left, top, right, bottom = part.box
        words.append("xywh=percent:" + ",".join(f"{100 * v:g}" for v in (left, top, right - left, bottom - top)))
    return "#" + "&".join(words) if words else ""


def clip_key(name: str) -> str:
    """The clip key of a video: its stem if that is plain and the ending is .mp4, else a readable part and a hash.

    Keys name members of a tar, so they hold letters, digits, `_` and `-` only.
    """
    stem, dot, ending = name.rpartition(".")
    if dot and ending == "mp4" and _PLAIN_KEY.fullmatch(stem):
        return stem
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:60].strip("_")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{readable}-{digest}" if readable else digest


def printable(path: Path) -> str:
    """A path as text that can be written to a file: bytes that are not UTF-8 stand as \\x…."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def find_videos(folder: Path) -> list[SourceVideo]:
    """All videos in a folder and its subfolders, by file ending, sorted by name. Hidden files are left out.

    Raises:
        IdanimError: the folder is not there, or holds no video.
    """
    if not folder.exists():
        raise IdanimError(f"input={folder}: there is no such folder")
    if not folder.is_dir():
        raise IdanimError(f"input={folder}: is a file; name the folder that holds the videos")
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    videos = []
    for path in files:
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in VIDEO_ENDINGS and not hidden:
            name = printable(relative)
            videos.append(SourceVideo(path, name, clip_key(name)))
    if not videos:
        found = f"none of its {len(files)} files is a video" if files else "it is empty"
        raise IdanimError(f"input={folder}: no videos, {found}; known endings: {' '.join(sorted(VIDEO_ENDINGS))}")
    return sorted(videos, key=lambda video: video.name)


@dataclass(frozen=True)
class IdentityNames:
    """Who is shown in a video, by its file name.

    Attributes:
        pattern: regular expression searched in the name relative to the input folder, without its ending;
            its first group is the person. Where it does not match, the whole name is.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise IdanimError(f"identity.pattern={self.pattern!r}: not a regular expression ({error})") from error
        if groups < 1:
            raise IdanimError(f"identity.pattern={self.pattern!r}: needs a (group) that holds the person's name")

    def of(self, video: SourceVideo) -> str:
        """The person's name.

        A listed clip whose list names nobody is a person of its own: clips of one source may show different people,
        and whether they do is for `identify=source` to see.
        """
        if video.identity:
            return video.identity
        if video.source_id is not None:
            return video.key
        match = re.search(self.pattern, video.stem)
        return (match[1] if match else None) or video.stem
