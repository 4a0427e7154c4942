"""Reference material → the face crops of one person: a photo, several, a folder of them, or a video."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from idanim.faces.align import aligned_crop, natural_size_px
from idanim.faces.engine import FaceEngine
from idanim.faces.quality import blur, head_pose_deg
from idanim.metrics.people import PICTURE_ENDINGS, person_of
from idanim.pictures import decode_picture
from idanim.types import FloatArray, IdanimError, UInt8Array
from idanim.video import VideoReader, read_frames

VIDEO_ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".m4v")
MORE_PICTURE_ENDINGS = (*PICTURE_ENDINGS, ".tif", ".tiff", ".gif")

BLURRED = 50.0
"""Faces of a lower `blur` are told; sharp photos have hundreds."""
PROFILE_DEG = 45.0
"""Heads turned further to a side are told."""
UNLIKE = 0.3
"""Two photos of lower similarity are told; recognisers give .5 and more for one person."""
SIDE_FACE_SHARE = 0.5
"""A second face is told from this share of the chosen one's width on."""


@dataclass(frozen=True)
class ReferenceOptions:
    """How faces are taken out of references.

    Attributes:
        size_px: side of the crops; the official script has 112, which CLIP's encoder then magnifies.
        face_index: which face of a picture, by falling size; None = the largest, and several are told.
        video_frames: how many frames of a video are looked at.
        keep_outliers: use also photos that seem to show somebody else.
    """

    size_px: int = 256
    face_index: int | None = None
    video_frames: int = 5
    keep_outliers: bool = False


@dataclass(frozen=True)
class ReferenceFace:
    """One face of the person.

    Attributes:
        source: file, and frame of a video.
        crop: [size_px, size_px, 3] uint8.
        vector: [D] float32 of unit length.
        natural_px: side of the crop that would magnify nothing.
        notes: what is wrong with the picture, in words.
    """

    source: str
    crop: UInt8Array
    vector: FloatArray
    natural_px: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ReferencePerson:
    """The faces of one person.

    Attributes:
        name: the person's.
        faces: those that are used, at least one.
        notes: what the user should know, in words.
        sources: the photos, folders and videos that were given.
        files: all files that were read.
        face_index: which face of a picture was asked for; None = the largest.
    """

    name: str
    faces: tuple[ReferenceFace, ...]
    notes: tuple[str, ...]
    sources: tuple[Path, ...]
    files: tuple[Path, ...]
    face_index: int | None

    def small_faces(self, small_px: int) -> list[str]:
        """Which faces an encoder has to magnify, in words.

        Args:
            small_px: smaller ones are told.
        """
        return [
            f"{face.source}: the face is small ({face.natural_px} pixels, better {small_px} and more)"
            for face in self.faces
            if face.natural_px < small_px
        ]


def read_person(sources: Sequence[Path], engine: FaceEngine, options: ReferenceOptions) -> ReferencePerson:
    """Find the person's face in everything that is given.

    Pictures without a face are left out and told, as long as there is one with a face. Of three faces and more
    those that are unlike the others are left out and told.

    Args:
        sources: photos, folders of photos, videos; all of one person.
        engine: finds and compares faces.
        options: see there.

    Raises:
        IdanimError: a file is missing or can't be read, or no face is found; the text says what to do.
    """
    files = tuple(file for source in sources for file in _files(source))
    found: list[ReferenceFace] = []
    faceless: list[str] = []
    for file in files:
        for name, rgb in _told_pictures(file, options.video_frames):
            face = _face(name, rgb, engine, options)
            if face is None:
                faceless.append(name)
            else:
                found.append(face)
    if not found:
        advice = ", and for real people faces=insightface" if knows_toys_only(engine) else ""
        raise IdanimError(
            f"{engine.name} finds no face in {', '.join(faceless)}; use a photo that shows it larger or from the "
            f"front{advice}"
        )
    notes = [f"{', '.join(faceless)}: no face found, left out"] if faceless else []
    faces, about_likeness = _alike(found, options.keep_outliers)
    notes += [note for face in faces for note in face.notes] + about_likeness
    name = sources[0].name if sources[0].is_dir() else person_of(sources[0])
    return ReferencePerson(name, tuple(faces), tuple(notes), tuple(sources), files, options.face_index)


