"""The people of an evaluation: reference pictures, and real faces of them for ceiling and floor."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idanim.faces.align import aligned_crop
from idanim.faces.engine import FaceEngine
from idanim.pictures import decode_picture
from idanim.types import FloatArray, IdanimError, UInt8Array

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class Person:
    """One person of the evaluation.

    Attributes:
        identity: their name.
        pictures: face crops given to the generator, each [H, W, 3] uint8.
        vectors: [R, D] float32, face vectors of those pictures.
        clips: real faces of the person by clip or photo, each [K, D] float32; the references are among them.
    """

    identity: str
    pictures: tuple[UInt8Array, ...]
    vectors: FloatArray
    clips: tuple[FloatArray, ...]

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
    num_people: int | None,
    num_references: int,
    size_px: int,
) -> list[Person]:
    """People from a folder of photos named `<person>__<anything>.<ending>`, by name.

    The first photos of a person, by file name, are the references; all of them are real faces for ceiling and
    floor. In a photo of several people the largest face is the person.

    Args:
        folder: of the photos.
        engine: finds and embeds faces.
        names: take only these people, None for all.
        num_people: at most so many, None for all.
        num_references: at most so many photos a person are given to the generator.
        size_px: side of the face crops.

    Raises:
        IdanimError: no such folder, no photo in it, or photos in which no face is found; the text names them.
    """
    if not folder.is_dir():
        raise IdanimError(f"references={str(folder)!r}: there is no such folder")
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
    if not photos:
        raise IdanimError(f"references={str(folder)!r}: no photo in it ({', '.join(PICTURE_ENDINGS)})")
    by_name: dict[str, list[Path]] = {}
    for photo in photos:
        name = photo.stem.partition("__")[0]
        if names is None or name in names:
            by_name.setdefault(name, []).append(photo)
    people, faceless = [], []
    for name in sorted(by_name)[:num_people]:
        crops, vectors = [], []
        for photo in by_name[name]:
            rgb = decode_picture(photo.read_bytes(), str(photo))
            faces = engine.detect(rgb)
            if not faces:
                faceless.append(photo.name)
                continue
            crops.append(aligned_crop(rgb, faces[0].landmarks, size_px))
            vectors.append(engine.embed(rgb, faces[0]))
        if crops:
            people.append(_person(name, crops[:num_references], vectors))
    if faceless:
        raise IdanimError(
            f"references={str(folder)!r}: {engine.name} finds no face in {', '.join(faceless)}; "
            "use other photos, or take these away"
        )
    return people


def _person(name: str, crops: Sequence[UInt8Array], vectors: Sequence[FloatArray]) -> Person:
    stacked = np.stack(vectors).astype(np.float32)
    return Person(name, tuple(crops), stacked[: len(crops)], tuple(row[None] for row in stacked))


def embed_crop(engine: FaceEngine, crop: UInt8Array) -> FloatArray | None:
    """Vector of the largest face in a tight face crop, [D]; None where none is found.

    Detectors are trained on pictures with surroundings: where a crop alone shows no face, it is tried again
    inside a grey frame of half its size.
    """
    margins = (crop.shape[0] // 2, crop.shape[1] // 2)
    framed = np.pad(crop, ((margins[0],) * 2, (margins[1],) * 2, (0, 0)), constant_values=127)
    for picture in (crop, framed):
        faces = engine.detect(picture)
        if faces:
            return engine.embed(picture, faces[0])
    return None
