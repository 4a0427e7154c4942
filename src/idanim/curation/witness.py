"""What the face engine was shown, kept small: pictures of a rejected video without decoding it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from idanim.faces.engine import FaceEngine
from idanim.pictures import encode_jpeg
from idanim.types import Face, FloatArray, UInt8Array

HEIGHT_PX = 108
NUM_SHOWN = 4
_BOX_COLOUR = (255, 220, 0)


class Witness:
    """A face engine that remembers a few of the frames it is asked about, evenly spread, in bounded memory.

    Args:
        engine: does the work.
    """

    def __init__(self, engine: FaceEngine) -> None:
        self._engine = engine
        self._kept: list[Image.Image] = []
        self._step = 1
        self._num_seen = 0

    @property
    def name(self) -> str:
        """The engine's own name."""
        return self._engine.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The engine's own weights."""
        return self._engine.files

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """The engine's faces on [H, W, 3] uint8; every so often a small picture is kept, with their boxes."""
        faces = self._engine.detect(rgb)
        if self._num_seen % self._step == 0:
            self._kept.append(_small(rgb, faces))
            if len(self._kept) == 2 * NUM_SHOWN:
                del self._kept[1::2]
                self._step *= 2
        self._num_seen += 1
        return faces

    def embed(self, rgb: UInt8Array, face: Face) -> FloatArray:
        """The engine's vector of a face."""
        return self._engine.embed(rgb, face)

    def picture(self) -> bytes | None:
        """At most `NUM_SHOWN` frames side by side as JPEG; None when no frame was seen."""
        if not self._kept:
            return None
        places = np.linspace(0, len(self._kept) - 1, min(NUM_SHOWN, len(self._kept))).round().astype(int)
        return encode_jpeg(np.concatenate([np.asarray(self._kept[i]) for i in places], axis=1), quality=75)


def _small(rgb: UInt8Array, faces: list[Face]) -> Image.Image:
    height, width = rgb.shape[:2]
    scale = HEIGHT_PX / height
    size = (int(np.clip(round(width * scale), 1, 3 * HEIGHT_PX)), HEIGHT_PX)
    image = Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)
    draw = ImageDraw.Draw(image)
    for face in faces:
        left, top, right, bottom = (v * size[i % 2] / (width, height)[i % 2] for i, v in enumerate(face.box))
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=_BOX_COLOUR)
    return image
