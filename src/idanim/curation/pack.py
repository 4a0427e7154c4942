"""Packing: accepted samples into shards of bounded size, split by person into training and validation."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from idanim.curation.annotations import JSONL, PARQUET, Place, annotation, write_annotations
from idanim.curation.chance import place
from idanim.curation.link import FaceChoice, Linker, with_faces
from idanim.curation.results import ClipEntry, Result
from idanim.data.shards import SHARD_NAME, write_shard
from idanim.files import read_json, write_json
from idanim.types import IdanimError


@dataclass(frozen=True)
class ShardPlan:
    """What goes into one shard.

    Attributes:
        name: file name.
        split: "train" or "val".
        keys: clip keys in order.
    """

    name: str
    split: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Packing:
    """How samples are packed.

    Attributes:
        max_clips: clips in a shard at most.
        max_mb: megabytes in a shard at most, unless a single clip has more.
        val_fraction: share of the people who are kept for validation, in [0, 1).
        seed: of the choice of people.
    """

    max_clips: int
    max_mb: float
    val_fraction: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise IdanimError(f"shards.val_fraction={self.val_fraction}: wanted 0 ≤ val_fraction < 1")
        if self.max_clips < 1 or self.max_mb <= 0:
            raise IdanimError(f"shards.max_clips={self.max_clips} shards.max_mb={self.max_mb}: both must be positive")

    def validation_people(self, identities: Iterable[str]) -> set[str]:
        """The people kept for validation.

        Each person's place in [0, 1) is a hash of the name, and those below `val_fraction` are for validation: adding
        people does not move the others. But of two people or more, at least one is for validation (when
        `val_fraction` is above 0) and at least one for training. Where nobody, or everybody, is below, the person of
        the lowest place is for validation, or that of the highest for training; who is added can move that one.
        """
        ordered = sorted(set(identities), key=lambda name: (place(self.seed, name), name))
        if self.val_fraction == 0 or len(ordered) < 2:
            return set()
        below = sum(place(self.seed, name) < self.val_fraction for name in ordered)
        return set(ordered[: min(max(below, 1), len(ordered) - 1)])

    def plan(self, entries: Sequence[ClipEntry], links: Mapping[str, Sequence[FaceChoice]]) -> list[ShardPlan]:
        """Deal clips out to shards, in the order of their keys.

        Args:
            entries: all clips.
            links: the faces of other clips that go with each clip.
        """
        people = self.validation_people(entry.identity for entry in entries)
        pool_bytes = {entry.key: entry.pool_bytes for entry in entries}
        groups: dict[str, list[list[str]]] = {"train": [], "val": []}
        room = {"train": 0.0, "val": 0.0}
        for entry in sorted(entries, key=lambda entry: entry.key):
            split = "val" if entry.identity in people else "train"
            size = entry.num_bytes + sum(pool_bytes[key][i] for key, indices in links[entry.key] for i in indices)
            if not groups[split] or len(groups[split][-1]) >= self.max_clips or size > room[split]:
                groups[split].append([])
                room[split] = self.max_mb * 1e6
            groups[split][-1].append(entry.key)
            room[split] -= size
        return [
            ShardPlan(f"{split}-{number:06d}.tar", split, tuple(keys))
            for split in groups
            for number, keys in enumerate(groups[split])
        ]


def write_shards(output: Path, accepted: Sequence[Result], packing: Packing, linker: Linker) -> list[ShardPlan]:
    """Write all shards and the annotations, in place of those of an earlier run.

    New files are written whole into a folder of their own first. Only when all are complete do they take the place
    of old ones, and old ones without a successor go. If nothing has changed, nothing is written.

    Args:
        output: the folder that gets the shards.
        accepted: results of all accepted videos.
        packing: how to pack.
        linker: chooses faces of other clips.

    Returns:
        What each shard holds.

    Raises:
        OSError: they can't be written; the shards that were there before stay.
    """
    results = {result.decision.key: result for result in accepted}
    entries = [result.entry() for result in accepted]
    links = linker.choose(entries)
    plans = packing.plan(entries, links)
    names = [*(plan.name for plan in plans), JSONL, PARQUET]
    contents = [names, [asdict(plan) for plan in plans], links, sorted(result.version for result in accepted)]
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    marker = output / "work" / "packed.json"
    if not _is_current(output, marker, digest):
        staging = output / "work" / "shards"
        shutil.rmtree(staging, ignore_errors=True)  # of a killed run
        try:
            _write_staged(staging, plans, links, results)
            marker.unlink(missing_ok=True)
            for name in names:
                (staging / name).replace(output / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sizes = {name: (output / name).stat().st_size for name in names}
        write_json(marker, {"digest": digest, "sizes": sizes})
    for path in output.glob("*.tar"):
        if SHARD_NAME.match(path.name) and path.name not in names:
            path.unlink()
    return plans


def _is_current(output: Path, marker: Path, digest: str) -> bool:
    if not marker.is_file():
        return False
    try:
        packed = read_json(marker)
        files = [(output / name, size) for name, size in packed["sizes"].items()]
        found = packed["digest"]
    except (IdanimError, LookupError, TypeError, AttributeError):
        return False  # not ours, or of an older version: everything is packed anew
    return found == digest and all(p.is_file() and p.stat().st_size == size for p, size in files)


def _write_staged(
    staging: Path,
    plans: Sequence[ShardPlan],
    links: Mapping[str, Sequence[FaceChoice]],
    results: Mapping[str, Result],
) -> None:
    for plan in plans:
        samples = (with_faces(results[key].sample(), links[key], results) for key in plan.keys)
        write_shard(staging / plan.name, samples)
    places = {
        key: Place(
            plan.split, plan.name, tuple({"clip": other, "face": i} for other, faces in links[key] for i in faces)
        )
        for plan in plans
        for key in plan.keys
    }
    write_annotations(staging, (annotation(place, results[key].meta()) for key, place in places.items()))
