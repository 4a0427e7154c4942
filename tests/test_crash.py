"""A few kills by the harness of `make crash-test`."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from idanim.video_encoding import encode_mp4

ROOT = Path(__file__).parents[1]
PROGRAM = """
import pathlib, sys, time
time.sleep(0.1)
pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
pathlib.Path(sys.argv[1], "done.json").write_text("[]")
"""


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("crash")


def make_work(harness: ModuleType, folder: Path, kills: int) -> Any:
    (folder / "program.py").write_text(PROGRAM)
    program = harness.Program(
        "writer",
        lambda output: [str(folder / "program.py"), str(output)],
        lambda output: {path.name: path.read_text() for path in output.iterdir()},
    )
    return harness.Work(program, folder, kills, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--programs train,curat", "there is no 'curat'; known: train,latents,curate,evaluate,sweep"),
        ("--programs=", "there is no ''"),
        ("--kills 4", "--kills 4: at least one for each of the 5 programs"),
        ("--jobs 0", "--jobs 0: at least 1"),
    ],
)
def test_what_would_check_nothing_is_refused(
    arguments: str, message: str, harness: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        harness.options_of_the_command_line(arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def crash(harness: ModuleType, work: Any, seconds: float, jobs: int = 1) -> str:
    """Run the harness over one program; returns how it ended."""
    states: list[str] = []
    end = time.monotonic() + seconds
    harness.crash([work], jobs, 0, end, lambda state, _: states.append(state))
    return states[-1]


def test_a_program_is_killed_as_often_as_wanted(harness: ModuleType, tmp_path: Path) -> None:
    work = make_work(harness, tmp_path, 2)
    assert crash(harness, work, 60) == "all kills done"
    assert work.tally.kills == 2
    assert harness.shortcomings([work], "all kills done") == []


def test_nothing_starts_after_the_end(harness: ModuleType, tmp_path: Path) -> None:
    work = make_work(harness, tmp_path, 2)
    assert crash(harness, work, -1) == "time is up"
    assert not (tmp_path / "straight.log").exists()
    assert harness.shortcomings([work], "time is up") == ["writer: never killed, so nothing is known of it"]


def test_nothing_starts_after_sigterm(harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(harness, tmp_path, 50)
    begun = harness.begin
    started = []

    def begin_and_be_told_to_stop(*arguments: Any) -> Any:
        started.append(begun(*arguments))
        if len(started) == 2:  # the first round; two more could run beside it
            os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(harness, "begin", begin_and_be_told_to_stop)
    assert crash(harness, work, 60, jobs=3) == "SIGTERM"
    assert len(started) == 2


def test_a_program_that_fails_in_peace_does_not_pass(harness: ModuleType, tmp_path: Path) -> None:
    work = make_work(harness, tmp_path, 1)
    (tmp_path / "program.py").write_text("raise SystemExit(3)")
    assert crash(harness, work, 60) == "failures"
    assert "exit status 3" in work.tally.failed[0]
    assert len(harness.shortcomings([work], "failures")) == 3


def test_what_differs_in_a_video_is_told(harness: ModuleType, tmp_path: Path) -> None:
    frames = np.full((3, 32, 32, 3), 100, np.uint8)
    for name, value in (("straight", 100), ("round", 180)):
        (tmp_path / name).mkdir()
        frames[1, :16] = value
        (tmp_path / name / "a.mp4").write_bytes(encode_mp4(frames, 8))
    (tmp_path / "round" / "b.mp4").touch()
    difference = functools.partial(harness.difference, straight=tmp_path / "straight", folder=tmp_path / "round")
    told = re.fullmatch(r"a\.mp4 \((\d+) of 9216 values of its pixels, by at most (\d+) of 255\)", difference("a.mp4"))
    assert told
    assert int(told[1]) == pytest.approx(16 * 32 * 3, rel=0.1)
    assert int(told[2]) == pytest.approx(80, abs=4)
    assert difference("b.mp4") == "b.mp4 (only in this round)"
    assert difference("adapter") == "adapter"


@pytest.mark.slow
def test_killed_programs_leave_whole_files_and_the_same_results(tmp_path: Path) -> None:
    arguments = ["--kills", "9", "--programs", "train,latents,curate", "--people", "3", "--jobs", "2"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "crash.py"), *arguments, "--output", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    report = json.loads((tmp_path / "crash.json").read_text())
    assert [tally["kills"] for tally in report["programs"].values()] == [3, 3, 3]
    assert (report["kills"], report["state"]) == (9, "all kills done")
