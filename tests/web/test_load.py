"""Fifty users at once, for a short while; `make load-test` takes longer."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

LOAD = Path(__file__).parents[2] / "benchmarks" / "load.py"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gradio") is None, reason="Gradio is not installed: pip install -e '.[app]'")
def test_fifty_users_at_once() -> None:
    command = [sys.executable, str(LOAD), "--users", "50", "--minutes", "0.5"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "as it should be" in ended.stdout
