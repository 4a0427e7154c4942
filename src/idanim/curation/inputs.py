"""What is curated: the videos of a folder, a list of clips (CSV or JSON lines), or CelebV-HQ's JSON over local videos.

Lists name parts of videos: times and a box. The reader jumps to a part, so several clips of one video cost no more than
their own length.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from idanim.curation.sources import VIDEO_ENDINGS, SourceVideo, clip_key, find_videos, fragment, printable
from idanim.files import parse_json, read_json, sha256
from idanim.types import IdanimError
from idanim.video_part import Part, ShareBox

MAX_LIST_BYTES = 2**30
"""CelebV-HQ's list has 80 MB."""
COLUMNS = ("path", "start", "end", "box", "identity", "id")


def find_clips(source: Path, videos: Path | None, keep_duplicates: bool) -> list[SourceVideo]:
    """Everything that is to be curated, sorted by name.

    Args:
        source: a folder of videos; or a list of clips: `.csv` or `.jsonl` (see `read_list`), or CelebV-HQ's `.json`.
        videos: where the files of a list lie; by default beside it.
        keep_duplicates: whether files of the same content are all used.

    Raises:
        IdanimError: it can't be read, or names nothing.
    """
    if source.is_dir() or not source.exists():
        clips = find_videos(source)
    else:
        root = videos or source.parent
        if not root.is_dir():
            raise IdanimError(f"videos={root}: there is no such folder")
        if source.suffix.lower() in (".csv", ".jsonl"):
            clips = read_list(source, root)
        elif source.suffix.lower() == ".json":
            clips = read_celebv_hq(source, root)
        else:
            raise IdanimError(f"input={source}: expected a folder of videos, or a list of clips (.csv, .jsonl, .json)")
        if not clips:
            raise IdanimError(f"input={source}: the list names no clip")
    clips = sorted(clips, key=lambda clip: clip.name)
    return clips if keep_duplicates else mark_duplicates(clips)


def mark_duplicates(clips: Sequence[SourceVideo]) -> list[SourceVideo]:
    """Say of each clip which earlier one has the same content, times and box. Only files of one size are read."""
    by_size: dict[int, set[Path]] = defaultdict(set)
    for path in {clip.path for clip in clips}:
        try:
            by_size[path.stat().st_size].add(path)
        except OSError:  # reading it will give the reason
            continue
    content = {path: str(path) for path in {clip.path for clip in clips}}
    for size, paths in by_size.items():
        if size and len(paths) > 1:
            content |= {path: _digest(path) for path in paths}
    first: dict[tuple[str, Part], str] = {}
    return [
        clip if earlier == clip.name else replace(clip, duplicate_of=earlier)
        for clip in clips
        for earlier in [first.setdefault((content[clip.path], clip.part), clip.name)]
    ]


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return str(path)


# ------------------------------------------------------------------------------------------- CSV and JSON lines


def read_list(source: Path, root: Path) -> list[SourceVideo]:
    """Read a list of clips.

    Each row has `path` (relative to `root`), and may have `start` and `end` in seconds, `box` (left, top, right, bottom
    as shares of the picture: a list, or four numbers with blanks between them), `identity` (the person's name) and `id`
    (the clip's own name).

    Raises:
        IdanimError: a row that can't be used, with its number; nothing is curated from a list with mistakes.
    """
    clips: list[SourceVideo] = []
    names: set[str] = set()
    keys: dict[str, int] = {}
    for number, row in _rows(source):
        where = f"input={source}, row {number}"
        clip = _clip(row, root, where)
        if clip.name in names:  # the very same part again; it is kept apart and rejected as a duplicate
            name = f"{clip.name}&row={number}"
            clip = replace(clip, name=name, key=clip_key(name))
        if clip.key in keys:
            raise IdanimError(f"{where}: id={row.get('id', clip.key)!r} is that of row {keys[clip.key]}, too")
        names.add(clip.name)
        keys[clip.key] = number
        clips.append(clip)
    return clips


