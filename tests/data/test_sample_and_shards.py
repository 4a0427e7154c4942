from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset
from drawn_people import make_sample, make_shards

from idanim.data.sample import from_members, to_members
from idanim.data.shards import ShardIndex, find_shards, write_shard
from idanim.types import IdanimError


def test_sample_survives_the_round_trip_through_a_shard(tmp_path: Path) -> None:
    samples = [make_sample(p, num_clips=2) for p in range(3)]
    path = tmp_path / "train-000000.tar"
    assert write_shard(path, samples) == 3
    index = ShardIndex.scan(path)
    assert [from_members(index.read(key)) for key in index.keys] == samples


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves the file open
def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    samples = [make_sample(p) for p in range(2)]
    path = tmp_path / "train-000000.tar"
    write_shard(path, samples)
    stream = webdataset.WebDataset(str(path), shardshuffle=False)
    assert [from_members(members) for members in stream] == samples


def test_equal_samples_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("train-000000.tar", "train-000001.tar"):
        write_shard(tmp_path / name, [make_sample(1), make_sample(2)])
    assert (tmp_path / "train-000000.tar").read_bytes() == (tmp_path / "train-000001.tar").read_bytes()


def test_splits_are_told_by_name(tmp_path: Path) -> None:
    make_shards(tmp_path, persons=3, clips=2, per_shard=2, val=1)
    assert [p.name for p in find_shards(str(tmp_path), "val")] == ["val-000000.tar"]
    assert len(find_shards(str(tmp_path), "train")) == 3
    (tmp_path / "train-000000.tar").rename(tmp_path / "somebody elses.tar")
    assert len(find_shards(str(tmp_path), "train")) == 3


def test_urls_are_copied_to_a_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDANIM_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        write_shard(tmp_path / f"train-{number:06d}.tar", [make_sample(number)])
    url = f"file://{tmp_path}/train-{{000000..000002}}.tar"
    first = find_shards(url, "train")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in sorted(tmp_path.glob("*.tar"))]
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    assert find_shards(url, "train") == first
    with pytest.raises(IdanimError, match="can't be fetched"):
        find_shards(f"file://{tmp_path}/nothing.tar", "train")


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match="no such folder"):
        find_shards(str(tmp_path / "nowhere"), "train")
    with pytest.raises(IdanimError, match=r"idanim\.curate"):
        find_shards(str(tmp_path), "train")


def test_cut_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1)])
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(IdanimError, match=r"train-000000\.tar"):
        ShardIndex.scan(path)
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(IdanimError, match="not a readable tar"):
        ShardIndex.scan(path)


def test_tar_cut_between_two_members_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1), make_sample(2)])
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        second = next(info.offset for info in tar if info.name.startswith("p002"))
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    for kept in (content[:second], content[: second + 200], content[:end], content[: end + 512]):
        path.write_bytes(kept)
        with pytest.raises(IdanimError, match=r"train-000000\.tar: cut short"):
            ShardIndex.scan(path)
    path.write_bytes(content[: end + 1024])  # without the padding behind the end mark
    assert ShardIndex.scan(path).keys == ("p001__0", "p002__0")
    path.write_bytes(content[:second] + b"x" * 512 + content[second + 512 :])
    with pytest.raises(IdanimError, match="damaged"):
        ShardIndex.scan(path)


