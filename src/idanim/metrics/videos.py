"""The artefact video + json: an mp4 with what it was made from beside it, `<name>.mp4` and `<name>.json`.

Fields of the json (`schema` 1):

- `prompt`: the text. Required.
- `identity`: person in the references, or "" for a video made without one. Required.
- `seed`: of the initial noise; 0 if absent.
- `system`: what made it; "videos" if absent.
- `group`: the prompt's group; "all" if absent.
- `made_with`: everything else that decides its pixels (checkpoint and reference digests, sampling
  settings); {} if absent. A video is made again when this differs, except for `git_sha`, which is information.

So any other system's videos are scored once each has a json with `prompt` and `identity` beside it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from idanim.files import read_json, write_bytes, write_json
from idanim.types import GeneratedClip, IdanimError, listed
from idanim.video_encoding import encode_mp4

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class VideoRecord:
    """What a video was made from; the fields of the json (see the module)."""

    prompt: str
    identity: str
    seed: int = 0
    system: str = "videos"
    group: str = "all"
    made_with: dict[str, Any] = field(default_factory=dict)


def write_video(path: Path, clip: GeneratedClip, record: VideoRecord, statement: str) -> None:
    """Write the mp4, then its json: a json is only ever there beside the video that it describes.

    Args:
        path: of the mp4.
        clip: the video.
        record: what it was made from.
        statement: for the metadata of the file: that it is generated, and with what.

    Raises:
        OSError: the folder can't be written or the disk is full.
    """
    path.with_suffix(".json").unlink(missing_ok=True)
    write_bytes(path, encode_mp4(clip.frames, clip.fps, tags={"comment": statement, "description": statement}))
    write_json(path.with_suffix(".json"), {"schema": SCHEMA_VERSION, **asdict(record)})


def read_record(path: Path) -> VideoRecord:
    """Read the json beside the mp4 at `path`.

    Raises:
        IdanimError: it is missing, not JSON, a field is missing, unknown or of the wrong kind, or the prompt is
            empty.
    """
    file = path.with_suffix(".json")
    try:
        raw = read_json(file)
    except FileNotFoundError as error:
        raise IdanimError(
            f'{path}: no {file.name} beside it; needed: {{"prompt": …, "identity": …}}, or manifest=<table of all>'
        ) from error
    if not isinstance(raw, dict) or raw.pop("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise IdanimError(f"{file}: expected an object of schema {SCHEMA_VERSION}")
    _check(raw, file)
    if not raw["prompt"].strip():
        raise IdanimError(f"{file}: the prompt is empty")
    return VideoRecord(**raw)


def _check(raw: dict[str, Any], file: Path) -> None:
    kinds = {"prompt": str, "identity": str, "seed": int, "system": str, "group": str, "made_with": dict}
    missing = sorted({"prompt", "identity"} - raw.keys())
    unknown = sorted(raw.keys() - kinds.keys())
    wrong = sorted(k for k in raw.keys() & kinds.keys() if not isinstance(raw[k], kinds[k]))
    if missing or unknown or wrong:
        raise IdanimError(
            f"{file}: missing fields {missing}, unknown fields [{listed(unknown)}], of the wrong kind {wrong}"
        )


def is_made(path: Path, record: VideoRecord) -> bool:
    """Whether the video at `path` exists and was made from exactly this record."""
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return False
    try:
        return _deciding(read_record(path)) == _deciding(record)
    except IdanimError:
        return False  # an unreadable record is no proof; the video is made again


def _deciding(record: VideoRecord) -> VideoRecord:
    """The record without what is information alone."""
    return replace(record, made_with={key: value for key, value in record.made_with.items() if key != "git_sha"})


def find_videos(folder: Path) -> list[Path]:
    """All mp4 files below a folder, sorted by path.

    Raises:
        IdanimError: there is no such folder or no video in it.
    """
    if not folder.is_dir():
        problem = "this is a file; expected a folder" if folder.is_file() else "there is no such folder"
        raise IdanimError(f"videos={str(folder)!r}: {problem}")
    found = sorted(path for path in folder.rglob("*.mp4") if not path.name.startswith("."))
    if not found:
        raise IdanimError(f"videos={str(folder)!r}: no .mp4 file in it or below it")
    return found
