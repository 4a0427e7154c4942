"""The catalogue against a stub of the Hub on the loopback interface."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch

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


def test_names_and_places_are_unique() -> None:
    assert len({file.name for file in CATALOGUE}) == len({file.local(Path()) for file in CATALOGUE}) == len(CATALOGUE)
