"""The people of an evaluation from clip shards. Entry-point glue between `data`, `faces` and `metrics`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from idanim.data.sample import ClipMeta, parse_meta
from idanim.data.shards import ShardIndex, find_shards
from idanim.faces.engine import FaceEngine
from idanim.metrics.people import Person, embed_crop
from idanim.pictures import decode_picture
from idanim.types import FloatArray, IdanimError, UInt8Array, without_secrets

_log = logging.getLogger(__name__)


def people_from_shards(
    location: str | Sequence[str],
    engine: FaceEngine,
    names: Collection[str] | None,
    num_people: int,
    num_references: int,
    num_strangers: int,
) -> list[Person]:
    """People from clip shards, by name: of the validation split, or of the training split where there is none.

    Further people, of the validation split first, are added as strangers, to compare with. The references of a
    person are the largest faces in the pool of their first clip. Whole shards are read until
    enough people are found.

    Args:
        location: folder or tar files.
        engine: embeds references where the shards were made with another engine.
        names: all of these people, and others as strangers; None for the first `num_people`.
        num_people: where no names are given, so many people, if there are.
        num_references: at most so many pictures a person.
        num_strangers: further people, if there are.

    Raises:
        IdanimError: no shards, one of `names` is not in them, or nobody in them has a usable face.
    """
    clips: dict[str, list[tuple[ShardIndex, ClipMeta]]] = {}
    origins: dict[str, str] = {}
    wanted = set(names or ())
    num_shown = num_people if names is None else len(wanted)
    by_split: dict[str, list[str]] = {}
    told = without_secrets(str(location))
    for split in ("val", "train"):
        known = set(clips)
        for path in find_shards(location, split):
            if len(clips) < num_shown + num_strangers or not wanted <= clips.keys():
                for index, meta in _read_metas(path):
                    clips.setdefault(meta.identity, []).append((index, meta))
                    origins.setdefault(meta.identity, f"{split} split of {told}")
        by_split[split] = sorted(clips.keys() - known)
    where = without_secrets(f"data.shards={location!r}")
    _require_people(wanted, clips, where)
    if names is None:
        wanted = set(by_split["val"] or by_split["train"])
    ordered = sorted([*by_split["val"], *by_split["train"]], key=lambda name: name not in wanted)
    people: list[Person] = []
    room = {False: num_shown, True: num_strangers}  # by whether the person is a stranger
    for name in ordered:
        is_stranger = name not in wanted or not room[False]
        person = _person(name, clips[name], origins[name], engine, num_references) if room[is_stranger] else None
        if person is not None:
            room[is_stranger] -= 1
            people.append(replace(person, is_stranger=is_stranger))
    if all(person.is_stranger for person in people):
        raise IdanimError(
            f"{where}: {engine.name} finds no usable face of the people there: {in_short(sorted(wanted))}"
        )
    return people


def _require_people(wanted: Collection[str], there: Collection[str], where: str) -> None:
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise IdanimError(
            f"{where}: no clip of {in_short(unknown)}, whom the videos were asked "
            f"to show; people there: {in_short(sorted(there))}. Give shards with them, or "
            "references=<folder of photos named <person>__<anything>.jpg>"
        )


def in_short(names: Sequence[str], limit: int = 5) -> str:
    """The first of some names, and how many there are: "ann, bob, … (12)"."""
    if len(names) <= limit:
        return ", ".join(names) or "none"
    return f"{', '.join(names[:limit])}, … ({len(names)})"


def _read_metas(path: Path) -> Iterator[tuple[ShardIndex, ClipMeta]]:
    """The readable samples of a shard, by key; a broken one is reported."""
    index = ShardIndex.scan(path)
    for key in sorted(index.keys):
        try:
            yield index, parse_meta(index.read(key, ["json"]).get("json", b""), key)
        except IdanimError as error:
            _log.warning("%s: left out: %s", path, error)


def _person(
    name: str, clips: Sequence[tuple[ShardIndex, ClipMeta]], origin: str, engine: FaceEngine, num_references: int
) -> Person | None:
    """One person, or None (reported) if no clip has a face picture that can be used."""
    real = _real_faces([meta for _, meta in clips], engine)
    by_clip: dict[str, list[FloatArray]] = {}
    for (clip, _), vector in real.items():
        by_clip.setdefault(clip, []).append(vector)
    for index, meta in clips:
        pictures: list[UInt8Array] = []
        vectors: list[FloatArray] = []
        for i in _own_faces(meta):
            if len(pictures) == num_references:
                break
            try:
                picture = _read_face(index, meta.key, i)
            except IdanimError as error:
                _log.warning("a face is left out: %s", error)
                continue
            stored = real.get((meta.faces[i].clip, meta.faces[i].frame))
            found = embed_crop(engine, picture) if stored is None else stored
            if found is not None:
                pictures.append(picture)
                vectors.append(found)
        if vectors:
            real_clips = tuple(np.stack(v) for v in by_clip.values())
            return Person(name, tuple(pictures), np.stack(vectors), real_clips, origin)
    _log.warning("%s is left out: %s finds no face in its crops (clips: %d)", name, engine.name, len(clips))
    return None


def _real_faces(metas: Sequence[ClipMeta], engine: FaceEngine) -> dict[tuple[str, int], FloatArray]:
    """Stored vectors by clip and frame, each once, of the clips that this engine has seen."""
    return {
        (face.clip, face.frame): np.array(face.embedding, dtype=np.float32)
        for meta in metas
        if meta.face_engine == engine.name
        for face in meta.faces
    }


def _own_faces(meta: ClipMeta) -> list[int]:
    """Indices of the faces in the pool that are from the clip itself, largest first."""
    own = [i for i, face in enumerate(meta.faces) if face.clip == meta.key and face.role == "pool"]
    return sorted(own, key=lambda i: -meta.faces[i].size_px)


def _read_face(index: ShardIndex, key: str, number: int) -> UInt8Array:
    member = f"face.{number}.jpg"
    return decode_picture(index.read(key, [member]).get(member, b""), f"{key}.{member} in {index.path}")
