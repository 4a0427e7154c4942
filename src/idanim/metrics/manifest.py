"""Manifests: videos of any other system, listed in one CSV or JSONL file.

One row a video; in JSONL an object a line, in CSV a header and then rows:

| column | what |
|---|---|
| `path` | of the video, relative to the folder of videos. Required. |
| `prompt` | what it was asked to show. Required. |
| `person` | whom it was asked to show; "" for a video made without a reference. |
| `reference` | photo of that person, relative to the manifest, in place of a folder of references. |
| `seed` | 0 if absent. |
| `system` | what made it; "videos" if absent. |
| `group` | the prompt's group; "all" if absent. |
| `num_frames`, `width`, `height` | what the video should have; a video that has not gets a remark. |

Without `person`, the name is that of the `reference`: `<person>__<anything>.<ending>`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idanim.files import parse_json, read_text
from idanim.metrics.grid import NOBODY
from idanim.metrics.people import person_of
from idanim.metrics.videos import VideoRecord
from idanim.types import IdanimError, listed

REQUIRED = ("path", "prompt")
NUMBERS = ("seed", "num_frames", "width", "height")
COLUMNS = (*REQUIRED, "person", "reference", "system", "group", *NUMBERS)


@dataclass(frozen=True)
class Manifest:
    """What a manifest lists.

    Attributes:
        videos: path of each video and what it was made from, in the order of the rows.
        references: person → photos; empty where the manifest names none.
        num_repeated: rows that said the same as an earlier one, and count once.
    """

    videos: dict[Path, VideoRecord]
    references: dict[str, list[Path]]
    num_repeated: int


def read_manifest(path: Path, folder: Path) -> Manifest:
    """Read a manifest; whether the videos are there is not looked at.

    Args:
        path: of the `.csv` or `.jsonl` file.
        folder: of the videos.

    Raises:
        IdanimError: a row can't be read or contradicts another one; the text names its line.
    """
    videos: dict[Path, VideoRecord] = {}
    references: dict[str, list[Path]] = {}
    cells: dict[tuple[Any, ...], str] = {}
    num_repeated = 0
    for where, row in _rows(path):
        photo = path.parent / str(row["reference"]) if row.get("reference") else None
        video, record = _parse(row, photo, folder, where)
        if video in videos:
            if videos[video] != record:
                raise IdanimError(f"{where}: {row['path']} stands there twice, and the rows differ")
            num_repeated += 1
            continue
        cell = (record.system, record.identity, record.prompt, record.seed)
        if cell in cells:
            raise IdanimError(
                f"{where}: the same system, person, prompt and seed as {cells[cell]}, but another video; "
                "tell them apart by the column seed"
            )
        videos[video], cells[cell] = record, where
        if photo is not None:
            _add_reference(references, record.identity, photo, "person" in row, where)
    if not videos:
        raise IdanimError(f"manifest={str(path)!r}: no row in it")
    missing = sorted({record.identity for record in videos.values()} - {NOBODY} - references.keys())
    if references and missing:
        raise IdanimError(f"{path}: some rows have a reference, but none has one for {', '.join(missing)}")
    return Manifest(videos, references, num_repeated)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, in words, and its cells."""
    if not path.is_file():
        raise IdanimError(f"manifest={str(path)!r}: there is no such file")
    if path.suffix not in (".csv", ".jsonl"):
        raise IdanimError(f"manifest={str(path)!r}: expected a .csv or .jsonl file")
    text = read_text(path)
    yield from _csv_rows(text, path) if path.suffix == ".csv" else _jsonl_rows(text, path)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    for row in _whole(reader, path):
        where = f"{path}, line {reader.line_num}"
        if None in row or None in row.values():
            raise IdanimError(f"{where}: expected {len(reader.fieldnames or ())} cells, as the header has")
        cells: dict[str, Any] = {key: value for key, value in row.items() if value or key in (*REQUIRED, "person")}
        for key in NUMBERS:
            if key in cells:
                try:
                    cells[key] = int(cells[key])
                except ValueError as error:
                    raise IdanimError(f"{where}: {key}={cells[key]!r}, expected a whole number") from error
        yield where, cells


def _whole(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str | Any, str | Any]]:
    try:
        yield from reader
    except csv.Error as error:
        raise IdanimError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def _jsonl_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise IdanimError(f"{where}: expected an object, got {line[:80]}")
        yield where, row


def _parse(row: Mapping[str, Any], photo: Path | None, folder: Path, where: str) -> tuple[Path, VideoRecord]:
    missing = [key for key in REQUIRED if not str(row.get(key) or "").strip()]
    unknown = sorted(str(key) for key in row.keys() - set(COLUMNS))
    kinds = {key: int if key in NUMBERS else str for key in COLUMNS}
    wrong = [key for key, value in row.items() if key in kinds and type(value) is not kinds[key]]
    if missing or unknown or wrong:
        raise IdanimError(
            f"{where}: empty or missing {missing}, unknown [{listed(unknown)}], of the wrong kind {wrong}; "
            f"columns are {', '.join(COLUMNS)}"
        )
    video = folder / row["path"]
    if not _inside(video, folder):
        raise IdanimError(f"{where}: path={row['path']!r} lies outside of {folder}")
    if "person" not in row and photo is None:
        raise IdanimError(f'{where}: a person or a reference is needed; person="" for a video of nobody')
    if photo is not None and not any(_inside(photo, place) for place in (folder, Path(where).parent)):
        raise IdanimError(
            f"{where}: reference={row['reference']!r} lies outside of the manifest's folder and of {folder}"
        )
    if photo is not None and not photo.is_file():
        raise IdanimError(f"{where}: reference={row['reference']!r}: there is no such file beside the manifest")
    person = row["person"] if "person" in row else person_of(photo) if photo is not None else NOBODY
    expected = {key: row[key] for key in ("num_frames", "width", "height") if key in row}
    made_with = {"sampling": expected} if expected else {}
    group, system = row.get("group", "all"), row.get("system", "videos")
    return video, VideoRecord(row["prompt"].strip(), person, row.get("seed", 0), system, group, made_with)


def _inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # too long, or with a null byte in it
        return False


def _add_reference(references: dict[str, list[Path]], person: str, photo: Path, is_named: bool, where: str) -> None:
    """Add a photo of a person, unless two people would go by one name."""
    if person == NOBODY:
        raise IdanimError(f"{where}: a reference, but person is empty; name the person or leave the reference out")
    known = references.setdefault(person, [])
    if known and photo not in known and not is_named and "__" not in photo.stem:
        raise IdanimError(f"{where}: {known[0]} and {photo} would both be {person}; add the column person")
    if photo not in known:
        known.append(photo)
