"""The program as a whole: every input ends accepted or with a reason, and nothing is lost or half-written."""

import json
import os
import resource
import shutil

import numpy as np
import pytest
from square_faces import curate, curate_in_a_process, draw, person, write_mp4
from video_files import write_sound, write_video

from idanim.data.sample import from_members
from idanim.data.shards import ShardIndex, find_shards

PEOPLE = ("anna__0", "anna__1", "bea__0", "cleo__0")


def fill(folder, names=PEOPLE):
    for i, name in enumerate(names):
        write_mp4(folder / f"{name}.mp4", person(40 + i, colour=("red", "green", "blue")[i % 3], shade=10 * i))
    return folder


def shard_bytes(output):
    found = {path.name: path.read_bytes() for path in sorted(output.glob("*.tar"))}
    assert found
    return found | {"annotations": (output / "annotations.jsonl").read_bytes()}


def samples(output):
    found = {}
    for split in ("train", "val"):
        for path in find_shards(str(output), split):
            index = ShardIndex.scan(path)
            found |= {key: (split, from_members(index.read(key))) for key in index.keys}
    return found


def report(output):
    return json.loads((output / "report.json").read_text())


def leftovers(output):
    return [path for path in output.rglob("*") if ".part" in path.name]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def reference_output(videos, tmp_path_factory):
    """The folder of a run that nothing disturbed; for reading only."""
    return curate(videos, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def reference(reference_output):
    """The bytes of its shards."""
    return shard_bytes(reference_output)


class TestOutput:
    def test_shards_annotations_and_report(self, videos, tmp_path, capsys):
        output = curate(videos, tmp_path / "out")
        found = samples(output)
        assert sorted(found) == sorted(PEOPLE)
        rows = [json.loads(line) for line in (output / "annotations.jsonl").read_text().splitlines()]
        assert sorted(row["key"] for row in rows) == sorted(PEOPLE)
        assert {row["key"]: row["split"] for row in rows} == {key: split for key, (split, _) in found.items()}
        assert report(output)["accepted"] == 4
        assert report(output)["rejected"] == {}
        assert "4 accepted" in capsys.readouterr().out
        assert leftovers(output) == []

    def test_a_person_is_in_one_split_only_and_both_have_someone(self, reference_output):
        found = samples(reference_output)
        splits = {}
        for split, sample in found.values():
            splits.setdefault(sample.meta.identity, set()).add(split)
        assert all(len(split) == 1 for split in splits.values())
        assert set.union(*splits.values()) == {"train", "val"}

    def test_faces_of_the_persons_other_clips_are_in_the_sample(self, reference_output):
        found = {key: sample for key, (_, sample) in samples(reference_output).items()}
        anna = found["anna__0"]
        others = [i for i, face in enumerate(anna.meta.faces) if face.clip != "anna__0"]
        assert [anna.meta.faces[i].clip for i in others] == ["anna__1"] * 5
        assert [anna.faces[i] for i in others] == list(found["anna__1"].faces[:5])
        assert {face.clip for face in found["bea__0"].meta.faces} == {"bea__0"}

    def test_captions_and_identity_from_beside_the_video(self, tmp_path):
        source = fill(tmp_path / "in")
        (source / "anna__0.txt").write_text("A red square")
        (source / "bea__0.json").write_text(json.dumps({"identity": "anna", "action": "drifts"}))
        found = {key: sample.meta for key, (_, sample) in samples(curate(source, tmp_path / "out")).items()}
        assert found["anna__0"].captions == {"unified": "A red square"}
        assert found["bea__0"].captions == {"action": "drifts"}
        assert found["bea__0"].identity == "anna"
        assert "cleo" in found["cleo__0"].identity
        assert found["cleo__0"].captions["unified"]

    def test_small_shards(self, videos, tmp_path):
        output = curate(videos, tmp_path / "out", "shards.max_clips=1", "shards.val_fraction=0")
        assert [path.name for path in sorted(output.glob("*.tar"))] == [f"train-{i:06d}.tar" for i in range(4)]


def test_every_bad_video_has_its_reason_and_the_run_goes_on(tmp_path):
    source = fill(tmp_path / "in", PEOPLE[:2])
    good = (source / "anna__0.mp4").read_bytes()
    (source / "text.mp4").write_text("not a video\n" * 50)
    (source / "empty.mov").touch()
    (source / "cut_off.mp4").write_bytes(good[: len(good) // 2])
    write_sound(source / "sound.mp4")
    write_mp4(source / "short.mp4", person(15))
    write_mp4(source / "pair.mp4", np.stack([draw(("red", "green"))] * 20))
    write_mp4(source / "nobody.mp4", np.stack([draw(())] * 20))
    write_mp4(source / "far away.mp4", person(30, size=8))
    write_mp4(source / "sub folder" / "größe, x=1 (é).mp4", person(30))
    write_mp4(source / "badly_told.mp4", person(31))
    (source / "badly_told.json").write_text("{")
    (source / "dangling.mp4").symlink_to(source / "gone.mp4")
    output = curate(source, tmp_path / "out")
    decisions = {row["source"]: row["reason"] for row in report(output)["decisions"]}
    assert decisions == {
        "anna__0.mp4": None,
        "anna__1.mp4": None,
        "sub folder/größe, x=1 (é).mp4": None,
        "text.mp4": "not_a_video",
        "empty.mov": "empty_file",
        "cut_off.mp4": "truncated",
        "sound.mp4": "no_video_stream",
        "short.mp4": "too_short",
        "pair.mp4": "several_faces",
        "nobody.mp4": "no_face",
        "far away.mp4": "face_too_small",
        "badly_told.mp4": "bad_sidecar",
        "dangling.mp4": "file_not_readable",
    }
    assert len(samples(output)) == 3
    table = (output / "report.md").read_text()
    assert all(name in table for name, reason in decisions.items() if reason)


def test_odd_sizes_other_formats_uneven_time_and_rotation_are_no_obstacle(tmp_path):
    frames = person(40, height=97, width=99)
    uneven_ms = [i * 40 + i % 3 * 12 for i in range(len(frames))]
    write_video(tmp_path / "odd.mkv", frames, "ffv1", "bgr0", pts=uneven_ms)
    write_video(tmp_path / "turned.mov", person(40, width=128, y=60), "mpeg4", rotation=90, fps=30)
    output = curate(tmp_path, tmp_path / "out")
    found = {sample.meta.source: sample.meta for _, sample in samples(output).values()}
    assert set(found) == {"odd.mkv", "turned.mov"}
    assert found["odd.mkv"].num_frames == found["turned.mov"].num_frames == 40
    left, top, right, bottom = found["turned.mov"].crop_box
    assert (left, right) == (0, 96)
    face = found["turned.mov"].faces[-1].box
    assert abs(face[0] - 60) < 3  # upright, the face's former height is its distance from the left
    assert top <= face[1] < face[3] <= bottom


def test_a_person_of_two_names_in_both_splits_is_reported(tmp_path, capsys):
    source = tmp_path / "in"
    for i, (name, colour) in enumerate((("anna__0", "red"), ("annie__0", "red"), ("bea__0", "blue"))):
        write_mp4(source / f"{name}.mp4", person(40 + i, colour=colour))
    output = curate(source, tmp_path / "out", "shards.val_fraction=0.5", "seed=1")
    splits = {key: split for key, (split, _) in samples(output).items()}
    assert splits["anna__0"] != splits["annie__0"]
    leaks = report(output)["possible_leaks"]
    assert leaks["count"] == 1
    (pair,) = leaks["most_similar"]
    assert {pair["train"], pair["val"]} == {"anna__0.mp4", "annie__0.mp4"}
    assert pair["similarity"] > 0.9
    for text in (capsys.readouterr().out, (output / "report.md").read_text()):
        assert "one pair of a training and a validation video" in text
        assert "annie__0.mp4" in text
    curate(source, output, "shards.val_fraction=0.5", "seed=1", "link.warn_similarity=1")
    assert report(output)["possible_leaks"] == {"count": 0, "most_similar": []}
    assert "validation video" not in capsys.readouterr().out


def test_nothing_accepted_is_a_report_not_a_crash(tmp_path):
    write_mp4(tmp_path / "in" / "nobody.mp4", np.stack([draw(())] * 20))
    output = curate(tmp_path / "in", tmp_path / "out")
    assert report(output)["rejected"] == {"no_face": 1}
    assert list(output.glob("*.tar")) == []


class TestWholeRunErrors:
    def test_folders_without_videos(self, tmp_path):
        (tmp_path / "in").mkdir()
        with pytest.raises(SystemExit, match="it is empty"):
            curate(tmp_path / "in", tmp_path / "out")
        with pytest.raises(SystemExit, match="no such folder"):
            curate(tmp_path / "gone", tmp_path / "out")

    def test_wrong_settings(self, videos, tmp_path):
        with pytest.raises(SystemExit, match=r"clip\.size=33"):
            curate(videos, tmp_path / "out", "clip.size=33")
        with pytest.raises(SystemExit, match="val_fraction"):
            curate(videos, tmp_path / "out", "shards.val_fraction=1")
        with pytest.raises(SystemExit, match=r"clip\.size"):
            curate(videos, tmp_path / "out", "clip.sise=32")

    def test_an_output_that_can_not_be_written(self, videos, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit, match=r"Not a directory|File exists"):
            curate(videos, tmp_path / "file" / "out")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_no_permission(self, videos, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(SystemExit, match="Permission denied"):
            curate(videos, tmp_path / "locked" / "out")


class TestAgain:
    def test_only_new_and_changed_videos_are_worked_on(self, tmp_path):
        source, output = fill(tmp_path / "in"), tmp_path / "out"
        before = shard_bytes(curate(source, output))
        stamps = {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()}
        packed = (output / "train-000000.tar").stat().st_mtime_ns
        curate(source, output)
        assert {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()} == stamps
        assert (output / "train-000000.tar").stat().st_mtime_ns == packed
        write_mp4(source / "dora__0.mp4", person(50))
        curate(source, output)
        after = {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()}
        assert stamps.items() < after.items()
        assert len(after) == 5
        (source / "dora__0.mp4").unlink()
        assert shard_bytes(curate(source, output)) == before
        assert len(list((output / "work" / "videos").iterdir())) == 4

    def test_other_settings_make_other_clips_and_old_shards_go(self, videos, tmp_path):
        output = curate(videos, tmp_path / "out", "shards.max_clips=1", "shards.val_fraction=0")
        curate(videos, output, "clip.num_frames=20", "clip.max_frames=20")
        assert {sample.meta.num_frames for _, sample in samples(output).values()} == {20}
        assert sorted(path.name for path in output.glob("*.tar")) == ["train-000000.tar", "val-000000.tar"]

    def test_other_files_in_the_output_are_left_alone(self, videos, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.tar").write_bytes(b"keep")
        output = curate(videos, tmp_path / "out")
        assert (output / "mine.tar").read_bytes() == b"keep"

    def test_another_input_does_not_take_the_place_of_shards_unasked(self, videos, tmp_path, reference):
        output = curate(videos, tmp_path / "out")
        with pytest.raises(SystemExit, match=r"holds the shards of .*replace=true"):
            curate(fill(tmp_path / "others", ("dora__0",)), output)
        assert shard_bytes(output) == reference
        stamps = {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()}
        moved = shutil.copytree(videos, tmp_path / "moved")  # keeps modification times, like a move
        curate(moved, output, "replace=true")
        assert shard_bytes(output) == reference
        assert {path.name: path.stat().st_mtime_ns for path in (output / "work" / "videos").iterdir()} == stamps

    def test_a_damaged_or_missing_shard_is_made_again(self, videos, tmp_path, reference):
        output = curate(videos, tmp_path / "out")
        (output / "train-000000.tar").write_bytes(b"")
        (output / "val-000000.tar").unlink()
        assert shard_bytes(curate(videos, output)) == reference


class TestInterrupted:
    def test_killed_in_the_middle_of_a_video(self, videos, tmp_path, reference):
        output = tmp_path / "out"
        killed = curate_in_a_process(videos, output, environment={"SQUARE_FACES_DIE_AFTER": "30"})
        assert killed.returncode == -9
        finished = len(list((output / "work" / "videos").glob("*.tar")))
        assert 0 < finished < 4
        assert list(output.glob("*.tar")) == []
        assert shard_bytes(curate(videos, output)) == reference

    def test_killed_while_writing(self, videos, tmp_path, reference):
        output = curate(videos, tmp_path / "out")
        # What a kill can leave: temporary files, a part of the new shards, and old shards that are still in place.
        results = sorted((output / "work" / "videos").iterdir())
        shutil.copy(results[0], output / "work" / "videos" / ".anna__0-0000.abcdefgh.part.tar")
        results[0].unlink()
        staging = output / "work" / "shards"
        staging.mkdir()
        (staging / ".train-000000.abcdefgh.part.tar").write_bytes(b"half")
        (staging / "train-000007.tar").write_bytes(b"old")
        (output / "work" / "packed.json").unlink()
        (output / ".report.abcdefgh.part.json").write_text("{")
        assert shard_bytes(curate(videos, output)) == reference
        assert leftovers(output) == []

    def test_disk_full_while_packing(self, videos, tmp_path, reference):
        output = curate(videos, tmp_path / "out", "shards.max_clips=1")
        old = shard_bytes(output)
        largest = max(path.stat().st_size for path in (output / "work" / "videos").iterdir())
        assert max(map(len, reference.values())) > largest + 4096
        full = curate_in_a_process(
            videos,
            output,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 4096,) * 2),
        )
        assert full.returncode == 1
        assert "can't write" in full.stderr
        assert "File too large" in full.stderr
        assert "Traceback" not in full.stderr
        assert shard_bytes(output) == old
        assert leftovers(output) == []
        assert not (output / "work" / "shards").exists()
        assert shard_bytes(curate(videos, output)) == reference
