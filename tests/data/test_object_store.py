"""Shards in a real object store (moto's S3 server, `make s3-server`), with faults between it and the program."""

from __future__ import annotations

import contextlib
import http.client
import multiprocessing
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drawn_people import make_sample
from faulty_server import FaultyServer, serving

from idanim.data.sample import from_members
from idanim.data.shards import ShardIndex, find_shards, write_shard
from idanim.files import sha256
from idanim.types import IdanimError

STORE = Path(os.environ.get("IDANIM_S3_SERVER", Path(__file__).parents[2] / ".venv-s3" / "bin" / "moto_server"))
pytestmark = pytest.mark.skipif(not STORE.is_file(), reason=f"no object store at {STORE}: make s3-server")
SHARD = "train-000000.tar"
URL = f"s3://bucket/faces/{SHARD}"
SILENT = pytest.param("silent", marks=pytest.mark.slow)
"""Of the store's client: ten seconds."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Of a running store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("store") / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([STORE, "-H", "127.0.0.1", "-p", str(port)], stdout=stream, stderr=stream)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def send(port: int, method: str, name: str, content: bytes = b"") -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, f"/{name}", content)
        response = connection.getresponse()
        assert response.status == 200, response.read()


@pytest.fixture
def store(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("IDANIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("idanim.data.remote.DELAYS_S", (0.01, 0.02))
    for name, value in {
        "ACCESS_KEY_ID": "someone",
        "SECRET_ACCESS_KEY": "key",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    write_shard(tmp_path / SHARD, [make_sample(1), make_sample(2)])
    send(port, "POST", "moto-api/reset")
    send(port, "PUT", "bucket")
    send(port, "PUT", f"bucket/faces/{SHARD}", (tmp_path / SHARD).read_bytes())
    with serving(FaultyServer(None, behind=port)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        server.silence_s = 100
        yield server


@pytest.mark.parametrize("fault", ["none", "500", "503", "cut", "too long", "slow", "wrong", "HEAD 503", SILENT])
def test_faults_are_overcome(
    fault: str, store: FaultyServer, port: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    send(port, "PUT", "bucket/faces/SHA256SUMS", f"{sha256(tmp_path / SHARD)}  {SHARD}\n".encode())
    status = fault.removeprefix("HEAD ")
    store.faults = {f"HEAD {SHARD}": [status]} if status != fault else {SHARD: [fault]}
    (path,) = find_shards(URL, "train")
    index = ShardIndex.scan(path)
    assert [from_members(index.read(key)) for key in index.keys] == [make_sample(1), make_sample(2)]
    is_retried = fault not in ("none", "slow")
    assert ("attempt 1 failed" in caplog.text) is is_retried
    assert "attempt 2 failed" not in caplog.text


@pytest.mark.parametrize("fault", ["500", "cut", "too long"])
def test_a_store_that_never_recovers_is_named(fault: str, store: FaultyServer, tmp_path: Path) -> None:
    store.faults[SHARD] = [fault] * 99
    with pytest.raises(IdanimError, match=r"s3://bucket/faces/train-000000\.tar can't be fetched, 3 attempt\(s\)"):
        find_shards(URL, "train")
    assert store.requests[SHARD] == 3
    assert not list((tmp_path / "cache").rglob("*.tar"))


@pytest.mark.parametrize(("fault", "expected"), [("404", "FileNotFoundError"), ("403", "ACCESS_DENIED")])
def test_what_asking_again_can_not_change_is_told_at_once(fault: str, expected: str, store: FaultyServer) -> None:
    store.faults[f"HEAD {SHARD}"] = [fault] * 99
    with pytest.raises(IdanimError, match=f"{SHARD} can't be fetched.*{expected}"):
        find_shards(URL, "train")
    assert store.requests[f"HEAD {SHARD}"] == 1


def read_elsewhere(index: ShardIndex, answers: multiprocessing.Queue[str]) -> None:
    answers.put(index.read(index.keys[0])["__key__"])


def test_a_forked_loader_fetches_again(store: FaultyServer) -> None:
    (path,) = find_shards(URL, "train")
    index = ShardIndex.scan(path)
    path.unlink()  # it made room
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    loader = context.Process(target=read_elsewhere, args=(index, answers))
    loader.start()
    assert answers.get(timeout=60) == index.keys[0]
    loader.join()
    assert path.is_file()
    assert store.requests[SHARD] == 2
