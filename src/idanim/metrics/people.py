"""The people of an evaluation: reference pictures, and real faces of them for ceiling and floor."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from idanim.faces.align import aligned_crop
from idanim.faces.engine import FaceEngine
from idanim.metrics.copying import View, view
from idanim.pictures import decode_picture
from idanim.types import Face, FloatArray, IdanimError, UInt8Array

_log = logging.getLogger(__name__)
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Person:
    """One person of the evaluation.

    Attributes:
        identity: their name.
        pictures: face crops given to the generator, each [H, W, 3] uint8.
        vectors: [R, D] float32, face vectors of those pictures.
        clips: real faces of the person by clip or photo, each [K, D] float32; the references are among them.
        origin: where they come from, for the report: "val split of …", "train split of …" or "photos in …".
        is_stranger: no video is made of them; they are only there to compare with.
        group: what the person counts to in the report, for instance "celebrity"; "" for none.
        views: pose and surroundings in those pictures, see `with_views`.
        photos: files of the photos that the pictures were cut from; () where there are only crops.
    """

    identity: str
    pictures: tuple[UInt8Array, ...]
    vectors: FloatArray
    clips: tuple[FloatArray, ...]
    origin: str
    is_stranger: bool = False
    group: str = ""
    views: tuple[View, ...] = ()
    photos: tuple[Path, ...] = ()

    @property
    def other_pictures(self) -> FloatArray:
        """Face vectors of the clips or photos that no reference is from, [T, D]; T may be 0."""
        others = [clip for clip in self.clips if not (clip[:, None] == self.vectors[None]).all(-1).any()]
        return np.concatenate(others) if others else self.vectors[:0]

    @property
    def digest(self) -> str:
        """Short hash of the reference pictures."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(str(picture.shape).encode() + picture.tobytes())
        return digest.hexdigest()[:16]


def people_from_photos(
    folder: Path,
    engine: FaceEngine,
    names: Collection[str] | None,
    num_people: int,
    num_references: int,
    num_strangers: int,
    size_px: int,
) -> list[Person]:
    """People from a folder of photos named `<person>__<anything>.<ending>`, by name.

    Photos may lie in folders below it, whose names are then the people's groups (`celebrity/ann__1.jpg`). The first
    photos of a person, by file name, are the references; all of them are real faces for ceiling and floor. In a
    photo of several people the largest face is the person.

    Args:
        folder: of the photos.
        engine: finds and embeds faces.
        names: all of these people; None for the first `num_people`.
        num_people: where no names are given, so many people, if there are.
        num_references: at most so many photos a person are given to the generator.
        num_strangers: further people to compare with, if there are.
        size_px: side of the face crops.

    Raises:
        IdanimError: no such folder, no photo in it, somebody in two groups, or photos in which no face is found; the
            text names them.
    """
    photos, groups = find_photos(folder)
    wanted = sorted(photos.keys() & set(names)) if names is not None else sorted(photos)[:num_people]
    strangers = sorted(photos.keys() - set(wanted))[:num_strangers]
    chosen = {name: photos[name] for name in [*wanted, *strangers]}
    people = read_people(chosen, engine, num_references, size_px, f"photos in {folder}", set(strangers))
    return [replace(person, group=groups[person.identity]) for person in people]