def _rows(source: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            if source.suffix.lower() == ".csv":
                for number, row in enumerate(csv.DictReader(file), start=2):
                    yield number, {(name or "").strip(): value for name, value in row.items()}
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = parse_json(line, f"input={source}, row {number}")
                    if not isinstance(row, dict):
                        raise IdanimError(f"input={source}, row {number}: expected an object, got {line.strip()[:60]}")
                    yield number, row
    except IdanimError:
        raise
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise IdanimError(f"input={source}: can't be read ({error})") from error


def _clip(row: Mapping[str, Any], root: Path, where: str) -> SourceVideo:
    unknown = sorted(set(row) - set(COLUMNS))
    if unknown:
        raise IdanimError(f"{where}: unknown columns {unknown}; known are {', '.join(COLUMNS)}")
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        raise IdanimError(f"{where}: path is {path!r}, expected the name of a video file")
    path = path.strip()
    if Path(path).is_absolute() or ".." in Path(path).parts or not path.isprintable():
        raise IdanimError(f"{where}: path is {path[:80]!r}, expected one inside of {root}, without ..")
    start, end = (_seconds(row.get(name), f"{where}: {name}") for name in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise IdanimError(f"{where}: ends at {end:g} s, before it starts at {start or 0:g} s")
    part = Part(start or 0.0, end, _box(row.get("box"), f"{where}: box"))
    texts = [row.get(name) for name in ("identity", "id")]
    identity, own_id = (str(text).strip() if text is not None else "" for text in texts)
    return listed_clip(root, path, part, own_id or None, identity or None)


def _seconds(value: Any, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < 1e7:
        raise IdanimError(f"{what} is {value!r}, expected seconds")
    return seconds


def _box(value: Any, what: str) -> ShareBox | None:
    if value is None or value == "":
        return None
    numbers = value.replace(",", " ").strip(" []()").split() if isinstance(value, str) else value
    try:
        left, top, right, bottom = (float(number) for number in numbers)
    except (TypeError, ValueError):
        left, top, right, bottom = 1.0, 1.0, 0.0, 0.0
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise IdanimError(f"{what} is {value!r}, expected left, top, right, bottom as shares of the picture, 0 to 1")
    return left, top, right, bottom


def listed_clip(root: Path, path: str, part: Part, own_id: str | None, identity: str | None) -> SourceVideo:
    """A part of a video that a list names.

    Args:
        root: folder of the videos.
        path: of the file, relative to it.
        part: times and box.
        own_id: the clip's name, if it has one.
        identity: the person's name, if known.
    """
    name = printable(Path(path)) + fragment(part)
    key = clip_key(f"{own_id}.mp4" if own_id else name)
    return SourceVideo(root / path, name, key, part, identity, source_id=path)


# ---------------------------------------------------------------------------------------------------- CelebV-HQ


def read_celebv_hq(source: Path, root: Path) -> list[SourceVideo]:
    """Read CelebV-HQ's `celebvhq_info.json` over the videos that are there.

    A clip is looked for cut out already, as `<clip id>.<ending>`, then in its video, `<ytb_id>.<ending>`; there its
    times and its box are applied. One that is nowhere becomes a clip of a missing file, so that it is counted.

    Args:
        source: the JSON: clips by id, each with `ytb_id`, `duration` (start_sec, end_sec) and `bbox` (top, bottom,
            left, right as shares of the picture).
        root: folder of the videos, searched with its subfolders.

    Raises:
        IdanimError: the file is not of this format.
    """
    try:
        content = read_json(source, MAX_LIST_BYTES)
        records = content["clips"].items()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise IdanimError(f'input={source}: expected CelebV-HQ\'s JSON, an object with "clips" ({error!r})') from error
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in VIDEO_ENDINGS:
            files.setdefault(path.stem, path.relative_to(root))
    return [_celebv_hq_clip(clip_id, record, root, files, source) for clip_id, record in records]


def _celebv_hq_clip(clip_id: str, record: Any, root: Path, files: Mapping[str, Path], source: Path) -> SourceVideo:
    try:
        video_id = str(record["ytb_id"])
        start_s, end_s = (float(record["duration"][name]) for name in ("start_sec", "end_sec"))
        sides = (float(record["bbox"][name]) for name in ("left", "top", "right", "bottom"))
        left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in sides)
        if not (0 <= start_s < end_s and left < right and top < bottom):
            raise ValueError("times or box are empty")
    except (KeyError, TypeError, ValueError) as error:
        raise IdanimError(f"input={source}: clip {clip_id!r} can't be used ({error!r})") from error
    if clip_id in files:  # cut and cropped already
        clip = listed_clip(root, files[clip_id].as_posix(), Part(), clip_id, None)
    else:
        path = files.get(video_id, Path(f"{video_id}.mp4"))
        clip = listed_clip(root, path.as_posix(), Part(start_s, end_s, (left, top, right, bottom)), clip_id, None)
    return replace(clip, source_id=video_id)
