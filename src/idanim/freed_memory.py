"""Memory that is freed stays with the program, so that the next step need not ask the system for it again."""

from __future__ import annotations

import ctypes
import os
import platform

LARGEST_KEPT_BYTES = (64 * 2**20, 32 * 2**20)
"""Tried in this order: glibc before 2.35 may take no more than the second."""
KEPT_BYTES = 2**30
NUM_HEAPS = 1
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # names of mallopt(3)


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed: up to `KEPT_BYTES`, of blocks up to one of `LARGEST_KEPT_BYTES`.

    glibc gives every block above some megabytes back to the system at once. On a CPU each step of a model asks for
    the same blocks again, and the system clears them page by page, which may take longer than what is computed.
    All threads share what is kept. glibc would give them up to eight heaps a core, each of which keeps what its own
    threads once used: a server whose work goes from thread to thread would grow until all of them had been the largest.

    Returns:
        Whether it holds: not for other C libraries, nor where `MALLOC_…_` in the environment says otherwise.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    is_kept = all([mallopt(_ARENA_MAX, NUM_HEAPS), mallopt(_TRIM_THRESHOLD, KEPT_BYTES)])
    return any(mallopt(_MMAP_THRESHOLD, size) for size in LARGEST_KEPT_BYTES) and is_kept
