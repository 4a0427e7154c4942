"""Files that are either whole or not there: every artefact is written through these."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from idanim.types import IdanimError

MAX_JSON_BYTES = 64 * 2**20
"""Of one JSON document or one text file: Python needs some ten times as much for it."""


@contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    On any error the temporary file is removed and an older `path` stays as it was, so that a reader
    never sees half a file.

    Args:
        path: the file.
        mode: who may read and write it, less the umask of the process.

    Raises:
        OSError: the folder can't be written or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, because writers choose formats by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:80]}.", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode & ~_umask())
        temporary.replace(path)
        _sync(path.parent)  # or a power cut might undo the renaming
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems can't, and need not
        pass
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed processes; for a folder that nobody else writes to just now."""
    for path in folder.glob(".*.part*") if folder.is_dir() else ():
        path.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write bytes atomically."""
    with atomic_path(path, mode) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str, mode: int = 0o666) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode(), mode)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused, since they are not JSON."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def parse_json(content: bytes | str, name: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read JSON that anybody may have written. Whole numbers of more than 64 bits become floats.

    Args:
        content: text, or UTF-8 bytes.
        name: what to call it in an error.
        max_bytes: longer ones are refused.

    Raises:
        IdanimError: too long, not UTF-8, not JSON, or nested too deeply.
    """
    if len(content) > max_bytes:
        raise IdanimError(f"{name}: {len(content):,} bytes of JSON, at most {max_bytes:,} are read")
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(content)  # a tenth of the time; a training sample has thousands of numbers
    try:  # what it does not take: NaN, UTF-16, halves of characters
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise IdanimError(f"{name}: can't be read as JSON: {str(error)[:200]}") from error


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file; see `parse_json`.

    Raises:
        IdanimError: it is not JSON, or too long.
        OSError: it can't be read.
    """
    return parse_json(read_text(path, max_bytes), str(path), max_bytes)


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        IdanimError: it is not UTF-8, or too long.
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise IdanimError(f"{path}: more than {max_bytes:,} bytes, which is no text file of this kind")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise IdanimError(f"{path}: not a UTF-8 text file ({error})") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
