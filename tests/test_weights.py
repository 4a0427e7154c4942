"""The catalogue against a stub of the Hub on the loopback interface."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from toy_people import ADAPTER, write_official_file

from idanim import weights
from idanim.models.adapter_file import read_adapter_file
from idanim.models.checkpoint import read_adapter, write_adapter
from idanim.types import IdanimError
from idanim.weights import CATALOGUE, chosen, main

PATH = "/h94/IP-Adapter/resolve/main/models/ip-adapter-plus-face_sd15.safetensors"
PAGE = b"<!DOCTYPE html><html>Sign in</html>"


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does; can break off in the middle of a file and then be out of order."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (a handler has no instance of its own to keep it in)
    cut: list[int] = []  # noqa: RUF012 (bytes after which the next answers break off; then it answers 503)
    ranges: list[str | None] = []  # noqa: RUF012 (what was asked for)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.ranges.append(self.headers.get("Range"))
        if self.cut == [0]:
            self.send_error(503)
        else:
            self.answer(body=True)

    def answer(self, body: bool) -> None:
        whole = self.files.get(self.path)
        content, asked = whole or b"", self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(404 if whole is None else 206 if first else 200)
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            last = self.cut.pop(0) if self.cut else len(content)
            self.wfile.write(content[first:last])
            if last < len(content):
                self.cut[:] = [0]
                self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name, empty in (("files", {}), ("cut", []), ("ranges", [])):
        monkeypatch.setattr(Hub, name, empty)
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def run(folder: Path, *arguments: str) -> None:
    main([*arguments, "--folder", str(folder)])


def adapter(values: int = 2) -> bytes:
    """A small file that has the form of an IP-Adapter."""
    names = ("image_proj.latents", "ip_adapter.1.to_k_ip.weight", "ip_adapter.1.to_v_ip.weight")
    return safetensors.torch.save({name: torch.ones(values, 4) for name in names})


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Makes some content the true one of `plus-face`."""

    def know(content: bytes, seen: str = "repository") -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        files = [f if f.name != "plus-face" else replace(f, sha256=sha256, hash_seen=seen) for f in CATALOGUE]
        monkeypatch.setattr(weights, "CATALOGUE", tuple(files))

    return know


