"""Lists of clips and CelebV-HQ's JSON: times and boxes are applied, mistakes are told, missing files are counted."""

import json
import shutil

import numpy as np
import pytest
from square_faces import curate, draw, person, write_mp4

from idanim.curation.inputs import find_clips, read_celebv_hq, read_list
from idanim.data.sample import from_members
from idanim.data.shards import ShardIndex, find_shards
from idanim.types import IdanimError
from idanim.video import VideoReader
from idanim.video_part import Part


def numbered(path, num_frames=200, fps=25):
    """A video whose frames tell their number by their brightness."""
    frames = np.repeat(np.arange(num_frames, dtype=np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3) + 20
    return write_mp4(path, frames, fps)


def decisions(output):
    return {row["source"]: row["reason"] for row in json.loads((output / "report.json").read_text())["decisions"]}


def metas(output):
    found = {}
    for split in ("train", "val"):
        for path in find_shards(str(output), split):
            index = ShardIndex.scan(path)
            found |= {key: from_members(index.read(key)).meta for key in index.keys}
    return found


class TestParts:
    def test_times(self, tmp_path):
        path = numbered(tmp_path / "a.mp4")
        with VideoReader(path, part=Part(3.0, 5.0)) as reader:
            frames = [(index, round(float(rgb.mean())) - 20) for index, rgb in reader.read()]
        assert [index for index, _ in frames] == list(range(50))
        assert all(abs(number - (75 + index)) <= 1 for index, number in frames)
        assert (reader.info.num_frames, reader.num_decoded, reader.fps) == (50, 50, 25)
        assert reader.first_s == pytest.approx(3.0)

    def test_a_jump_decodes_no_more_than_it_must(self, tmp_path):
        path = numbered(tmp_path / "a.mp4")
        with VideoReader(path, part=Part(7.0, 7.5)) as reader:
            assert len(list(reader.read())) in (12, 13)
            assert reader._num_packets < 40  # of 200

    def test_a_box(self, tmp_path):
        path = write_mp4(tmp_path / "a.mp4", np.stack([draw(("red",), x=60, y=12)] * 20))
        with VideoReader(path, part=Part(box=(0.5, 0.0, 1.0, 0.5))) as reader:
            (_, rgb), *_ = reader.read()
        assert rgb.shape == (48, 48, 3)
        assert (reader.info.width, reader.info.height) == (48, 48)
        assert rgb[24, 24, 0] > 200 > 100 > rgb[24, 24, 1]


class TestList:
    ROWS = (
        {"path": "film.mp4", "start": 0, "end": 1.6, "identity": "anna", "id": "one"},
        {"path": "film.mp4", "start": 2.4, "end": 4, "identity": "anna"},
        {"path": "film.mp4", "start": 2.4, "end": 4},
        {"path": "gone.mp4"},
    )

    def write(self, folder, kind):
        path = folder / f"list.{kind}"
        if kind == "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in self.ROWS))
        else:
            lines = ["path,start,end,identity,id"]
            lines += [",".join(str(row.get(name, "")) for name in lines[0].split(",")) for row in self.ROWS]
            path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
        return path

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_clips_of_a_list(self, tmp_path, kind):
        write_mp4(tmp_path / "in" / "film.mp4", person(120))
        output = curate(self.write(tmp_path / "in", kind), tmp_path / "out", "shards.val_fraction=0")
        assert decisions(output) == {
            "film.mp4#t=0,1.6": None,
            "film.mp4#t=2.4,4": None,
            "film.mp4#t=2.4,4&row=4" if kind == "csv" else "film.mp4#t=2.4,4&row=3": "duplicate",
            "gone.mp4": "file_missing",
        }
        found = metas(output)
        assert "one" in found
        assert {meta.identity for meta in found.values()} == {"anna"}
        assert {meta.num_frames for meta in found.values()} == {40}
        linked = {face.clip for face in found["one"].faces}
        assert linked == set(found)

    @pytest.mark.parametrize(
        ("row", "told"),
        [
            ('{"path": ""}', "path is ''"),
            ('{"path": "a.mp4", "start": "x"}', "start is 'x'"),
            ('{"path": "a.mp4", "start": 5, "end": 4}', "before it starts"),
            ('{"path": "a.mp4", "box": [0, 0, 200, 300]}', "shares of the picture"),
            ('{"path": "a.mp4", "strat": 5}', "unknown columns"),
            ("[1]", "expected an object"),
            ("{", "can't be read"),
            ('{"path": "b.mp4", "id": "x"}\n{"path": "c.mp4", "id": "x"}', "is that of row 2"),
        ],
    )
    def test_mistakes_are_told_with_their_row(self, tmp_path, row, told):
        path = tmp_path / "list.jsonl"
        path.write_text('{"path": "a.mp4"}\n' + row)
        with pytest.raises(IdanimError, match=r"list\.jsonl") as caught:
            read_list(path, tmp_path)
        assert told in str(caught.value)

    def test_other_files(self, tmp_path):
        (tmp_path / "list.txt").write_text("a.mp4")
        (tmp_path / "empty.csv").write_text("path\n")
        with pytest.raises(IdanimError, match="expected a folder"):
            find_clips(tmp_path / "list.txt", None, False)
        with pytest.raises(IdanimError, match="names no clip"):
            find_clips(tmp_path / "empty.csv", None, False)
        with pytest.raises(IdanimError, match="no such folder"):
            find_clips(tmp_path / "empty.csv", tmp_path / "gone", False)


class TestCelebVHQ:
    @staticmethod
    def info(clips):
        return json.dumps({"meta_info": {}, "clips": clips})

    @staticmethod
    def record(ytb_id, start, end, left=0.0, right=1.0):
        box = {"top": 0.0, "bottom": 1.0, "left": left, "right": right}
        return {"ytb_id": ytb_id, "duration": {"start_sec": start, "end_sec": end}, "bbox": box, "version": "v0.1"}

    def test_times_and_boxes_are_applied_and_missing_files_counted(self, tmp_path):
        frames = np.concatenate([person(60), np.stack([draw(("green",), x=4), draw(("green",), x=8)] * 40)])
        write_mp4(tmp_path / "videos" / "raw" / "abc.mp4", frames)
        write_mp4(tmp_path / "videos" / "cut" / "xyz_0.mp4", person(30, colour="blue"))
        clips = {
            "abc_0": self.record("abc", 0.0, 2.0),
            "abc_1": self.record("abc", 2.6, 5.0, right=0.5),
            "xyz_0": self.record("xyz", 100.0, 105.0, left=0.3),
            "no_0": self.record("no", 1.0, 4.0),
        }
        (tmp_path / "info.json").write_text(self.info(clips))
        output = curate(
            tmp_path / "info.json", tmp_path / "out", f"videos={tmp_path / 'videos'}", "filter.max_face_share=1"
        )
        found = metas(output)
        assert set(found) == {"abc_0", "abc_1", "xyz_0"}
        assert json.loads((output / "report.json").read_text())["rejected"] == {"file_missing": 1}
        assert found["abc_0"].num_frames == 50
        left, top, right, bottom = found["abc_1"].crop_box
        assert right - left == bottom - top == 48  # half of the picture's width

    @pytest.mark.parametrize("content", ["[", "[]", '{"clips": 3}', '{"clips": {"a": {"ytb_id": "x"}}}'])
    def test_other_json(self, tmp_path, content):
        (tmp_path / "info.json").write_text(content)
        with pytest.raises(IdanimError, match=r"info\.json"):
            read_celebv_hq(tmp_path / "info.json", tmp_path)


def test_files_of_the_same_content_are_used_once(tmp_path):
    write_mp4(tmp_path / "in" / "a__0.mp4", person(30))
    shutil.copy(tmp_path / "in" / "a__0.mp4", tmp_path / "in" / "b__0.mp4")
    for name in ("c.mp4", "d.mp4"):
        (tmp_path / "in" / name).touch()
    output = curate(tmp_path / "in", tmp_path / "out")
    expected = {"a__0.mp4": None, "b__0.mp4": "duplicate", "c.mp4": "empty_file", "d.mp4": "empty_file"}
    assert decisions(output) == expected
    assert len(metas(curate(tmp_path / "in", output, "keep_duplicates=true"))) == 2


class TestVideosThatAreAway:
    """A disk that is not mounted today must not cost the dataset of yesterday."""

    def shards_of(self, output):
        return {path.name: path.read_bytes() for path in sorted(output.glob("*-*.tar"))}

    def test_shards_and_results_stay(self, tmp_path):
        source = tmp_path / "videos"
        for name, x in (("anna", 30), ("bob", 34)):
            write_mp4(source / f"{name}.mp4", np.stack([draw(x=x + i // 4) for i in range(48)]))
        rows = [json.dumps({"path": f"{name}.mp4", "identity": name}) for name in ("anna", "bob")]
        (tmp_path / "list.jsonl").write_text("\n".join(rows))
        arguments = (tmp_path / "list.jsonl", tmp_path / "out", f"videos={source}")
        output = curate(*arguments)
        shards = self.shards_of(output)
        assert shards
        results = {path.name: path.read_bytes() for path in (output / "work" / "videos").glob("*.tar")}
        source.rename(tmp_path / "away")
        source.mkdir()  # as an empty mount point
        with pytest.raises(SystemExit, match=r"none of the 2 videos was accepted, 2 of them are missing.*replace=true"):
            curate(*arguments)
        assert self.shards_of(output) == shards
        source.rmdir()
        (tmp_path / "away").rename(source)
        (source / "bob.mp4").rename(tmp_path / "bob.mp4")
        assert decisions(curate(*arguments)) == {"anna.mp4": None, "bob.mp4": "file_missing"}
        kept = {path.name: path.read_bytes() for path in (output / "work" / "videos").glob("*.tar")}
        assert kept == results  # bob's, too
        (tmp_path / "bob.mp4").rename(source / "bob.mp4")
        curate(*arguments)
        assert self.shards_of(output) == shards


def test_listed_clips_without_a_name_are_people_of_their_own(tmp_path):
    frames = np.stack([draw(x=20 + i // 4) for i in range(100)])
    write_mp4(tmp_path / "videos" / "film.mp4", frames)
    rows = [json.dumps({"path": "film.mp4", "start": start, "end": start + 1.8}) for start in (0, 2)]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    found = metas(curate(tmp_path / "list.jsonl", tmp_path / "out", f"videos={tmp_path / 'videos'}"))
    assert len(found) == len({meta.identity for meta in found.values()}) == 2
