"""Files made to harm: to run code, reach other files or the network, fill the memory. All are refused in words."""

from __future__ import annotations

import io
import json
import os
import resource
import socket
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from drawn_people import make_sample
from hostile_files import CONFIG, STATE, Calls, bare_pickle, png_of_size

from idanim.config import build, restore
from idanim.curation.inputs import find_clips
from idanim.data.sample import parse_meta, to_members
from idanim.data.shards import ShardIndex, write_shard
from idanim.metrics.manifest import read_manifest
from idanim.metrics.videos import read_record
from idanim.models.checkpoint import CONFIG_KEY, check_resumable, load_strictly, read_adapter, require_finite
from idanim.models.torch_file import load_torch
from idanim.models.weight_file import read_weights
from idanim.pictures import decode_picture
from idanim.types import IdanimError
from idanim.video import UnreadableVideoError, read_frames
from idanim.video_encoding import encode_mp4

HUGE = 10**12


@pytest.fixture(autouse=True)
def nothing_runs_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """No file is made in the working directory, no connection is tried, and 2 GB more is the most that is needed."""
    monkeypatch.chdir(tmp_path)

    def refuse(*args: Any) -> None:
        raise AssertionError(f"a file made the program connect: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not (tmp_path / "pwned").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20


CODE = {
    "os.system": Calls(os.system, "touch pwned"),
    "eval": Calls(eval, "open('pwned', 'w')"),
    "import": Calls(__import__, "os"),
    "torch.load": Calls(torch.load, "other.ckpt"),
    "torch.hub": Calls(torch.hub.load, "a/b", "c"),
    "open": Calls(open, "pwned", "w"),
    "numpy": Calls(np.load, "x.npy"),
    "Path.touch": Calls(Path.touch, Path("pwned")),
}


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("form", ["zip", "legacy", "bare"])
def test_code_is_refused_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"state_dict": STATE, CONFIG_KEY: CODE[name]}
    if form == "bare":
        path.write_bytes(bare_pickle(CODE[name]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for read in (read_adapter, read_weights, check_resumable):
        with pytest.raises(IdanimError, match="refused, it holds more than tensors"):
            read(path)


BOMBS = {
    "bytearray": Calls(bytearray, HUGE),
    "storage": Calls(torch.FloatStorage, HUGE),
    "tensor": Calls(torch.Tensor, 10**6, 10**6),
    "list": Calls(list, range(HUGE)),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("new", [True, False])
def test_a_kilobyte_that_asks_for_terabytes_is_refused(name: str, new: bool, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": STATE, "bomb": BOMBS[name]}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(IdanimError, match="refused"):
        read_weights(path)


@pytest.mark.parametrize("new", [True, False])
def test_a_tensor_that_repeats_one_number_is_refused(new: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    torch.save({"a": torch.zeros(1).expand(HUGE)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(IdanimError, match="repeats 1 numbers"):
        read_weights(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "a.bin")
    with zipfile.ZipFile(tmp_path / "a.bin") as whole, zipfile.ZipFile("b.bin", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(IdanimError, match="compressed"):
        read_weights(tmp_path / "b.bin")


def test_dicts_that_hold_each_other_are_refused(tmp_path: Path) -> None:
    node: dict[str, Any] = {}
    for _ in range(64):
        node = {"a": node, "b": node}
    torch.save({"state_dict": node}, tmp_path / "a.bin")
    with pytest.raises(IdanimError, match="more than 1,000,000 entries"):
        read_weights(tmp_path / "a.bin")
    torch.save({"state_dict": STATE, CONFIG_KEY: node}, tmp_path / "a.ckpt")
    with pytest.raises(IdanimError, match="more than 100,000 values"):
        read_adapter(tmp_path / "a.ckpt")


def test_what_torch_itself_writes_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    content = {
        "state_dict": module.state_dict(),
        "parameters": dict(module.named_parameters()),
        "optimizer": optimizer.state_dict(),
        "half": torch.zeros(3).bfloat16(),
        "view": torch.arange(12.0).view(3, 4).T,
        "empty": torch.zeros(0, 4),
        "dtype": torch.float16,
        "shape": torch.Size([1, 2]),
    }
    for new in (True, False):
        torch.save(content, tmp_path / "a.ckpt", _use_new_zipfile_serialization=new)
        read = load_torch(tmp_path / "a.ckpt", "a.ckpt")
        assert torch.equal(read["view"], content["view"])
        assert read["optimizer"]["state"][0]["step"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float, tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.tensor([0.0, value])}
    module = torch.nn.Linear(3, 2)
    with pytest.raises(IdanimError, match="bias has 1 values that are NaN or infinite"):
        load_strictly(module, state, "the file")
    module.load_state_dict(state)
    with pytest.raises(IdanimError, match="folder: bias has 1 values"):
        require_finite(module, "folder")


# -------------------------------------------------------------------------------- stored configurations


def test_a_stored_configuration_chooses_nothing_that_runs(tmp_path: Path) -> None:
    evil = {"_target_": "os.system", "command": "touch pwned", "_args_": ["touch pwned"], "_partial_": False}
    for place in ("backbone", "training", "adapter", "encoder"):
        values = {place: {"model": evil, "optimizer": evil, "init": evil, "x": [evil]}}
        config = restore("train", {"choices": {"backbone": "tiny"}, "values": values})
        assert "os.system" not in json.dumps(config)
    for choices in ({"../../etc": "passwd"}, {"backbone": "../backbone/tiny"}, {"backbone": "/etc/passwd"}):
        with pytest.raises(IdanimError, match="does not have"):
            restore("train", {"choices": choices, "values": {}})


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "\\${oc.env:HOME}", "a ${b}", "${seed}"])
def test_text_of_a_stored_configuration_is_not_looked_up(text: str) -> None:
    config = restore("train", {"choices": {}, "values": {"data": {"shards": [text]}}})
    assert config["data"]["shards"] == [text]
    with pytest.raises(IdanimError, match="can't be part of a setting"):
        build(config["data"])


@pytest.mark.parametrize("config", [[1], "text", {"choices": {}, "values": torch.zeros(1)}, {1: 2}])
def test_a_stored_configuration_of_another_kind_is_named(config: Any, tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, CONFIG_KEY: config}, tmp_path / "a.ckpt")
    with pytest.raises(IdanimError, match="stored configuration"):
        read_adapter(tmp_path / "a.ckpt")


# ---------------------------------------------------------------------------------------------- shards


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "name", ["../../evil.json", "/etc/passwd.json", "a/../../b.json", "a\x01.json", "a..json/x", "a\\b.json"]
)
def test_members_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "train-000000.tar", (tarfile.TarInfo(name), b"{}"))
    with pytest.raises(IdanimError, match="expected <key>"):
        ShardIndex.scan(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.json")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    with pytest.raises(IdanimError, match="no plain file"):
        ShardIndex.scan(tmp_path / "a.tar")


def test_names_and_members_longer_than_the_file_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE):
        info = tarfile.TarInfo("a.json")
        info.type, info.size = kind, 2**50
        (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(IdanimError, match=r"a\.tar"):
            ShardIndex.scan(tmp_path / "a.tar")


def test_a_member_of_absurd_length_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    info = tarfile.TarInfo("a.json")
    info.size = 2**33
    with path.open("wb") as file:  # a hole of eight gigabytes
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + info.size + 1024)
    index = ShardIndex.scan(path)
    with pytest.raises(IdanimError, match="more than are read"):
        index.read("a")


def test_a_shard_that_got_shorter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train-000000.tar"
    write_shard(path, [make_sample(1)])
    index = ShardIndex.scan(path)
    os.truncate(path, 4096)
    with pytest.raises(IdanimError, match="got shorter"):
        index.read("p001__0")


def test_json_with_a_million_keys(tmp_path: Path) -> None:
    record = json.loads(to_members(make_sample(1))["json"])
    content = json.dumps(record)[:-1].encode() + b"," + b",".join(b'"%d":0' % i for i in range(10**6)) + b"}"
    with pytest.raises(IdanimError, match="999995 more") as error:
        parse_meta(content, "p001__0")
    assert len(str(error.value)) < 500
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(2**36)
    with pytest.raises(IdanimError, match=r"more than 67,108,864 bytes"):
        read_record(tmp_path / "a.mp4")


# ------------------------------------------------------------------------------------ pictures, videos


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2), (20_000, 8_000)])
def test_pictures_of_absurd_size_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    start = time.process_time()
    with pytest.raises(IdanimError, match=r"pixels|not a readable picture"):
        decode_picture(png_of_size(*size), "photo")
    assert time.process_time() - start < 2


