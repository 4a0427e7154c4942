"""Show what clip shards hold: `python -m idanim.curate inspect <shard or folder>`."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from idanim.data.sample import ClipMeta, ClipSample, from_members, parse_meta
from idanim.data.shards import ShardIndex, find_shards
from idanim.files import atomic_path
from idanim.metrics.picture_grid import GAP_PX, TILE_PX, thumbnails, tile
from idanim.pictures import decode_picture
from idanim.types import IdanimError, UInt8Array
from idanim.video import read_frames

SHEET = "contact_sheet.png"
NUM_FRAMES, NUM_FACES = 4, 6
_TEXT_PX = 360


@dataclass
class Tally:
    """Counts over the clips of one split."""

    shards: int = 0
    clips: int = 0
    frames: int = 0
    seconds: float = 0.0
    own_faces: int = 0
    linked_faces: int = 0
    linked_clips: int = 0
    people: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    captions: Counter[str] = field(default_factory=Counter)
    engines: set[str] = field(default_factory=set)

    def add(self, meta: ClipMeta) -> None:
        """Count one clip."""
        own = sum(face.clip == meta.key for face in meta.faces)
        self.clips += 1
        self.frames += meta.num_frames
        self.seconds += meta.num_frames / meta.fps
        self.own_faces += own
        self.linked_faces += len(meta.faces) - own
        self.linked_clips += own < len(meta.faces)
        self.people.add(meta.identity)
        self.sources.add(meta.source)
        self.captions.update(kind for kind, text in meta.captions.items() if text)
        self.engines.add(meta.face_engine)

    def lines(self, split: str) -> list[str]:
        """The counts in words."""
        captions = ", ".join(f"{kind} {count}" for kind, count in sorted(self.captions.items()))
        return [
            f"{split}: {self.clips} clips of {len(self.people)} people out of {len(self.sources)} videos "
            f"in {self.shards} shards",
            f"  length    {self.frames} frames, {self.seconds:.1f} s",
            f"  captions  {captions}",
            f"  faces     {self.own_faces} own; {self.linked_faces} of other clips of the person, "
            f"in {self.linked_clips} clips; by {', '.join(sorted(self.engines))}",
        ]


def main(arguments: Sequence[str]) -> None:
    """Print what shards hold and write a contact sheet."""
    parser = argparse.ArgumentParser(prog="python -m idanim.curate inspect", description=__doc__.split(":")[0])
    parser.add_argument("shards", type=Path, help="a shard (.tar) or a folder of shards")
    parser.add_argument("--sheet", type=Path, help=f"where to write the contact sheet; by default {SHEET} beside them")
    parser.add_argument("--clips", type=int, default=24, help="clips on the contact sheet at most")
    options = parser.parse_args(arguments)
    try:
        text, shown = inspect(options.shards, options.clips)
        print(text)
        if shown:
            folder = options.shards if options.shards.is_dir() else options.shards.parent
            sheet = options.sheet or folder / SHEET
            write_sheet(sheet, shown)
            print(f"\ncontact sheet: {sheet}")
    except (IdanimError, OSError) as error:
        sys.exit(f"error: {error}")


def inspect(location: Path, max_shown: int) -> tuple[str, list[ClipSample]]:
    """Read the records of all samples.

    Args:
        location: a shard or a folder of shards.
        max_shown: so many whole samples are returned at most, spread evenly over all.

    Returns:
        (counts and schema in words, samples to show).

    Raises:
        IdanimError: no shards, or a damaged one.
    """
    tallies: dict[str, Tally] = {}
    places: list[tuple[ShardIndex, str]] = []
    for split in ("train", "val"):
        for path in find_shards(str(location), split):
            index = ShardIndex.scan(path)
            tally = tallies.setdefault(split, Tally())
            tally.shards += 1
            for key in index.keys:
                tally.add(parse_meta(index.read(key, ["json"]).get("json", b""), key))
                places.append((index, key))
    lines = [line for split, tally in tallies.items() for line in tally.lines(split)]
    if len(tallies) == 2:
        lines.append(f"people in both splits: {len(tallies['train'].people & tallies['val'].people)}")
    if places:
        index, key = places[0]
        lines += ["", f"schema, by the sample {key} of {index.path.name}", *_schema(index.read(key))]
    step = max(1, -(-len(places) // max(1, max_shown)))
    return "\n".join(lines), [from_members(index.read(key)) for index, key in places[::step]][:max_shown]


def _schema(members: dict[str, Any]) -> Iterator[str]:
    for extension in sorted(members.keys() - {"__key__", "json"}):
        yield f"  .{extension:<12} {len(members[extension])} bytes"
    yield "  .json"
    record = json.loads(members["json"])
    faces = record.pop("faces")
    for name, value in record.items():
        yield f"    {name:<14} {_brief(value)}"
    yield f"    faces          list of {len(faces)} objects" + ("; the first one:" if faces else "")
    for name, value in faces[0].items() if faces else ():
        yield f"      {name:<12} {_brief(value)}"


def _brief(value: Any) -> str:
    """Type and value, long ones cut."""
    if isinstance(value, list) and len(value) > 4:
        return f"list of {len(value)}, for instance {_brief(value[0])}"
    return f"{type(value).__name__:<6} {textwrap.shorten(json.dumps(value, ensure_ascii=False), 76, placeholder=' …')}"


def write_sheet(path: Path, samples: Sequence[ClipSample]) -> None:
    """Write a picture with a row for each sample: what it is, frames of its clip, its faces.

    Args:
        path: of the PNG.
        samples: at least one.

    Raises:
        IdanimError: a damaged sample.
        OSError: it can't be written.
    """
    step = TILE_PX + GAP_PX
    canvas = Image.new("RGB", (_TEXT_PX + (NUM_FRAMES + NUM_FACES) * step + GAP_PX, len(samples) * step), "white")
    draw = ImageDraw.Draw(canvas)
    for row, sample in enumerate(samples):
        draw.multiline_text((GAP_PX, row * step), _label(sample.meta), fill="black", font=ImageFont.load_default(11))
        for column, picture in enumerate(_pictures(sample)):
            canvas.paste(Image.fromarray(picture), (_TEXT_PX + column * step, row * step))
    with atomic_path(path) as temporary:
        canvas.save(temporary, "PNG")


def _label(meta: ClipMeta) -> str:
    captions = [f"{kind}: {text}" for kind, text in meta.captions.items()]
    texts = [meta.key, f"{meta.identity}, {meta.num_frames} frames", *captions]
    lines = [line for text in texts for line in textwrap.wrap(text, 58, max_lines=3, placeholder=" …")]
    return "\n".join(lines[:7])


def _pictures(sample: ClipSample) -> list[UInt8Array]:
    """Frames, then own faces, then faces of other clips."""
    frames = read_frames(sample.video)
    tiles = thumbnails(frames, min(NUM_FRAMES, len(frames)))
    own = [face.clip == sample.meta.key for face in sample.meta.faces]
    order = sorted(range(len(own)), key=lambda i: not own[i])
    # The last place is for a face of another clip, where there is one.
    chosen = order[:NUM_FACES] if all(own) else [*order[: min(NUM_FACES - 1, sum(own))], order[sum(own)]]
    return tiles + [tile(decode_picture(sample.faces[i], f"{sample.meta.key}, face {i}")) for i in chosen]
