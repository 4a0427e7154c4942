"""Annotations: all that is known of each accepted clip but its pixels, as JSON lines and as Parquet."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from idanim.data.sample import CAPTION_KINDS, ClipMeta
from idanim.files import atomic_path

JSONL = "annotations.jsonl"
PARQUET = "annotations.parquet"
ROWS_A_GROUP = 256
"""Rows held in memory at once. A row has some 26 faces with vectors of 512 numbers."""


class LinkedFace(TypedDict):
    """A face of another clip that goes into a sample: key of that clip, index of the face in it."""

    clip: str
    face: int


@dataclass(frozen=True)
class Place:
    """Where a clip lies in the dataset.

    Attributes:
        split: "train" or "val".
        shard: file name.
        linked_faces: faces of other clips in its sample.
    """

    split: str
    shard: str
    linked_faces: tuple[LinkedFace, ...]


def annotation(place: Place, meta: ClipMeta) -> dict[str, Any]:
    """One row: a clip's own faces with all that is known of them, faces of other clips by their place only."""
    return {"split": place.split, "shard": place.shard} | asdict(meta) | {"linked_faces": list(place.linked_faces)}


def write_annotations(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write both files, a row at a time.

    Args:
        folder: gets `annotations.jsonl` and `annotations.parquet`.
        rows: from `annotation`, in order.

    Raises:
        OSError: they can't be written.
    """
    schema = arrow_schema()
    group: list[Mapping[str, Any]] = []
    with (
        atomic_path(folder / JSONL) as jsonl,
        atomic_path(folder / PARQUET) as parquet,
        jsonl.open("w", encoding="utf-8") as file,
        pq.ParquetWriter(parquet, schema, compression="zstd") as writer,
    ):
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            group.append(row)
            if len(group) == ROWS_A_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group.clear()
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


def arrow_schema() -> pa.Schema:
    """The columns of the Parquet file, from the fields of a clip's record."""
    place = typing.get_type_hints(Place)
    linked = place.pop("linked_faces")
    columns = {name: arrow_type(hint) for name, hint in (place | typing.get_type_hints(ClipMeta)).items()}
    # A struct, not a map: every reader of Parquet knows what to make of it.
    by_kind = pa.struct([(kind, pa.string()) for kind in CAPTION_KINDS])
    columns |= {"captions": by_kind, "caption_states": by_kind}
    return pa.schema([*columns.items(), ("linked_faces", arrow_type(linked))])


def arrow_type(hint: Any) -> pa.DataType:
    """The Arrow type of a field's type hint; tuples are lists, numbers in lists of open length are float32.

    Raises:
        TypeError: a hint that no field has had so far.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    if hint in plain:
        return plain[hint]
    if origin is Literal:
        return arrow_type(type(arguments[0]))
    if origin in (types.UnionType, typing.Union):
        (some,) = (argument for argument in arguments if argument is not type(None))
        return arrow_type(some)
    if origin is tuple:
        return pa.list_(pa.float32() if arguments == (float, ...) else arrow_type(arguments[0]))
    if origin is dict:
        return pa.map_(arrow_type(arguments[0]), arrow_type(arguments[1]))
    if is_dataclass(hint) or typing.is_typeddict(hint):
        return pa.struct([(name, arrow_type(field)) for name, field in typing.get_type_hints(hint).items()])
    raise TypeError(f"no Arrow type is known for {hint}")
