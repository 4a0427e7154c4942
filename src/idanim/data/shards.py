"""Clip shards on disk: finding, writing, indexing and reading tar files of samples.

Shards are plain WebDataset tars named `<split>-<number>.tar`. Training reads samples in an order that is
a pure function of a seed, so it needs random access: a shard's index (member offsets) is read from its tar
headers, and a sample is then a few `pread` calls.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import braceexpand

from idanim.data.sample import ClipSample, to_members
from idanim.files import atomic_path, write_bytes
from idanim.types import IdanimError

CACHE = Path("~/.cache/idanim/shards").expanduser()
SHARD_NAME = re.compile(r"^(?P<split>[a-z]+)-(?P<number>\d{6})\.tar$")


def find_shards(location: str | Sequence[str] | None, split: str) -> list[Path]:
    """The shard files of one split, sorted by name.

    Args:
        location: a folder, a tar file, a URL of a tar file (any scheme that fsspec knows; `{000..041}` stands
            for many), or a list of those. What a URL names is copied to a local cache once. In a folder, files
            named `<split>-000000.tar` are taken; a folder whose tars are named otherwise is all training data.
            None is an error.
        split: "train" or "val".

    Raises:
        IdanimError: the location does not exist or holds no tar file at all.
    """
    if location is None:
        raise IdanimError("data.shards is needed: give data.shards=<folder of shards>")
    places = [location] if isinstance(location, str | Path) else list(location)
    places = [part for place in places for part in _local(str(place))]
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_file():
            tars = [path]
        elif path.is_dir():
            tars = sorted(path.glob("*.tar"))
        else:
            raise IdanimError(
                f"data.shards={place!r}: there is no such folder or file; give data.shards=<folder of shards>, "
                "or make those of the toy world with `make toy-data`"
            )
        if not tars:
            raise IdanimError(
                f"data.shards={place!r}: no .tar file in this folder; "
                "make shards with `python -m idanim.curate faces=insightface input=<videos> output=<folder>`"
            )
        found += [tar for tar in tars if _split_of(tar) == split]
    return found


def _local(place: str) -> list[str]:
    """Local paths of one place: itself, or the cached copies of what a URL names.

    Raises:
        IdanimError: a URL can't be fetched.
    """
    if "://" not in place:
        return [place]
    paths = []
    for url in braceexpand(place):
        parent, _, name = url.rpartition("/")
        cache = CACHE / hashlib.sha256(parent.encode()).hexdigest()[:16]
        if not (cache / name).is_file():
            try:
                with (
                    fsspec.open(url, "rb") as source,
                    atomic_path(cache / name) as temporary,
                    temporary.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target)
            except (OSError, ValueError, ImportError) as error:
                raise IdanimError(f"data.shards: {url} can't be fetched: {error}") from error
        paths.append(str(cache / name))
    return paths


def _split_of(path: Path) -> str:
    match = SHARD_NAME.match(path.name)
    return match["split"] if match and match["split"] in ("train", "val") else "train"


def write_shard(path: Path, samples: Iterator[ClipSample] | Sequence[ClipSample]) -> int:
    """Write one tar atomically, byte for byte the same for the same samples.

    Returns:
        How many samples it holds.
    """
    count = 0
    # tarfile itself, not webdataset's writer: that one writes on in its destructor when the disk is full.
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        for sample in samples:
            members = to_members(sample)
            key = members.pop("__key__")
            for extension in sorted(members):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode = len(members[extension]), 0o444
                info.uname = info.gname = "idanim"
                tar.addfile(info, io.BytesIO(members[extension]))
            count += 1
    return count


@dataclass(frozen=True)
class ShardIndex:
    """Where each sample's members lie in one tar file.

    Attributes:
        path: the tar file.
        keys: sample keys in the order of the tar.
        members: for each key, file extension → (offset, size) in bytes.
    """

    path: Path
    keys: tuple[str, ...]
    members: dict[str, dict[str, tuple[int, int]]]

    @classmethod
    def scan(cls, path: Path) -> ShardIndex:
        """Read the tar headers.

        Raises:
            IdanimError: not a tar file, truncated, or a key that appears twice.
        """
        members: dict[str, dict[str, tuple[int, int]]] = {}
        size = path.stat().st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for info in tar:
                    if not info.isfile():
                        continue
                    key, _, extension = info.name.partition(".")
                    if extension in members.setdefault(key, {}):
                        raise IdanimError(f"{path}: sample {key!r} has two members {extension!r}")
                    if info.offset_data + info.size > size:
                        raise IdanimError(f"{path}: cut short inside {info.name!r}; copy or make it again")
                    members[key][extension] = (info.offset_data, info.size)
                assert tar.fileobj is not None
                tar.fileobj.seek(tar.offset)
                # tarfile takes a file that stops between two members, or an unreadable header, for the end.
                if tar.fileobj.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
                    raise IdanimError(
                        f"{path}: cut short or damaged: after {len(members)} samples there is neither another one nor "
                        "the end mark of a tar (two empty blocks); copy or make it again"
                    )
        except tarfile.TarError as error:
            raise IdanimError(f"{path}: not a readable tar file ({error}); copy or make it again") from error
        return cls(path, tuple(members), members)

    @classmethod
    def kept(cls, path: Path) -> ShardIndex:
        """As `scan`, whose answer is kept in `index/` beside the shard until the shard's size or time changes.

        Raises:
            IdanimError: see `scan`.
        """
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        file = path.parent / "index" / f"{path.stem}.json"
        try:
            known = json.loads(file.read_bytes())
            if known["shard"] == stamp:
                members = {
                    key: {extension: (int(offset), int(size)) for extension, (offset, size) in places.items()}
                    for key, places in known["members"].items()
                }
                return cls(path, tuple(members), members)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none yet, or a damaged one: the shard says the same
        index = cls.scan(path)
        # Shards may lie where nothing can be written: then they are scanned again next time.
        with suppress(OSError):
            write_bytes(file, json.dumps({"shard": stamp, "members": index.members}).encode())
        return index

    @cached_property
    def digest(self) -> str:
        """Names the content of the shard by its members' names, places and sizes."""
        return hashlib.sha256(repr(self.members).encode()).hexdigest()[:16]

    def read(self, key: str, extensions: Sequence[str] | None = None) -> dict[str, Any]:
        """Members of one sample as `{"__key__": key, extension: bytes}`; all of them by default."""
        places = self.members[key]
        wanted = [e for e in (extensions if extensions is not None else places) if e in places]
        members: dict[str, Any] = {"__key__": key}
        with self.path.open("rb") as file:
            for extension in wanted:
                offset, size = places[extension]
                file.seek(offset)
                members[extension] = file.read(size)
        return members
