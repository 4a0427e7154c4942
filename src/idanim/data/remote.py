"""Shards under URLs: fetched for their index and when they are read, kept in a local cache of bounded size.

Any scheme that fsspec knows (http, https; s3 where s3fs is installed; …). In the cache, a shard `<name>.tar` has beside
it `<name>.url`, where it comes from, and `<name>.index`, what is in it: both stay when the shard itself makes room.
Where the remote folder holds `SHA256SUMS` (as `sha256sum *.tar > SHA256SUMS` writes it), content is held against it.

Environment: `IDANIM_CACHE` (~/.cache/idanim/shards), `IDANIM_CACHE_GB` (200; at least a few shards).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from aiohttp import ClientError, ClientTimeout
from fsspec.exceptions import FSTimeoutError

from idanim.files import atomic_path, sha256, write_text
from idanim.types import IdanimError

log = logging.getLogger(__name__)

DELAYS_S = (1.0, 3.0, 9.0, 27.0)
"""Between attempts; there is one attempt more."""

SILENCE_S = 60.0
"""A server that sends nothing for so long has failed."""

FINAL_STATUSES = (401, 403, 410)
"""Of http: asking again changes nothing."""

SUMS = "SHA256SUMS"


class _NotWholeError(OSError):
    """What came is not what was to come."""


def cache_folder() -> Path:
    """Where fetched shards lie."""
    return Path(os.environ.get("IDANIM_CACHE", "~/.cache/idanim/shards")).expanduser()


def max_cache_bytes() -> int:
    """How much the cache may hold.

    Raises:
        IdanimError: `IDANIM_CACHE_GB` is no number above 0.
    """
    text = os.environ.get("IDANIM_CACHE_GB", "200")
    try:
        size = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise IdanimError(f"IDANIM_CACHE_GB={text!r}: expected gigabytes, more than 0")
    return size


def cached(url: str) -> Path:
    """Where a URL's shard lies in the cache, or will when it is read; nothing is fetched."""
    parent, _, name = url.rpartition("/")
    path = cache_folder() / hashlib.sha256(parent.encode()).hexdigest()[:16] / name
    if not _url_file(path).is_file():
        write_text(_url_file(path), url)
    return path


def make_local(path: Path) -> None:
    """Fetch a shard of the cache that is not there; a file of any other folder is left as it is.

    Raises:
        IdanimError: it can't be fetched; the text names the URL, the number of attempts and the last failure.
    """
    if path.is_file() or not _url_file(path).is_file():
        return
    with _locked(path):
        if path.is_file():  # another process was quicker
            return
        url = _url_file(path).read_text(encoding="utf-8")
        _fetch(url, path, _expected_sum(url))
        _make_room(keep=path)


def is_remote(path: Path) -> bool:
    """Whether a file of the cache comes from a URL."""
    return _url_file(path).is_file()


def index_file(path: Path) -> Path:
    """Where the index of a cached shard lies."""
    return path.with_suffix(".index")


def _url_file(path: Path) -> Path:
    return path.with_suffix(".url")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _options(url: str) -> Mapping[str, Any]:
    if url.startswith(("http://", "https://")):
        timeout = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        return {"client_kwargs": {"timeout": timeout}, "skip_instance_cache": True}
    return {}


def _fetch(url: str, path: Path, expected_sum: str | None) -> None:
    failure: Exception | None = None
    for number, delay_s in enumerate((*DELAYS_S, None), 1):
        try:
            with atomic_path(path) as temporary:
                _download(url, temporary, expected_sum)
            return
        except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
            raise IdanimError(f"data.shards: {url} can't be fetched: {_told(error)}") from error
        except (OSError, ClientError, TimeoutError, FSTimeoutError) as error:
            failure = error
            if getattr(error, "status", None) in FINAL_STATUSES:
                break
        if delay_s is not None:
            log.warning("%s: attempt %d failed (%s); again in %g s", url, number, _told(failure), delay_s)
            time.sleep(delay_s)
    text = f"data.shards: {url} can't be fetched, {number} attempt(s) failed; the last: {_told(failure)}"
    raise IdanimError(text) from failure


def _download(url: str, target: Path, expected_sum: str | None) -> None:
    file_system, place = fsspec.core.url_to_fs(url, **_options(url))
    # Over http the library itself counts; asking for the size would take every failure for a missing file.
    size = None if url.startswith("http") else file_system.info(place).get("size")
    file_system.get_file(place, str(target))
    got = target.stat().st_size
    if size is not None and got != size:
        raise _NotWholeError(f"{got:,} of {size:,} bytes came")
    if expected_sum is not None and sha256(target) != expected_sum:
        raise _NotWholeError(f"its SHA-256 is not that in {SUMS}")


def _told(error: Exception | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _expected_sum(url: str) -> str | None:
    """From the list beside the shards, which is fetched once; None where there is none."""
    parent, _, name = url.rpartition("/")
    listing = cached(f"{parent}/{SUMS}")
    if not listing.is_file():
        try:
            _fetch(f"{parent}/{SUMS}", listing, None)
        except IdanimError as error:
            # Stores that keep their listing to themselves answer 403 for what is not there.
            is_final = getattr(error.__cause__, "status", None) in FINAL_STATUSES
            if not is_final and not isinstance(error.__cause__, FileNotFoundError | PermissionError):
                raise
            write_text(listing, "")
    sums = {}
    for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, file = line.partition(" ")
        sums[file.strip(" *")] = digest.lower()
    return sums.get(name)


def _make_room(keep: Path) -> None:
    """Remove shards that were not read for longest."""
    shards = {}
    for path in cache_folder().glob("*/*.tar"):
        with suppress(FileNotFoundError):  # another process makes room, too
            shards[path] = path.stat()
    excess = sum(status.st_size for status in shards.values()) - max_cache_bytes()
    for path, status in sorted(shards.items(), key=lambda item: item[1].st_mtime_ns):
        if excess > 0 and path != keep:
            path.unlink(missing_ok=True)
            excess -= status.st_size
