"""Shards from a web server that fails in every way: asked again, held against their hash, and named at last."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_people import make_sample, make_shards
from faulty_server import FaultyServer, serving

from idanim.config import Run, storable
from idanim.data.remote import cached
from idanim.data.sample import from_members
from idanim.data.shards import ShardIndex, find_shards, write_shard
from idanim.types import IdanimError, without_secrets

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("IDANIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("idanim.data.remote.DELAYS_S", (0.01, 0.02))
    monkeypatch.setattr("idanim.data.remote.SILENCE_S", 1.0)
    folder = tmp_path / "remote"
    folder.mkdir()
    write_shard(folder / "train-000000.tar", [make_sample(1), make_sample(2)])
    with serving(FaultyServer(folder)) as server:
        yield server


@pytest.mark.parametrize("fault", ["none", "500", "503", "cut", "too long", "slow", "silent"])
def test_faults_are_overcome(fault: str, server: FaultyServer, caplog: pytest.LogCaptureFixture) -> None:
    server.faults["train-000000.tar"] = [fault]
    (path,) = find_shards(f"{server.url}/train-000000.tar", "train")
    index = ShardIndex.scan(path)
    assert [from_members(index.read(key)) for key in index.keys] == [make_sample(1), make_sample(2)]
    is_retried = fault not in ("none", "slow")
    assert server.requests["train-000000.tar"] == 1 + is_retried
    assert ("attempt 1 failed" in caplog.text) is is_retried


@pytest.mark.parametrize("fault", ["500", "cut", "wrong"])
def test_a_server_that_never_recovers_is_named(fault: str, server: FaultyServer, tmp_path: Path) -> None:
    digest = hashlib.sha256((server.folder / "train-000000.tar").read_bytes()).hexdigest()
    (server.folder / "SHA256SUMS").write_text(f"{digest}  train-000000.tar\n")
    server.faults["train-000000.tar"] = [fault] * 9
    with pytest.raises(IdanimError, match=r"http://127.*train-000000\.tar can't be fetched, 3 attempt\(s\) failed"):
        find_shards(f"{server.url}/train-000000.tar", "train")
    assert server.requests["train-000000.tar"] == 3
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_content_is_held_against_its_hash(server: FaultyServer) -> None:
    digest = hashlib.sha256((server.folder / "train-000000.tar").read_bytes()).hexdigest()
    (server.folder / "SHA256SUMS").write_text(f"{digest}  train-000000.tar\n")
    server.faults["train-000000.tar"] = ["wrong"]
    (path,) = find_shards(f"{server.url}/train-000000.tar", "train")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert server.requests["train-000000.tar"] == 2


def test_a_store_that_forbids_what_is_not_there_has_no_hashes(server: FaultyServer) -> None:
    server.faults["SHA256SUMS"] = ["403"] * 9
    (path,) = find_shards(f"{server.url}/train-000000.tar", "train")
    assert path.is_file()
    assert server.requests["SHA256SUMS"] == 1


@pytest.mark.parametrize("refused", [{"SHA256SUMS": ["401"]}, {"SHA256SUMS": ["403"], "train-000000.tar": ["403"]}])
def test_a_wrong_key_is_not_taken_for_a_folder_without_hashes(
    refused: dict[str, list[str]], server: FaultyServer
) -> None:
    (server.folder / "SHA256SUMS").write_text(f"{'0' * 64}  train-000000.tar\n")
    server.faults = {name: list(statuses) for name, statuses in refused.items()}
    url = f"{server.url}/train-000000.tar"
    with pytest.raises(IdanimError, match=r"40[13]"):
        find_shards(url, "train")
    with pytest.raises(IdanimError, match="its SHA-256 is not that in SHA256SUMS"):  # now with the right key
        find_shards(url, "train")


@pytest.mark.parametrize(("fault", "expected"), [("404", "FileNotFoundError"), ("403", "403")])
def test_what_asking_again_can_not_change_is_told_at_once(fault: str, expected: str, server: FaultyServer) -> None:
    server.faults["train-000000.tar"] = [fault] * 9
    with pytest.raises(IdanimError, match=expected):
        find_shards(f"{server.url}/train-000000.tar", "train")
    assert server.requests["train-000000.tar"] == 1


@pytest.mark.parametrize("url", ["https://host/folder/?sig=secret", "https://host", "https://[host/a.tar?sig=secret"])
def test_what_is_no_url_of_a_file_is_told(url: str) -> None:
    with pytest.raises(IdanimError, match=r"data\.shards: https://.* (names no file|is no URL)") as told:
        find_shards(url, "train")
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "url", ["s3://bkt/f/a#1.tar", "s3://bkt/f/a.tar?versionId=1", "gs://bkt/a.tar#1", "s3://bkt/a.tar?"]
)
def test_what_would_share_a_place_in_the_cache_is_refused(url: str) -> None:
    with pytest.raises(IdanimError, match=r"has \? or # in it, which only URLs of http may have"):
        find_shards(url, "train")


def test_a_fragment_is_no_part_of_what_is_fetched(server: FaultyServer, tmp_path: Path) -> None:
    (path,) = find_shards(f"{server.url}/train-000000.tar#part", "train")
    assert path.with_suffix(".url").read_text() == f"{server.url}/train-000000.tar"


def test_a_stored_place_without_its_query_is_asked_for_again() -> None:
    with pytest.raises(IdanimError, match=r"https://host/a\.tar\?….*is not kept; give data\.shards= again"):
        find_shards(["https://host/a.tar?…"], "train")


@pytest.mark.parametrize("place", ["https://host/a.tar?sig=x", "https://token@host/a.tar", "https://u:p@host/a.tar"])
def test_a_place_with_a_key_is_never_open_to_others(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDANIM_CACHE", str(tmp_path))
    modes = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (modes.append(path.stat().st_mode & 0o777), rename(path, to)))
    url_file = cached(place).with_suffix(".url")
    assert url_file.read_text() == place
    assert [*modes, url_file.stat().st_mode & 0o777] == [0o600, 0o600]


def test_the_cache_is_bounded_and_what_made_room_is_fetched_again(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(server.folder, persons=6, clips=2, per_shard=4, val=0)
    size = max(path.stat().st_size for path in server.folder.glob("*.tar"))
    monkeypatch.setenv("IDANIM_CACHE_GB", str(1.5 * size / 1e9))
    url = f"{server.url}/train-{{000000..000002}}.tar"
    shards = [ShardIndex.scan(path) for path in find_shards(url, "train")]
    for _ in range(2):
        for shard, path in zip(shards, sorted(server.folder.glob("*.tar")), strict=True):
            own = ShardIndex.scan(path)
            assert [shard.read(key) for key in shard.keys] == [own.read(key) for key in own.keys]
            kept = list((tmp_path / "cache").rglob("*.tar"))
            assert sum(file.stat().st_size for file in kept) <= 1.5 * size
    assert server.requests["train-000000.tar"] == 3
    before = Counter(server.requests)
    again = [ShardIndex.scan(path) for path in find_shards(url, "train")]  # the next run: indices are known
    assert again == shards
    assert server.requests == before
    monkeypatch.setenv("IDANIM_CACHE_GB", "a few")
    with pytest.raises(IdanimError, match="expected gigabytes"):
        again[0].read(again[0].keys[0])


def test_several_processes_fetch_once(server: FaultyServer, tmp_path: Path) -> None:
    server.faults["train-000000.tar"] = ["slow"]
    url = f"{server.url}/train-000000.tar"
    threads = [threading.Thread(target=find_shards, args=(url, "train")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests["train-000000.tar"] == 1


def test_a_query_tells_shards_apart_and_is_never_shown(
    server: FaultyServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    write_shard(server.folder / "val-000000.tar", [make_sample(3)])
    queries = ["sig=secret/1.5", "sig=secret/1.6"]
    server.faults["val-000000.tar"] = ["500"]
    paths = [find_shards(f"{server.url}/val-000000.tar?{query}", "val")[0] for query in queries]
    assert len(set(paths)) == 2
    assert server.requests["val-000000.tar"] == 3
    assert set(server.queries) == set(queries)
    assert [path.name for path in paths] == ["val-000000.tar"] * 2
    assert "attempt 1 failed" in caplog.text
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "cache").rglob("*.url")} == {0}
    messages = [caplog.text]
    for faults in (["404"], ["403"], ["500"] * 9, ["cut"] * 9):
        server.faults["train-000000.tar"] = faults
        url = f"{server.url.replace('://', '://someone:password@')}/train-000000.tar?sig=secret{len(messages)}"
        with pytest.raises(IdanimError, match=r"train-000000\.tar\?…") as told:
            find_shards(url, "train")
        messages.append("".join(traceback.format_exception(told.value)))
    assert not any("secret" in message or "password" in message for message in messages)


@pytest.mark.slow
def test_a_program_shows_no_query(server: FaultyServer, tmp_path: Path) -> None:
    make_shards(server.folder, persons=4, clips=2, per_shard=8, val=0)
    arguments = ["train.py", "backbone=tiny", "backbone.video={num_frames: 8, height: 32, width: 32}"]
    arguments += ["trainer.max_steps=1", "every_n_steps.preview=null", f"output={tmp_path / 'run'}"]
    for name, status in (("train-000000.tar", 0), ("train-000001.tar", 1)):
        run = subprocess.run(
            [sys.executable, *arguments, f"data.shards={server.url}/{name}?sig=secret"],
            cwd=ROOT,
            env=os.environ | {"WANDB_MODE": "offline", "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == status, run.stderr.decode()[-2000:]
        assert b"secret" not in run.stdout + run.stderr
    knowing = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert {path.parent.name for path in knowing} == {".hydra"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("https://host/a.tar?e=1,sig=SECRET", "https://host/a.tar?…"),
        ("https://host/a.tar?e=1,2)],sig=SECRET&b=1 came", "https://host/a.tar?… came"),
        ("https://host/a.tar?e=1,SECRET", "https://host/a.tar?…"),
        ("https://u:SEC/RET@host/a.tar", "https://host/a.tar"),
        ("https://u:SEC?R#ET@host/a.tar", "https://host/a.tar"),
        ("https://u:SEC@RET@host/a.tar", "https://host/a.tar"),
        ("https://SECRET@host/a@b.tar", "https://host/a@b.tar"),
        ("https://host:8080/a@b.tar", "https://host:8080/a@b.tar"),
        ("https://host:8080 and me@there", "https://host:8080 and me@there"),
        ("['https://a/x?SECRET', 'b', \"https://c/y?SECRET\"]", "['https://a/x?…', 'b', \"https://c/y?…\"]"),
        ("https://a/x?s=SECRET,https://u:SECRET@b/y?s=SECRET", "https://a/x?…,https://b/y?…"),
        ("(see https://a/x?s=SECRET), then", "(see https://a/x?…), then"),
        ("s3://bucket/{0..4}.tar, a folder?", "s3://bucket/{0..4}.tar, a folder?"),
    ],
)
def test_what_a_text_shows_of_urls(text: str, told: str) -> None:
    assert without_secrets(text) == told


def test_secrets_stay_out_of_stored_configurations() -> None:
    shards = ["s3://bucket/a.tar", "https://me:pw@host/{0..4}.tar?X-Amz-Signature=abc&b=1", "a folder?"]
    run = Run({"data": {"shards": shards}}, Path("out"), {}, "unknown")
    stored = storable(run)["values"]["data"]["shards"]
    assert stored == ["s3://bucket/a.tar", "https://host/{0..4}.tar?…", "a folder?"]
    assert run.config["data"]["shards"] is shards
