"""The catalogue against a stub of the Hub on the loopback interface."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from toy_people import ADAPTER, write_official_file

from idanim.models.adapter_file import read_adapter_file
from idanim.models.checkpoint import read_adapter, write_adapter
from idanim.types import IdanimError
from idanim.weights import CATALOGUE, chosen, main

PATH = "/h94/IP-Adapter/resolve/main/models/ip-adapter-plus-face_sd15.safetensors"
PAGE = b"<!DOCTYPE html><html>Sign in</html>"


class Hub(BaseHTTPRequestHandler):
    files: dict[str, bytes] = {}  # noqa: RUF012 (a handler has no instance of its own to keep it in)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        content = content or b""
        self.send_header("ETag", f'"{abs(hash(content)):x}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(Hub, "files", {})
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


def run(folder: Path, *arguments: str) -> None:
    main([*arguments, "--folder", str(folder)])


def test_pull_then_list_and_verify(hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.files[PATH] = safetensors.torch.save({"image_proj.latents": torch.zeros(2)})
    run(tmp_path, "list")
    assert "missing sd15-unet" in capsys.readouterr().out
    run(tmp_path, "pull", "plus-face")
    assert "✓ plus-face" in capsys.readouterr().out
    run(tmp_path, "verify", "plus-face")
    assert "1 files are whole" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"animator\.ckpt: there is no such file"):
        run(tmp_path, "verify", "animator")


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
