"""No program reaches out unless a command is about it: sockets are blocked, and nobody even tries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idanim.config import NO_REPORTS
from idanim.faces.insightface_engine import OFFICIAL_PACKS, say_licence

ROOT = Path(__file__).parents[1]
GUARD = """
import os, socket, traceback

def tell(what):
    with open(os.environ["ATTEMPTS"], "a") as file:
        file.write(f"{what}\\n" + "".join(traceback.format_stack()[-6:]))
    raise OSError(f"no network here: {what}")

connect, lookup = socket.socket.connect, socket.getaddrinfo
LOCAL = ("127.", "localhost", "::1", "0.0.0.0")

def guarded(self, address, *args):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(LOCAL):
        tell(f"connect {address}")
    return connect(self, address, *args)

def guarded_lookup(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name is not None and not name.startswith(LOCAL) and name != socket.gethostname():
        tell(f"look up {name}")
    return lookup(host, *args, **kwargs)

socket.socket.connect, socket.getaddrinfo = guarded, guarded_lookup
"""
TINY = [
    "backbone=tiny",
    "backbone.video={num_frames: 8, height: 32, width: 32}",
    "previews.num_identities=1",
    "previews.prompts=[a smile]",
    "trainer.max_steps=1",
]


def attempts(tmp_path: Path, *arguments: str) -> str:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    told = tmp_path / "attempts"
    paths = [str(tmp_path / "guard"), str(ROOT / "src")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HF_", "TRANSFORMERS"))}
    environment |= {"ATTEMPTS": str(told), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return told.read_text() if told.exists() else ""


def test_the_guard_sees_attempts(tmp_path: Path) -> None:
    code = "import urllib.request, contextlib\nwith contextlib.suppress(OSError): urllib.request.urlopen('http://a.invalid')"
    assert "look up a.invalid" in attempts(tmp_path, "-c", code)


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["wandb", "csv"])
def test_training_stays_offline(logger: str, shards: Path, tmp_path: Path) -> None:
    where = [f"data.shards={shards}", f"output={tmp_path / 'run'}", f"logger={logger}"]
    assert attempts(tmp_path, "train.py", *TINY, *where) == ""


@pytest.mark.slow
def test_generation_stays_offline(tmp_path: Path) -> None:
    few = ["sampling.num_inference_steps=1", f"output={tmp_path / 'out'}"]
    assert attempts(tmp_path, "-m", "idanim.generate", "prompt=a person smiling", *few) == ""


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["wandb", "csv"])
def test_evaluation_stays_offline(logger: str, shards: Path, tmp_path: Path) -> None:
    adapter = ROOT / "src" / "idanim" / "toyworld" / "weights" / "adapter.safetensors"
    few = ["num_identities=1", "num_strangers=1", "systems=[no_adapter,adapter]", "prompts=[a person is smiling]"]
    where = [f"ckpt={adapter}", f"data.shards={shards}", f"output={tmp_path / 'out'}", f"logger={logger}"]
    assert attempts(tmp_path, "evaluate.py", *few, "sampling.num_inference_steps=1", *where) == ""


@pytest.mark.slow
def test_looking_at_shards_stays_offline(shards: Path, tmp_path: Path) -> None:
    sheet = ["--sheet", str(tmp_path / "sheet.png")]
    assert attempts(tmp_path, "-m", "idanim.curate", "inspect", str(shards), *sheet) == ""


def test_reports_of_use_are_switched_off() -> None:
    assert {"HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED"} <= NO_REPORTS.keys()


def test_the_licence_of_a_pack_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    say_licence.cache_clear()
    for _ in range(2):
        say_licence(OFFICIAL_PACKS[1])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "non-commercial research only; faces=opencv" in caplog.text