def knows_toys_only(engine: FaceEngine) -> bool:
    """Whether a face engine is that of the toy world, made for drawn people."""
    return engine.name.startswith("toy/")


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise IdanimError(f"reference={str(source)!r}: there is no such file or folder")
    endings = (*MORE_PICTURE_ENDINGS, *VIDEO_ENDINGS)
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in endings)
    if not files:
        raise IdanimError(f"reference={str(source)!r}: no photo and no video in this folder ({', '.join(endings)})")
    return files


def _told_pictures(file: Path, num_frames: int) -> list[tuple[str, UInt8Array]]:
    """Pictures by name; what is wrong with a file names the key that it was given by."""
    try:
        return _pictures(file, num_frames)
    except IdanimError as error:
        raise IdanimError(f"reference={error}") from error  # whose text begins with the path


def _pictures(file: Path, num_frames: int) -> list[tuple[str, UInt8Array]]:
    if file.suffix.lower() not in VIDEO_ENDINGS:
        return [(file.name, decode_picture(file.read_bytes(), str(file)))]
    with VideoReader(file) as reader:
        length = reader.info.num_frames or 1
    indices = sorted({round(i) for i in np.linspace(0, max(0, length - 2), num_frames)})
    try:
        frames = read_frames(file, indices)
    except IdanimError:  # the header promised more frames than there are
        frames = read_frames(file)
        indices = list(range(0, len(frames), max(1, length // num_frames)))[:num_frames]
        frames = frames[indices]
    return [(f"{file.name}, frame {index}", rgb) for index, rgb in zip(indices, frames, strict=True)]


def _face(name: str, rgb: UInt8Array, engine: FaceEngine, options: ReferenceOptions) -> ReferenceFace | None:
    faces = engine.detect(rgb)
    if not faces:
        return None
    index = options.face_index or 0
    if not 0 <= index < len(faces):
        raise IdanimError(f"face_index={index}: {name} shows {len(faces)} faces, which are 0 to {len(faces) - 1}")
    face = faces[index]
    notes = []
    rivals = [f for f in faces if f is not face and f.width_px >= SIDE_FACE_SHARE * face.width_px]
    if rivals and options.face_index is None:
        notes.append(f"{name}: {len(rivals) + 1} faces of similar size, the largest is taken; another: face_index=1")
    sharpness = blur(rgb, face.landmarks)
    if sharpness < BLURRED:
        notes.append(f"{name}: the face is blurred (sharpness {sharpness:.0f}, better {BLURRED:.0f} and more)")
    yaw, _pitch = head_pose_deg(face.landmarks)
    if abs(yaw) > PROFILE_DEG:
        notes.append(f"{name}: the head is turned by {abs(yaw):.0f}°; a view from the front carries more")
    crop = aligned_crop(rgb, face.landmarks, options.size_px)
    return ReferenceFace(name, crop, engine.embed(rgb, face), natural_size_px(face.landmarks), tuple(notes))


def _alike(faces: Sequence[ReferenceFace], keep_outliers: bool) -> tuple[list[ReferenceFace], list[str]]:
    """The faces that look like one person, and what to say of the others."""
    if len(faces) == 2:
        similarity = float(faces[0].vector @ faces[1].vector)
        both = f"{faces[0].source} and {faces[1].source}"
        doubt = f"{both} look unlike each other (similarity {similarity:.2f}): do they show the same person?"
        return list(faces), [doubt] if similarity < UNLIKE else []
    odd = outliers(np.stack([face.vector for face in faces]))
    notes = []
    for index, similarity in odd.items():
        name = faces[index].source
        what = "used all the same" if keep_outliers else "left out (keep_outliers=true uses it)"
        notes.append(f"{name}: unlike the other pictures (similarity {similarity:.2f}), {what}")
    used = faces if keep_outliers else [face for index, face in enumerate(faces) if index not in odd]
    return list(used), notes


def outliers(vectors: FloatArray) -> dict[int, float]:
    """Which of three and more face vectors [K, D] of one person seem to be of somebody else.

    A vector's likeness is the upper median of its similarities to the others; an outlier has less than half of
    what the vectors have in the middle.

    Returns:
        Index of each outlier → its likeness.
    """
    if len(vectors) < 3:
        return {}
    similarities = vectors @ vectors.T
    likeness = [statistics.median_high(np.delete(row, i).tolist()) for i, row in enumerate(similarities)]
    middle = statistics.median(likeness)
    return {i: value for i, value in enumerate(likeness) if value < 0.5 * middle}
