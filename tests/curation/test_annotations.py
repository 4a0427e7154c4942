"""Annotations: both files say the same, with every column typed, and hold no pixels."""

import json
import typing
from dataclasses import asdict, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_people import make_sample

from idanim.curation import annotations
from idanim.curation.annotations import JSONL, PARQUET, Place, annotation, arrow_schema, arrow_type, write_annotations
from idanim.data.sample import ClipMeta, FaceMeta


@pytest.fixture
def rows():
    place = Place("train", "train-000000.tar", ({"clip": "p001__1", "face": 2},))
    metas = [make_sample(person, num_clips=2).meta for person in range(5)]
    metas[0] = replace(metas[0], caption_states={"action": "refused"})
    return [annotation(place, meta) for meta in metas]


def test_parquet_and_json_lines_say_the_same(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(annotations, "ROWS_A_GROUP", 2)
    write_annotations(tmp_path, rows)
    lines = [json.loads(line) for line in (tmp_path / JSONL).read_text().splitlines()]
    assert lines == json.loads(json.dumps(rows))
    table = pq.read_table(tmp_path / PARQUET)
    assert pq.ParquetFile(tmp_path / PARQUET).num_row_groups == 3
    for line, row in zip(lines, table.to_pylist(), strict=True):
        for column in ("captions", "caption_states"):
            assert {kind: text for kind, text in row.pop(column).items() if text} == line.pop(column)
        for read, written in zip(row.pop("faces"), line.pop("faces"), strict=True):
            assert read.pop("embedding") == pytest.approx(written.pop("embedding"), abs=1e-6)
            assert read == written
        assert row == line


def test_the_columns_are_the_fields_of_a_clip(rows):
    schema = arrow_schema()
    assert schema.names == ["split", "shard", *asdict(make_sample(0).meta), "linked_faces"]
    assert {field.name for field in schema.field("faces").type.value_type} == set(typing.get_type_hints(FaceMeta))
    assert "binary" not in str(schema)


def test_the_same_rows_give_the_same_bytes(tmp_path, rows):
    for name in ("a", "b"):
        write_annotations(tmp_path / name, rows)
    assert (tmp_path / "a" / PARQUET).read_bytes() == (tmp_path / "b" / PARQUET).read_bytes()


def test_no_clips_are_a_table_without_rows(tmp_path):
    write_annotations(tmp_path, [])
    assert pq.read_table(tmp_path / PARQUET).schema == arrow_schema()


def test_types():
    assert arrow_type(typing.get_type_hints(ClipMeta)["crop_box"]) == pa.list_(pa.float64())
    assert arrow_type(float | None) == pa.float64()
    assert arrow_type(tuple[float, ...]) == pa.list_(pa.float32())
    assert arrow_type(dict[str, int]) == pa.map_(pa.string(), pa.int64())
    with pytest.raises(TypeError, match="no Arrow type"):
        arrow_type(bytes)
