"""Blocks that are freed are handed out again without the system."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys

import pytest

from idanim.freed_memory import KEPT_BYTES, keep_freed_memory

LIBRARY, VERSION = platform.libc_ver()

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

MB_OF_EIGHT_THREADS = """
import re, sys, threading
from idanim.freed_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("not kept")
meet = [threading.Barrier(8) for _ in range(8)]
def work(number):
    for turn in range(8):
        meet[turn].wait()
        if turn == number:
            sum(len(block) for block in [bytearray(100_000) for _ in range(200)])
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1000)
"""


def measured(program: str, way: str) -> int:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", program, way]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(
    LIBRARY != "glibc" or tuple(map(int, VERSION.split(".")[:2])) < (2, 35), reason="only glibc keeps such large blocks"
)
def test_kept_blocks_cost_no_page_faults() -> None:
    assert measured(PAGE_FAULTS_OF_FOUR_STEPS, "plain") > 1000
    assert measured(PAGE_FAULTS_OF_FOUR_STEPS, "keep") < 100


@pytest.mark.skipif(LIBRARY != "glibc", reason="only glibc has a heap for each thread")
def test_threads_share_what_is_kept() -> None:
    """Eight threads in turns, 20 MB each: what one frees, the next takes."""
    kept = measured(MB_OF_EIGHT_THREADS, "keep")
    assert kept < 60
    assert measured(MB_OF_EIGHT_THREADS, "plain") > 2 * kept


def test_the_environment_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert not keep_freed_memory()


class OlderLibrary:
    """Where glibc before 2.35 differs: no threshold above half a heap."""

    def __init__(self) -> None:
        self.taken: dict[int, int] = {}

    def mallopt(self, name: int, value: int) -> int:
        if name == -3 and value > 32 * 2**20:
            return 0
        self.taken[name] = value
        return 1


def test_an_older_library_keeps_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    library = OlderLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    assert keep_freed_memory()
    assert library.taken == {-1: KEPT_BYTES, -3: 32 * 2**20, -8: 1}
