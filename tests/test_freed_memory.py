"""Blocks that are freed are handed out again without the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from idanim.freed_memory import keep_freed_memory

PAGE_FAULTS_OF_FOUR_STEPS = """
import resource, sys
import torch
from idanim.freed_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not kept")
def work():
    parts = [torch.ones(10 * 2**20) for _ in range(3)]  # 40 MiB each, 30,720 pages in all
for _ in range(12):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(way: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PAGE_FAULTS_OF_FOUR_STEPS, way]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_kept_blocks_cost_no_page_faults() -> None:
    assert page_faults("plain") > 1000
    assert page_faults("keep") < 100


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory()
