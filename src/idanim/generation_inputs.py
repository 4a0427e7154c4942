"""What a generation is given: adapter file, photos, pictures that control. Read before the large models load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from idanim.config import built_or_plain
from idanim.faces.engine import FaceEngine
from idanim.models.required_files import require_ckpt
from idanim.pictures import decode_picture
from idanim.reference_faces import ReferenceOptions, ReferencePerson, read_person
from idanim.types import IdanimError, UInt8Array


def existing_ckpt(config: Mapping[str, Any]) -> Path:
    """The adapter file of a configuration of `conf/generate.yaml`.

    Raises:
        IdanimError: it is not there.
    """
    return require_ckpt(Path(built_or_plain(config["ckpt"])).expanduser())


def find_person(
    sources: Sequence[str | Path], engine: FaceEngine, config: Mapping[str, Any], face_index: int | None = None
) -> ReferencePerson:
    """Find a person's faces; takes no models but the face engine, so that a bad photo is told before they load.

    Args:
        sources: photos, folders of photos, videos.
        engine: finds and compares faces.
        config: of `conf/generate.yaml`.
        face_index: which face of a picture, by falling size; None = the largest.

    Raises:
        IdanimError: a file is missing or can't be read, or no face is found.
    """
    options = ReferenceOptions(config["reference_size_px"], face_index, keep_outliers=config["keep_outliers"])
    return read_person([Path(source).expanduser() for source in sources], engine, options)


def control_images(control: Mapping[str, Any]) -> list[str]:
    """The pictures that a node of the config group `control` names."""
    return control["images"] if isinstance(control["images"], list) else [control["images"]]


def read_control_images(images: Iterable[str | Path]) -> list[tuple[Path, UInt8Array]]:
    """Paths with their pictures, each [H, W, 3] uint8.

    Raises:
        IdanimError: a file is missing, or is no picture.
    """
    paths = [Path(image).expanduser() for image in images]
    for path in paths:
        if not path.is_file():
            raise IdanimError(f"control.images={str(path)!r}: there is no such file")
    return [(path, decode_picture(path.read_bytes(), f"control.images={path}")) for path in paths]
