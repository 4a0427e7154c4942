"""Shards under URLs: fetched for their index and when they are read, kept in a local cache of bounded size.

http, https, s3, and any other scheme that fsspec knows. In the cache, a shard `<name>.tar` has beside it `<name>.url`,
where it comes from, and `<name>.index`, what is in it: both stay when the shard itself makes room. Where the remote
folder holds `SHA256SUMS` (as `sha256sum *.tar > SHA256SUMS` writes it), content is held against it. The query of a URL
may be a key: it is part of what names the shard, and no message shows it.

Environment: `IDANIM_CACHE` (~/.cache/idanim/shards), `IDANIM_CACHE_GB` (200; at least a few shards); for s3 the usual
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`, `AWS_REGION`, and `AWS_ENDPOINT_URL` of other stores.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import fsspec
from aiohttp import ClientError, ClientTimeout
from fsspec.exceptions import FSTimeoutError
from fsspec.spec import AbstractFileSystem

from idanim.files import atomic_path, sha256, write_text
from idanim.types import CUT_QUERY, IdanimError, without_secrets

log = logging.getLogger(__name__)

DELAYS_S = (1.0, 3.0, 9.0, 27.0)
"""Between attempts; there is one attempt more."""

SILENCE_S = 60.0
"""A server that sends nothing for so long has failed."""

ABSENT_STATUSES = (403, 404, 410)
"""Of http: there is nothing; servers that keep their listing to themselves answer 403."""
FINAL_STATUSES = (*ABSENT_STATUSES, 401)
"""Asking again changes nothing."""

ABSENT_TEXTS = ("AWS Error ACCESS_DENIED",)
FINAL_TEXTS = (*ABSENT_TEXTS, "AWS Error INVALID_ACCESS_KEY_ID", "AWS Error SIGNATURE_DOES_NOT_MATCH")
"""Of object stores, likewise."""

HTTP = re.compile(r"\bhttps?://")
"""In a URL; with fsspec one may stand inside another."""

SUMS = "SHA256SUMS"


class _NotWholeError(OSError):
    """What came is not what was to come."""


class _FetchError(IdanimError):
    """A URL that can't be fetched; has no cause, whose text would show the whole URL.

    Args:
        text: what is told.
        is_absent: the server answered, and gives nothing under this URL.
    """

    def __init__(self, text: str, is_absent: bool = False) -> None:  # a loader's is made anew from its text alone
        super().__init__(text)
        self.is_absent = is_absent


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
    """Where a URL's shard lies in the cache, or will when it is read; nothing is fetched.

    Raises:
        IdanimError: it is no URL of a file.
    """
    told = f"data.shards: {without_secrets(url)}"
    if url.endswith(CUT_QUERY):
        raise IdanimError(f"{told}: the query may be a key and is not kept; give data.shards= again")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise IdanimError(f"{told} is no URL ({error})") from None
    if re.search(r"[?#]", url) and not HTTP.search(url):
        raise IdanimError(f"{told} has ? or # in it, which only URLs of http may have; give the shard another name")
    folder, _, name = parts.path.rpartition("/")
    if not name:
        raise IdanimError(f"{told} names no file; expected the URL of a tar file")
    parent = urlunsplit((parts.scheme, parts.netloc, folder, parts.query, ""))
    path = cache_folder() / hashlib.sha256(parent.encode()).hexdigest()[:16] / name
    if not _url_file(path).is_file():
        has_secret = bool(parts.query) or "@" in parts.netloc
        write_text(_url_file(path), url.partition("#")[0], 0o600 if has_secret else 0o666)
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
        listing = _listing(url)
        _fetch(url, path, _sums_in(listing).get(path.name))
        if not listing.is_file():  # kept in mind only now: who gets no shard either may have the wrong key
            write_text(listing, "")
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


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and its place there."""
    if url.startswith("s3://"):
        return _object_store(), url.removeprefix("s3://")
    options = {}
    if url.startswith(("http://", "https://")):
        timeout = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options = {"client_kwargs": {"timeout": timeout}, "skip_instance_cache": True}
    file_system, place = fsspec.core.url_to_fs(url, **options)
    return file_system, place


def _object_store() -> AbstractFileSystem:
    """S3, or the store at `AWS_ENDPOINT_URL`; a new client each time, so that forked processes share no connection."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    client = S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if endpoint else None),
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),  # attempts are counted and told here
    )
    return ArrowFSWrapper(client, skip_instance_cache=True)


def _fetch(url: str, path: Path, expected_sum: str | None) -> None:
    name, told, is_absent = without_secrets(url), "", False
    for number, delay_s in enumerate((*DELAYS_S, None), 1):
        try:
            with atomic_path(path) as temporary:
                _download(url, temporary, expected_sum)
            return
        except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
            is_absent = isinstance(error, FileNotFoundError)
            raise _FetchError(f"data.shards: {name} can't be fetched: {_told(error)}", is_absent) from None
        except (OSError, ClientError, TimeoutError, FSTimeoutError) as error:
            told, is_absent = _told(error), _is_one_of(error, ABSENT_STATUSES, ABSENT_TEXTS)
            is_final = _is_one_of(error, FINAL_STATUSES, FINAL_TEXTS)
        if is_final:
            break
        if delay_s is not None:
            log.warning("%s: attempt %d failed (%s); again in %g s", name, number, told, delay_s)
            time.sleep(delay_s)
    text = f"data.shards: {name} can't be fetched, {number} attempt(s) failed; the last: {told}"
    raise _FetchError(text, is_absent)


def _is_one_of(error: Exception, statuses: Collection[int], texts: Collection[str]) -> bool:
    return getattr(error, "status", None) in statuses or any(text in str(error) for text in texts)


def _download(url: str, target: Path, expected_sum: str | None) -> None:
    file_system, place = _file_system(url)
    # Over http the library itself counts; asking for the size would take every failure for a missing file.
    size = None if url.startswith("http") else file_system.info(place).get("size")
    file_system.get_file(place, str(target))
    got = target.stat().st_size
    if size is not None and got != size:
        raise _NotWholeError(f"{got:,} of {size:,} bytes came")
    if expected_sum is not None and sha256(target) != expected_sum:
        raise _NotWholeError(f"its SHA-256 is not that in {SUMS}")


def _told(error: Exception) -> str:
    return without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:200]


def _listing(url: str) -> Path:
    """The list of hashes beside a shard, which is fetched once; a file that is not there where there is none."""
    parts = urlsplit(url)
    parent = parts.path.rpartition("/")[0]
    listing_url = urlunsplit(parts._replace(path=f"{parent}/{SUMS}"))
    listing = cached(listing_url)
    if not listing.is_file():
        try:
            _fetch(listing_url, listing, None)
        except _FetchError as error:
            if not error.is_absent:
                raise
    return listing


def _sums_in(listing: Path) -> dict[str, str]:
    """File name → SHA-256; {} where there is no list."""
    sums = {}
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    for line in text.splitlines():
        digest, _, file = line.partition(" ")
        sums[file.strip(" *")] = digest.lower()
    return sums


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