def find_photos(folder: Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Photos of each person, and the group of each: the name of the folder below, or "".

    Raises:
        IdanimError: no such folder, no photo in it, or somebody in two groups.
    """
    if not folder.is_dir():
        raise IdanimError(f"references={str(folder)!r}: there is no such folder")
    photos: dict[str, list[Path]] = {}
    groups: dict[str, str] = {}
    for path in sorted([*folder.iterdir(), *folder.glob("*/*")]):
        if path.suffix.lower() in PICTURE_ENDINGS and path.is_file() and not path.name.startswith("."):
            name, group = person_of(path), "" if path.parent == folder else path.parent.name
            photos.setdefault(name, []).append(path)
            if groups.setdefault(name, group) != group:
                raise IdanimError(
                    f"references={str(folder)!r}: photos of {name} lie in two groups, "
                    f"{groups[name] or 'the folder itself'} and {group}"
                )
    if not photos:
        raise IdanimError(f"references={str(folder)!r}: no photo in it ({', '.join(PICTURE_ENDINGS)})")
    return photos, groups


def read_people(
    photos: Mapping[str, Sequence[Path]],
    engine: FaceEngine,
    num_references: int | None,
    size_px: int,
    origin: str,
    strangers: Collection[str] = (),
) -> list[Person]:
    """People from the photos of each.

    Args:
        photos: by name.
        engine: finds and embeds faces.
        num_references: the first so many photos are the references; None for all.
        size_px: side of the face crops.
        origin: where the photos come from, in words.
        strangers: names of those of whom no video is made.

    Raises:
        IdanimError: a photo is none, or no face is found in it; the text names all of those.
    """
    people = []
    faceless: list[str] = []
    for name, paths in photos.items():
        faces = {path: largest_face(path, engine, size_px) for path in paths}
        faceless += [path.name for path, face in faces.items() if face is None]
        found = [face for face in faces.values() if face is not None]
        files = tuple(path for path, face in faces.items() if face is not None)
        if found:
            vectors = np.stack([vector for _, vector in found]).astype(np.float32)
            pictures = tuple(crop for crop, _ in found[:num_references])
            clips = tuple(vector[None] for vector in vectors)
            person = Person(name, pictures, vectors[: len(pictures)], clips, origin, name in strangers)
            people.append(replace(person, photos=files[: len(pictures)]))
    if faceless:
        raise IdanimError(
            f"{origin}: {engine.name} finds no face in {', '.join(faceless)}; use other photos, or take these away"
        )
    return people


def person_of(photo: Path) -> str:
    """Name of the person in `<person>__<anything>.<ending>`; the whole name of any other file."""
    return photo.stem.partition("__")[0] or photo.stem


def largest_face(path: Path, engine: FaceEngine, size_px: int) -> tuple[UInt8Array, FloatArray] | None:
    """Aligned crop and vector of the largest face of a photo; None where none is found.

    Args:
        path: of the photo.
        engine: finds and embeds faces.
        size_px: side of the crop.

    Returns:
        ([size_px, size_px, 3] uint8, [D] float32).

    Raises:
        IdanimError: not a picture.
    """
    rgb = decode_picture(path.read_bytes(), str(path))
    faces = engine.detect(rgb)
    if not faces:
        return None
    if len(faces) > 1:
        _log.warning("%s: %d faces, the largest is taken", path, len(faces))
    return aligned_crop(rgb, faces[0].landmarks, size_px), engine.embed(rgb, faces[0])


def embed_crop(engine: FaceEngine, crop: UInt8Array) -> FloatArray | None:
    """Vector of the largest face in a tight face crop (see `face_in_crop`), [D]; None where none is found."""
    found = face_in_crop(engine, crop)
    return None if found is None else engine.embed(*found[:2])


def face_in_crop(engine: FaceEngine, crop: UInt8Array) -> tuple[UInt8Array, Face, tuple[int, int]] | None:
    """Find the largest face in a tight face crop; None where none is found.

    Detectors are trained on pictures with surroundings: where a crop alone shows no face, it is tried again
    inside a grey frame of half its size.

    Returns:
        The picture in which the face was found, the face, and where (left, top) the crop begins in that picture.
    """
    top, left = crop.shape[0] // 2, crop.shape[1] // 2
    framed = np.pad(crop, ((top,) * 2, (left,) * 2, (0, 0)), constant_values=127)
    for picture, offset in ((crop, (0, 0)), (framed, (left, top))):
        faces = engine.detect(picture)
        if faces:
            return picture, faces[0], offset
    return None


def with_views(person: Person, engine: FaceEngine) -> Person:
    """The person with pose and surroundings of their pictures; those in which no face is found have none."""
    views = []
    for crop in person.pictures:
        found = face_in_crop(engine, crop)
        if found is not None:
            _, face, (x, y) = found
            box = (face.box[0] - x, face.box[1] - y, face.box[2] - x, face.box[3] - y)
            views.append(view(crop, box, face.landmarks))
    return replace(person, views=tuple(views))