def test_disk_full_leaves_the_old_shard(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1)])
    before = path.read_bytes()

    def failing():
        yield make_sample(2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shard(path, failing())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("member", ["json", "mp4", "frame.jpg", "face.2.jpg"])
def test_missing_member_is_named(member: str) -> None:
    members = to_members(make_sample(1))
    del members[member]
    with pytest.raises(IdanimError, match=member):
        from_members(members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"identity": None, "unknown": 1}, "unknown"),
        ({"identity": ""}, "identity is '', expected some text"),
        ({"identity": "a\ud800"}, "identity is .*expected some text"),
        ({"key": "other"}, "key is 'other', but the tar calls it 'p001__0'"),
        ({"captions": {}}, "no caption"),
        ({"captions": {"unified": 5}}, "captions is .*expected an object that holds text"),
        ({"captions": ["unified"]}, "captions is .*expected an object that holds text"),
        ({"crop_box": None}, "crop_box is None, expected 4 finite numbers"),
        ({"crop_box": [0, 0, 1]}, "crop_box is .*expected 4 finite numbers"),
        ({"num_frames": 8.5}, "num_frames is 8.5, expected a whole number from 1"),
        ({"fps": True}, "fps is True"),
        ({"fps": 10**400}, "fps is 1000"),
        ({"faces": None}, "faces is None, expected a list"),
        ({"faces": [None]}, "face 0: is a NoneType"),
        ({"faces": [{"box": 1}]}, "face 0"),
    ],
)
def test_wrong_json_is_named(change: dict, message: str) -> None:
    members = to_members(make_sample(1))
    members["json"] = json.dumps(json.loads(members["json"]) | change).encode()
    with pytest.raises(IdanimError, match=message):
        from_members(members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": [0, 0, 1, "1"]}, "box is .*expected 4 finite numbers"),
        ({"landmarks": 3}, "landmarks is 3, expected 5 pairs of finite numbers"),
        ({"landmarks": [[0, 0]] * 4}, "landmarks is"),
        ({"landmarks": [[0, 0, 0]] * 5}, "landmarks is"),
        ({"embedding": "x"}, "embedding is 'x', expected finite numbers"),
        ({"embedding": [float("nan")] * 16}, "embedding is"),
        ({"embedding": [0] * 16}, "embedding is"),
        ({"embedding": [1, 0]}, "embedding has 2 or 16 numbers"),
        ({"role": ["pool"]}, "role is .*expected pool or first_frame"),
        ({"frame": -1}, "frame is -1"),
        ({"score": None}, "score is None, expected a finite number"),
    ],
)
def test_wrong_face_record_is_named(change: dict, message: str) -> None:
    members = to_members(make_sample(1))
    raw = json.loads(members["json"])
    raw["faces"][2] |= change
    members["json"] = json.dumps(raw).encode()
    with pytest.raises(IdanimError, match=f"sample 'p001__0'.*{message}"):
        from_members(members)


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[" * 100_000, b"[1" + b"0" * 5000 + b"]", b"null"])
def test_json_that_can_not_be_read_is_named(content: bytes) -> None:
    with pytest.raises(IdanimError, match="sample 'p001__0': its json"):
        from_members(to_members(make_sample(1)) | {"json": content})


def test_duplicate_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.json"))
    with pytest.raises(IdanimError, match="two members"):
        ShardIndex.scan(path)


def test_the_index_of_a_shard_is_kept_until_the_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1), make_sample(2)])
    whole = ShardIndex.scan(path)
    scanned, scan = [], ShardIndex._scan
    monkeypatch.setattr(ShardIndex, "_scan", lambda path: scanned.append(path) or scan(path))
    first, second = ShardIndex.kept(path), ShardIndex.kept(path)
    assert first == second == whole
    assert (first.keys, first.members, first.num_clips) == (whole.keys, whole.members, 2)
    assert len(scanned) == 1
    file = tmp_path / "index" / "train-000000.jsonl"
    head = json.loads(file.read_text().split("\n")[0])
    damaged = [{**head, name: value} for name in head for value in (None, -1, 2.0, "../../x", 10**12)]
    for damage in ("", "[]", '{"shard": 1}', *map(json.dumps, damaged)):
        file.write_text(damage + "\n{}\n")
        assert ShardIndex.kept(path) == whole
        assert json.loads(file.read_text().split("\n")[0]) == head
    assert len(scanned) == 4 + len(damaged)
    write_shard(path, [make_sample(3)])
    assert ShardIndex.kept(path).keys == ("p003__0",)
    assert len(scanned) == 5 + len(damaged)


@pytest.fixture
def kept(tmp_path: Path) -> ShardIndex:
    """What a second start finds, nothing of its listing read before."""
    write_shard(tmp_path / "train-000000.tar", [make_sample(1), make_sample(2)])
    ShardIndex.kept(tmp_path / "train-000000.tar")
    return ShardIndex.kept(tmp_path / "train-000000.tar")


@pytest.mark.parametrize(
    "listing", [None, "", "[]", "{}", '{"p001__0": {"mp4": [0, -1]}}', '{"p001__0": {"mp4": [0, 1]}}']
)
def test_a_damaged_listing_is_read_from_the_shard(kept: ShardIndex, listing: str | None) -> None:
    file = kept.path.parent / "index" / "train-000000.jsonl"
    head = file.read_text().split("\n")[0]
    file.unlink() if listing is None else file.write_text(f"{head}\n{listing}\n")
    assert kept.members == ShardIndex.scan(kept.path).members


def test_a_listing_of_another_shard_is_never_taken(kept: ShardIndex) -> None:
    write_shard(kept.path, [make_sample(3)])
    ShardIndex.kept(kept.path)
    with pytest.raises(IdanimError, match=r"train-000000\.tar: it, or .*train-000000\.jsonl, changed.* start again"):
        _ = kept.keys


def test_a_kept_index_goes_to_another_process(kept: ShardIndex) -> None:
    assert pickle.loads(pickle.dumps(kept)).members == kept.members


def test_shards_where_nothing_can_be_written_are_scanned(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1)])
    (tmp_path / "index").write_text("a file where the folder would be")
    assert ShardIndex.kept(path).keys == ShardIndex.scan(path).keys == ("p001__0",)
