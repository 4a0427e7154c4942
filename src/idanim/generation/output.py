"""Files of a generated video, each of which says that it is generated and with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from idanim.files import write_bytes
from idanim.pictures import encode_png
from idanim.types import GeneratedClip, IdanimError
from idanim.video_encoding import encode_gif, encode_mp4, encode_webp

FORMATS = ("gif", "webp", "png")
"""What can be written beside the mp4; png is a folder of frames."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""The IPTC's word for media made by a trained model."""


def provenance(made_by: str) -> str:
    """The statement that every file carries."""
    return f"AI-generated, not a recording. {made_by}. Digital source type: {SOURCE_TYPE}"


def check_formats(formats: Sequence[str]) -> None:
    """Refuse unknown formats.

    Raises:
        IdanimError: one that is not in `FORMATS`.
    """
    unknown = sorted(set(formats) - {*FORMATS, "mp4"})
    if unknown:
        raise IdanimError(f"formats={list(formats)}: there is no {', '.join(unknown)}; expected {', '.join(FORMATS)}")


def mp4_bytes(clip: GeneratedClip, statement: str) -> bytes:
    """The video as mp4 with the statement in its metadata; the same bytes for the same frames."""
    return encode_mp4(clip.frames, clip.fps, tags={"comment": statement, "description": statement})


def has_formats(path: Path, formats: Sequence[str]) -> bool:
    """Whether the files of `formats` are there, beside the mp4 at `path`."""
    places = {"gif": path.with_suffix(".gif"), "webp": path.with_suffix(".webp"), "png": path.with_suffix("")}
    return all(place.exists() for name, place in places.items() if name in formats)


def write_formats(path: Path, clip: GeneratedClip, formats: Sequence[str], statement: str) -> None:
    """Write what is asked for beside an mp4.

    Args:
        path: of the mp4, which is not written here.
        clip: the video.
        formats: some of `FORMATS`.
        statement: see `provenance`.
    """
    if "gif" in formats:
        write_bytes(path.with_suffix(".gif"), encode_gif(clip.frames, clip.fps, statement))
    if "webp" in formats:
        write_bytes(path.with_suffix(".webp"), encode_webp(clip.frames, clip.fps, statement))
    if "png" in formats:
        for number, rgb in enumerate(clip.frames):
            write_bytes(path.with_suffix("") / f"{number:04d}.png", encode_png(rgb, statement))
