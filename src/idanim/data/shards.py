"""Clip shards on disk: finding, writing, indexing and reading tar files of samples.

Shards are plain WebDataset tars named `<split>-<number>.tar`. Training reads samples in an order that is
a pure function of a seed, so it needs random access: a shard's index (member offsets) is read from its tar
headers, and a sample is then a few `pread` calls.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from braceexpand import braceexpand

from idanim.data.remote import cached, index_file, is_remote, make_local
from idanim.data.sample import ClipSample, to_members
from idanim.files import atomic_path, parse_json, read_text, write_text
from idanim.types import IdanimError, without_secrets

MAX_MEMBERS = 1_000_000
MAX_PIXEL_BYTES = 2**30
MAX_MEMBER_BYTES = {"json": 16 * 2**20}
"""Ending → bytes of one member at most; any other one has pixels in it."""
SAMPLE_KEY = re.compile(r"(?!.*(^|/)\.?\.?(/|$))[^\x00-\x1f\x7f\\]{1,400}")
"""No part of it is empty, so that no path begins with a slash; dots end a key."""
DIGEST = re.compile("[0-9a-f]{16}")
"""It is part of file names."""
SHARD_NAME = re.compile(r"^(?P<split>[a-z]+)-(?P<number>\d{6})\.tar$")
Members = dict[str, dict[str, tuple[int, int]]]
"""For each key, file extension → (offset, size) in bytes."""


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
        if path.is_file() and path.suffix != ".tar" and not tarfile.is_tarfile(path):
            raise IdanimError(f"data.shards={place!r}: not a tar file; expected a folder of shards (.tar), or one")
        if path.is_file() or is_remote(path):
            tars = [path]
        elif path.is_dir():
            tars = sorted(path.glob("*.tar"))
        else:
            raise IdanimError(
                f"data.shards={place!r}: there is no such folder or file; give data.shards=<folder of shards>, "
                "or make those of the toy world with `make toy-data` (those of the studies with `make study-data`)"
            )
        if not tars:
            raise IdanimError(
                f"data.shards={place!r}: no .tar file in this folder; "
                "make shards with `python -m idanim.curate faces=insightface input=<videos> output=<folder>`"
            )
        found += [tar for tar in tars if _split_of(tar) == split]
    return found


def require_shards(location: str | Sequence[str] | None) -> None:
    """Refuse data to train on that is not there; URLs are left until they are read.

    Args:
        location: see `find_shards`.

    Raises:
        IdanimError: see `find_shards`, or there are no training clips among them.
    """
    places = [location] if isinstance(location, str) else list(location or ())
    if not any("://" in place for place in places):
        require_clips(find_shards(location, "train"), location)


def require_clips(found: Sequence[object], location: str | Sequence[str] | None) -> None:
    """Refuse data in which nothing to train on was found.

    Raises:
        IdanimError: `found` is empty.
    """
    if not found:
        raise IdanimError(without_secrets(f"data.shards={location!r}: no training clip in it"))


def _local(place: str) -> list[str]:
    """Local paths of one place: itself, or the cached copies of what a URL names.

    Raises:
        IdanimError: a URL can't be fetched.
    """
    if "://" not in place:
        return [place]
    paths = [cached(url) for url in braceexpand(place)]
    for path in paths:
        if not index_file(path).is_file():
            ShardIndex.kept(path)  # at once, while it is there
    return [str(path) for path in paths]


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


class Listing(NamedTuple):
    """What lies in one tar file.

    Attributes:
        keys: sample keys in the order of the tar.
        members: for each key, file extension → (offset, size) in bytes.
    """

    keys: tuple[str, ...]
    members: Members


@dataclass(frozen=True)
class ShardIndex:
    """Where each sample's members lie in one tar file; two of equal digest are equal.

    Attributes:
        path: the tar file.
        num_clips: samples in it.
        digest: names the content of the shard by its members' names, places and sizes.
        known: what lies in it; None = in a kept file that is read when it is asked for.
    """

    path: Path
    num_clips: int
    digest: str
    known: Listing | None = field(default=None, compare=False, repr=False)

    @property
    def keys(self) -> tuple[str, ...]:
        """Sample keys in the order of the tar."""
        return (self.known or _kept_listing(self)).keys

    @property
    def members(self) -> Members:
        """For each key, file extension → (offset, size) in bytes."""
        return (self.known or _kept_listing(self)).members

    @classmethod
    def scan(cls, path: Path) -> ShardIndex:
        """Read the tar headers; of a URL's shard, what was kept of them.

        Raises:
            IdanimError: not a tar file, truncated, or a key that appears twice.
        """
        return cls.kept(path) if is_remote(path) else cls._scan(path)

    @classmethod
    def _scan(cls, path: Path) -> ShardIndex:
        make_local(path)
        members = cls._members_of(path)
        return cls(path, len(members), _digest(members), Listing(tuple(members), members))

    @staticmethod
    def _members_of(path: Path) -> Members:
        members: Members = {}
        size = path.stat().st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for number, info in enumerate(tar):
                    _check_member(info, f"{path}: member {info.name[:80]!r}")
                    if number >= MAX_MEMBERS:
                        raise IdanimError(f"{path}: more than {MAX_MEMBERS:,} members")
                    tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all, a kilobyte each
                    if info.isdir():
                        continue
                    key, _, extension = info.name.removeprefix("./").partition(".")
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
        # A size that no memory holds, or a number that is none.
        except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
            if isinstance(error, IdanimError):
                raise
            raise IdanimError(f"{path}: not a readable tar file ({error}); copy or make it again") from error
        return members

    @classmethod
    def kept(cls, path: Path) -> ShardIndex:
        """As `scan`, whose answer is kept in `index/` beside the shard until the shard's size or time changes.

        Of what was kept only the first line is read here, so that a large dataset starts quickly; the rest where a
        sample of the shard is wanted. The index of a URL's shard lies in the cache, for the shard may have left it.

        Raises:
            IdanimError: see `scan`.
        """
        stamp = _stamp(path)
        try:
            with _kept_file(path).open("rb") as file:
                head = parse_json(file.readline(1000), str(path))
            clips, digest = head["clips"], head["digest"]
            is_count = type(clips) is int and clips in range(MAX_MEMBERS)
            if head["shard"] == stamp and is_count and DIGEST.fullmatch(digest):
                return cls(path, clips, digest)
        except (OSError, IdanimError, KeyError, TypeError):
            pass  # none yet, or a damaged one: the shard says the same
        index = cls._scan(path)
        head = {"shard": stamp, "clips": index.num_clips, "digest": index.digest}
        # Shards may lie where nothing can be written: then they are scanned again next time.
        with suppress(OSError):
            write_text(_kept_file(path), f"{json.dumps(head)}\n{json.dumps(index.members)}\n")
            return replace(index, known=None)
        return index

    def read(self, key: str, extensions: Sequence[str] | None = None) -> dict[str, Any]:
        """Members of one sample as `{"__key__": key, extension: bytes}`; all of them by default."""
        places = self.members[key]
        wanted = [e for e in (extensions if extensions is not None else places) if e in places]
        members: dict[str, Any] = {"__key__": key}
        with self._open() as file:
            for extension in wanted:
                offset, size = places[extension]
                if size > MAX_MEMBER_BYTES.get(extension, MAX_PIXEL_BYTES):
                    raise IdanimError(f"sample {key!r}: member {extension!r} has {size:,} bytes, more than are read")
                file.seek(offset)
                members[extension] = file.read(size)
                if len(members[extension]) < size:
                    raise IdanimError(f"sample {key!r}: {self.path} got shorter since it was opened; copy it again")
        return members

    def _open(self) -> BinaryIO:
        """The tar, fetched again where it had to make room in the cache."""
        for _ in range(3):
            make_local(self.path)
            try:
                file = self.path.open("rb")
            except FileNotFoundError:  # it made room just now
                continue
            if is_remote(self.path):
                os.utime(self.path)  # what is read stays longest
            return file
        raise IdanimError(
            f"{self.path}: it is not there, or removed again and again; a larger IDANIM_CACHE_GB may help"
        )


def _stamp(path: Path) -> list[int] | None:
    """Size and time of a shard, by which a change is seen; what a URL names does not change."""
    if is_remote(path):
        return None
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def _kept_file(path: Path) -> Path:
    return index_file(path) if is_remote(path) else path.parent / "index" / f"{path.stem}.jsonl"


@lru_cache(maxsize=32)  # a few more than are mixed with each other, so that memory does not grow with the dataset
def _kept_listing(index: ShardIndex) -> Listing:
    """What `ShardIndex.kept` left in the file.

    Raises:
        IdanimError: the shard is another one by now.
    """
    try:
        _, line, *_ = read_text(_kept_file(index.path)).split("\n")
        members = _places(parse_json(line, str(index.path)))
        if _digest(members) == index.digest and len(members) == index.num_clips:
            return Listing(tuple(members), members)
    except (OSError, IdanimError, ValueError, TypeError, AttributeError):
        pass  # gone or damaged: the shard says the same
    scanned = ShardIndex._scan(index.path)
    if scanned != index or scanned.known is None:
        raise IdanimError(
            f"{index.path}: it, or {_kept_file(index.path)}, changed since it was first looked at; "
            "remove the latter and start again"
        )
    return scanned.known


def _digest(members: Members) -> str:
    return hashlib.sha256(repr(members).encode()).hexdigest()[:16]


def _places(stored: Any) -> Members:
    """The members of an index as JSON keeps them.

    Raises:
        ValueError: a place that no file has. Other errors where it is no index at all.
    """
    members = {key: {ext: (int(at), int(size)) for ext, (at, size) in m.items()} for key, m in stored.items()}
    if any(number < 0 for m in members.values() for place in m.values() for number in place):
        raise ValueError("a place or size below 0")
    return members


def _check_member(info: tarfile.TarInfo, where: str) -> None:
    """Let plain files and folders pass, whose names stay inside the archive.

    Raises:
        IdanimError: a link, a device, a sparse file, or a name that leads elsewhere.
    """
    if info.issparse() or not (info.isreg() or info.isdir()):
        raise IdanimError(f"{where} is no plain file (a link, a device or a sparse file); make the shard again")
    name = info.name.removeprefix("./").rstrip("/")
    if info.isreg() and (not SAMPLE_KEY.fullmatch(name.partition(".")[0]) or "/" in name.partition(".")[2]):
        raise IdanimError(
            f"{where}: expected <key>.<ending>, with no folder that leads elsewhere and no control character"
        )
    if info.size < 0:
        raise IdanimError(f"{where} has {info.size} bytes")
