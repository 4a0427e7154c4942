import csv
import json

import pytest

from idanim.metrics.manifest import read_manifest
from idanim.metrics.videos import VideoRecord
from idanim.types import IdanimError

FULL = {
    "path": "a/1.mp4",
    "prompt": "a man, smiling",
    "person": "ann",
    "seed": 3,
    "system": "other",
    "group": "action",
    "num_frames": 16,
    "width": 64,
    "height": 48,
}


def write_jsonl(folder, *rows):
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(folder, *rows):
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_all_columns(tmp_path, write):
    manifest = read_manifest(write(tmp_path, FULL), tmp_path / "videos")
    sampling = {"num_frames": 16, "width": 64, "height": 48}
    expected = VideoRecord("a man, smiling", "ann", 3, "other", "action", {"sampling": sampling})
    assert manifest.videos == {tmp_path / "videos" / "a" / "1.mp4": expected}
    assert manifest.references == {}


@pytest.mark.parametrize("write", [write_jsonl, write_csv])
def test_few_columns(tmp_path, write):
    rows = [{"path": "1.mp4", "prompt": "a man", "person": "ann"}, {"path": "2.mp4", "prompt": "a man", "person": ""}]
    videos = read_manifest(write(tmp_path, *rows), tmp_path).videos
    assert list(videos.values()) == [VideoRecord("a man", "ann"), VideoRecord("a man", "")]


def test_references_name_the_person(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("ann__1.jpg", "ann__2.jpg", "x.jpg"):
        (tmp_path / "photos" / name).touch()
    rows = [
        {"path": "1.mp4", "prompt": "a", "reference": "photos/ann__1.jpg"},
        {"path": "2.mp4", "prompt": "b", "reference": "photos/ann__2.jpg"},
        {"path": "3.mp4", "prompt": "b", "reference": "photos/x.jpg", "person": "bob"},
    ]
    manifest = read_manifest(write_jsonl(tmp_path, *rows), tmp_path)
    photos = {name: [path.name for path in paths] for name, paths in manifest.references.items()}
    assert photos == {"ann": ["ann__1.jpg", "ann__2.jpg"], "bob": ["x.jpg"]}
    assert [record.identity for record in manifest.videos.values()] == ["ann", "ann", "bob"]


def test_the_same_row_twice_counts_once(tmp_path):
    manifest = read_manifest(write_csv(tmp_path, FULL, FULL), tmp_path)
    assert (len(manifest.videos), manifest.num_repeated) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no row in it"),
        ([FULL | {"prompt": " "}], r"line 1: empty or missing \['prompt'\]"),
        ([{"path": "1.mp4", "person": "ann"}], r"empty or missing \['prompt'\]"),
        ([FULL, FULL | {"path": ""}], r"line 2: empty or missing \['path'\]"),
        ([FULL | {"sed": 1}], r"unknown \[sed\].*columns are path, prompt, person"),
        ([FULL | {"seed": "1"}], r"of the wrong kind \['seed'\]"),
        ([FULL | {"seed": True}], r"of the wrong kind \['seed'\]"),
        ([FULL, FULL | {"seed": 4}], "line 2: a/1.mp4 stands there twice, and the rows differ"),
        ([FULL, FULL | {"path": "2.mp4"}], "line 2: the same system, person, prompt and seed as .*line 1"),
        ([FULL | {"path": "../../etc/passwd"}], "lies outside of"),
        ([{"path": "1.mp4", "prompt": "a"}], "a person or a reference is needed"),
        ([FULL | {"reference": "no.jpg"}], "reference='no.jpg': there is no such file"),
        ([FULL | {"reference": "x/bob.jpg", "person": ""}], "a reference, but person is empty"),
        ([FULL | {"reference": "x/bob.jpg"}, FULL | {"path": "2.mp4", "person": "eve"}], "none has one for eve"),
        ([["path"]], "expected an object"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, rows, message):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "bob.jpg").touch()
    with pytest.raises(IdanimError, match=message):
        read_manifest(write_jsonl(tmp_path, *rows), tmp_path / "videos")


def test_two_people_of_one_file_name_are_told_apart(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").touch()
    rows = [{"path": f"{f}.mp4", "prompt": f, "reference": f"{f}/1.jpg"} for f in ("x", "y")]
    with pytest.raises(IdanimError, match="would both be 1; add the column person"):
        read_manifest(write_jsonl(tmp_path, *rows), tmp_path)


def test_mistakes_in_csv(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("path,prompt,person,seed\n1.mp4,a man,ann,first\n")
    with pytest.raises(IdanimError, match="line 2: seed='first', expected a whole number"):
        read_manifest(path, tmp_path)
    path.write_text("path,prompt,person\n1.mp4,a man, smiling,ann\n")
    with pytest.raises(IdanimError, match="line 2: expected 3 cells"):
        read_manifest(path, tmp_path)
    with pytest.raises(IdanimError, match="there is no such file"):
        read_manifest(tmp_path / "no.csv", tmp_path)
    (tmp_path / "m.txt").touch()
    with pytest.raises(IdanimError, match=r"expected a \.csv or \.jsonl file"):
        read_manifest(tmp_path / "m.txt", tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IdanimError, match="not a UTF-8 text file"):
        read_manifest(path, tmp_path)
