"""A few kills by the harness of `make crash-test`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