def test_postscript_is_no_picture() -> None:
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(pwned) (w) file closefile\nshowpage\n"
    with pytest.raises(IdanimError, match="not a readable picture"):
        decode_picture(content, "photo")


PLAYLISTS = {
    "concat": b"ffconcat version 1.0\nfile 'secret.mp4'\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period></Period></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("ending", ["mp4", "m3u8", "sdp"])
def test_playlists_reach_no_other_file_and_no_network(name: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(encode_mp4(np.zeros((4, 32, 32, 3), np.uint8), 8))
    path = tmp_path / f"video.{ending}"
    path.write_bytes(PLAYLISTS[name])
    start = time.monotonic()
    for source in (path, path.read_bytes()):
        with pytest.raises(UnreadableVideoError) as error:
            read_frames(source)
        assert error.value.reason == "not_a_video"
    assert time.monotonic() - start < 10


def test_frames_that_would_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    video = encode_mp4(np.zeros((10, 32, 32, 3), np.uint8), 8)
    monkeypatch.setattr("idanim.video.MAX_ARRAY_BYTES", 5 * 32 * 32 * 3)
    with pytest.raises(UnreadableVideoError, match="6 frames need more"):
        read_frames(video)
    monkeypatch.setattr("idanim.video.MAX_FRAME_PIXELS", 1000)
    with pytest.raises(UnreadableVideoError, match="32 × 32 pixels, at most 1,000"):
        read_frames(video)


# ----------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "a/../../b.mp4"])
def test_lists_name_nothing_outside_of_their_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    clips = folder / "clips.jsonl"
    for path in (name, f" {name}"):
        clips.write_text(json.dumps({"path": path}))
        with pytest.raises(IdanimError, match="expected one inside of"):
            find_clips(clips, None, keep_duplicates=False)
    manifest = folder / "videos.jsonl"
    manifest.write_text(json.dumps({"path": name, "prompt": "a person", "person": "ada"}))
    with pytest.raises(IdanimError, match="lies outside"):
        read_manifest(manifest, folder)
    (tmp_path / "secret.mp4").touch()
    manifest.write_text(json.dumps({"path": "v.mp4", "prompt": "a person", "reference": name}))
    with pytest.raises(IdanimError, match=r"neither beside|outside of"):
        read_manifest(manifest, folder)


def test_safetensors_with_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes((2**60).to_bytes(8, "little") + content[8:])
    for read in (read_adapter, read_weights):
        with pytest.raises(IdanimError, match="not a whole safetensors"):
            read(path)
    assert CONFIG