def test_pull_then_list_and_verify(
    hub: type[Hub], known: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files[PATH] = adapter()
    known(adapter())
    run(tmp_path, "list")
    assert "missing sd15-unet" in capsys.readouterr().out
    run(tmp_path, "pull", "plus-face")
    assert "✓ plus-face" in capsys.readouterr().out
    run(tmp_path, "verify", "plus-face")
    assert capsys.readouterr().out == "1 files are whole\n"
    with pytest.raises(SystemExit, match=r"animator\.ckpt: there is no such file"):
        run(tmp_path, "verify", "animator")


def test_an_interrupted_download_goes_on(
    hub: type[Hub], known: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = adapter(values=400)
    hub.files[PATH], hub.cut[:] = content, [4096]
    known(content)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(SystemExit, match=r"plus-face: .* could not be downloaded"):
        run(tmp_path, "pull", "plus-face")
    path = tmp_path / "IP-Adapter" / "models" / "ip-adapter-plus-face_sd15.safetensors"
    assert not path.exists()  # never half a file under the right name
    hub.cut.clear()
    hub.ranges.clear()
    run(tmp_path, "pull", "plus-face")
    assert hub.ranges == ["bytes=4096-"]
    assert path.read_bytes() == content
    run(tmp_path, "verify", "plus-face")


def test_what_goes_wrong_is_said(hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"plus-face: h94/IP-Adapter.* could not be downloaded"):
        run(tmp_path, "pull", "plus-face")
    hub.files[PATH] = PAGE
    with pytest.raises(SystemExit, match=r"a web page \(HTML\)"):
        run(tmp_path, "pull", "plus-face")
    with pytest.raises(SystemExit, match="say which files, or --all"):
        run(tmp_path, "pull")
    with pytest.raises(IdanimError, match="there is no file 'plus-fce'"):
        chosen(["plus-fce"])


WRONG = {
    "sparsectrl-rgb": ("an SDXL checkpoint", {"model.diffusion_model.label_emb.0.0.weight": (4, 4)}),
    "animator": ("a LoRA", {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}),
    "motion-v2": ("an IP-Adapter for SD1.5", {"ip_adapter.1.to_k_ip.weight": (4, 768)}),
    "plus-face": ("a face adapter (ID-Animator)", {"adapter_modules.1.to_k_face.weight": (4, 4)}),
    "image-encoder": ("AnimateDiff motion modules", {"down_blocks.0.motion_modules.0.temporal_transformer.x": (1,)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_file_under_the_right_name_is_told(name: str, tmp_path: Path) -> None:
    (file,) = chosen([name])
    kind, shapes = WRONG[name]
    path = file.local(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(safetensors.torch.save({key: torch.zeros(shape) for key, shape in shapes.items()}))
    with pytest.raises(SystemExit, match=re.escape(f"{path.name}: this is {kind}, expected {file.kind}")):
        run(tmp_path, "verify", name)


def test_other_content_of_the_right_form_is_told(
    known: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = chosen(["plus-face"])[0].local(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(adapter(values=3))
    known(adapter())
    with pytest.raises(SystemExit, match=r"its content is not that of h94/IP-Adapter.*another sha256"):
        run(tmp_path, "verify", "plus-face")
    known(adapter(), seen="copies")
    run(tmp_path, "verify", "plus-face")
    assert "another sha256 than in copies of h94/IP-Adapter" in capsys.readouterr().out
    path.write_bytes(adapter()[:-7])
    with pytest.raises(SystemExit, match="not a whole safetensors file"):
        run(tmp_path, "verify", "plus-face")


def test_hashes_are_hashes_and_say_where_they_were_seen() -> None:
    for file in CATALOGUE:
        assert re.fullmatch(r"[0-9a-f]{64}|", file.sha256), file.name
        assert (file.hash_seen in ("repository", "copies")) == bool(file.sha256), file.name


def test_fake_files_lie_where_the_real_ones_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "fake"
    names = ["sd15-unet-config", "sd15-merges", "plus-face"]
    main(["fake", str(folder), *names, "--dtype", "float16"])
    file = read_adapter_file(chosen(["plus-face"])[0].local(folder))
    assert (file.layout, file.feature_dim, file.lora_rank) == ("ip_adapter", 1280, 0)
    assert {t.dtype for t in file.state.values()} == {torch.float16}
    assert all(t.isfinite().all() for t in file.state.values())
    run(folder, "verify", *names)
    run(folder, "list", *names)
    assert "holds stand-ins with random values" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds stand-ins, not the real files"):
        run(folder, "pull", "plus-face")
    with pytest.raises(SystemExit, match="holds files already"):
        main(["fake", str(tmp_path), "sd15-merges"])


def test_export_writes_every_format(tmp_path: Path) -> None:
    state, config = read_adapter_file(ADAPTER).state, {"choices": {"backbone": "toy"}, "values": {}}
    own = tmp_path / "adapter.safetensors"
    write_adapter(own, state, config)
    for name, layout in (("animator.ckpt", "official"), ("x.bin", "ip_adapter"), ("x.safetensors", "ip_adapter")):
        main(["export", str(own), str(tmp_path / name), "--format", layout])
        read = read_adapter_file(tmp_path / name)
        assert read.layout == layout
        assert read.state.keys() == state.keys()
        assert all(torch.equal(read.state[key], state[key]) for key in state)
    lightning = {"state_dict": state, "ema_state_dict": {k: 2 * t for k, t in state.items()}, "idanim_config": config}
    torch.save(lightning, tmp_path / "last.ckpt")
    main(["export", str(tmp_path / "last.ckpt"), str(tmp_path / "ema.safetensors"), "--format", "idanim"])
    read_again = read_adapter(tmp_path / "ema.safetensors")
    assert read_again.config == config
    assert all(torch.equal(read_again.state[key], 2 * state[key]) for key in state)


def test_export_says_what_does_not_fit(tmp_path: Path) -> None:
    official = str(write_official_file(tmp_path / "animator.ckpt"))
    main(["export", official, str(tmp_path / "x.bin"), "--format", "ip_adapter"])
    for arguments, words in (
        ([official, "x.safetensors", "--format", "idanim"], "no state_dict and configuration in it.*stores it"),
        ([official, "x.safetensors", "--format", "official"], "official ends in .ckpt or .bin"),
        (["nowhere.ckpt", "x.ckpt", "--format", "official"], "there is no such file"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(["export", *arguments])


def test_names_and_places_are_unique() -> None:
    assert len({file.name for file in CATALOGUE}) == len({file.local(Path()) for file in CATALOGUE}) == len(CATALOGUE)
