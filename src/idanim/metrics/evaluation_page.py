"""`report.html`: an evaluation to look at, in one file that opens offline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

import av

from idanim.metrics.grid import NOBODY
from idanim.metrics.page import MIB, data_uri, write_page
from idanim.metrics.report import MEANING, all_groups, number, protocol_table, ranking_table
from idanim.metrics.table import Table
from idanim.pictures import encode_jpeg
from idanim.types import UInt8Array
from idanim.video import UnreadableVideoError, read_frames
from idanim.video_encoding import encode_mp4

NOT_METRICS = ("seed", "num_frames", "num_faces", "num_crowded_frames")
"""Numbers in a row of `videos` that are no scores."""
SHOWN_ELSEWHERE = ("videos",)


def write_evaluation_page(
    path: Path,
    result: Mapping[str, Any],
    notes: Sequence[str],
    folder: Path,
    references: Mapping[str, UInt8Array],
    strips: Mapping[str, bytes],
    max_embedded_mib: float,
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        result: content of `metrics.json`; every number in its rows of videos becomes a column.
        notes: what a reader of the figures must know.
        folder: of the videos.
        references: person → picture, [H, W, 3] uint8.
        strips: name of a video → JPEG of some of its frames.
        max_embedded_mib: size of all strips and videos inside the file, as encoded there; what has no room, worst
            videos first, is linked by its relative path (videos) or left out (strips).
    """
    rows = video_rows(result["videos"])
    room = _Room(max_embedded_mib * MIB)
    for row in rows:
        strip = strips.get(row["video"])
        row["strip"] = data_uri(strip, "image/jpeg") if strip and room.take(len(strip), share=0.5) else None
    for row in rows:
        row["src"] = None if row.pop("unreadable") else _video_address(folder / row["video"], path.parent, room)
    groups = all_groups(result)
    data = {
        "rows": rows,
        "metrics": _metric_names(result["videos"]),
        "meaning": MEANING,
        "references": {name: data_uri(encode_jpeg(picture), "image/jpeg") for name, picture in references.items()},
        "groups": groups,
        "group_metrics": list(dict.fromkeys(m for by in groups.values() for f in by.values() for m in f)),
        "system": list(result["groups"]),
        "person": list(dict.fromkeys(video["shown"] for video in result["videos"])),
        "prompts": list(dict.fromkeys(video["prompt"] for video in result["videos"])),
    }
    write_page(
        path,
        "evaluation.html.j2",
        title="Evaluation",
        notes=list(notes),
        ranking=ranking_table(result["summary"], list(result["groups"])),
        meaning=Table(("figure", "meaning"), list(MEANING.items())),
        others=_other_tables(result),
        data=data,
    )


def video_rows(scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a video, failures first: unreadable ones, those without a face, then from the least similar.

    A video that is compared with several people gets the mean of its scores. Videos of nobody come last: they fail
    no one.
    """
    by_video: dict[str, list[Mapping[str, Any]]] = {}
    for score in scores:
        by_video.setdefault(score["video"], []).append(score)
    metrics = _metric_names(scores)
    rows = [(_severity(compared[0]), _row(compared, metrics)) for compared in by_video.values()]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _severity(score: Mapping[str, Any]) -> tuple[bool, bool, bool, float]:
    similarity = score.get("face_similarity")
    is_nobody = score["shown"] == NOBODY
    return is_nobody, not score["problem"], bool(score["num_faces"]), 0.0 if similarity is None else similarity


def _row(compared: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    first = compared[0]
    means = {}
    for metric in metrics:
        known = [score[metric] for score in compared if score.get(metric) is not None]
        means[metric] = fmean(known) if known else None
    return {
        "video": first["video"],
        "system": first["system"],
        "person": first["shown"],
        "people_group": first.get("people_group", ""),
        "prompt": first["prompt"],
        "group": first["group"],
        "seed": first["seed"],
        "remarks": list(first.get("remarks", ())) or ([first["problem"]] if first["problem"] else []),
        "unreadable": bool(first["problem"]),
        "scores": means,
    }


def _metric_names(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys of numbers that are scores, in the order of the rows."""
    names = dict.fromkeys(key for score in scores for key, value in score.items() if _is_number(value))
    return [name for name in names if name not in NOT_METRICS]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _other_tables(result: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Figures by another benchmark's definitions, and every other list of flat rows in `metrics.json`."""
    tables = []
    for name, rows in result.items():
        is_rows = isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
        if is_rows and name not in SHOWN_ELSEWHERE:
            header = list(dict.fromkeys(key for row in rows for key in row))
            cells = [[_cell(row.get(key)) for key in header] for row in rows]
            tables.append((name.replace("_", " ").capitalize(), Table(header, cells)))
    theirs = result.get("protocol")
    if theirs and theirs["figures"]:
        tables.insert(0, (f"By {theirs['name']}'s definitions", protocol_table(theirs)))
    return tables


def _cell(value: Any) -> str:
    if value is None or _is_number(value):
        return str(value) if isinstance(value, int) else number(value)
    if isinstance(value, dict) and "mean" in value:
        return number(value["mean"])
    return str(value)


# ------------------------------------------------------------------------------------------- media


class _Room:
    """How much may still be embedded, in bytes as they are in the page."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0

    def take(self, num_bytes: int, share: float = 1.0) -> bool:
        """Use so many bytes, as base64, if they fit below a share of the limit; whether they do."""
        needed = -(-num_bytes // 3) * 4
        fits = self.used + needed <= share * self.limit
        self.used += needed * fits
        return fits


def _video_address(path: Path, page_folder: Path, room: _Room) -> str:
    # A file above the limit is not read; one that has to be encoded anew may shrink, but not by so much.
    if path.stat().st_size <= room.limit - room.used:
        content = playable(path)
        if room.take(len(content)):
            return data_uri(content, "video/mp4")
    return quote(Path(os.path.relpath(path, page_folder)).as_posix())


def playable(path: Path) -> bytes:
    """A video as h264 mp4, which every browser plays: the file itself where it is one, else encoded anew.

    Raises:
        UnreadableVideoError: it can't be decoded.
    """
    content = path.read_bytes()
    try:
        with av.open(str(path)) as container:
            codec = container.streams.video[0].codec_context
            is_plain = "mp4" in container.format.name and codec.name == "h264" and codec.pix_fmt == "yuv420p"
            fps = float(container.streams.video[0].average_rate or 8)
    except (av.FFmpegError, IndexError) as error:
        raise UnreadableVideoError("corrupt", f"{path}: can't be opened ({error})") from error
    if is_plain:
        return content
    frames = read_frames(content)
    height, width = (max(2, side - side % 2) for side in frames.shape[1:3])
    return encode_mp4(frames[:, :height, :width], fps)
