"""Still pictures: JPEG and PNG bytes ↔ [H, W, 3] uint8 RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from idanim.types import IdanimError, UInt8Array

MAX_PIXELS = 200_000_000


def decode_picture(content: bytes, name: str) -> UInt8Array:
    """Decode a picture of any common format to [H, W, 3] uint8 RGB, turned as its EXIF data says.

    Args:
        content: the file's bytes.
        name: what to call it in an error.

    Raises:
        IdanimError: not a picture, damaged, or absurdly large.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise IdanimError(f"{name}: {image.width} × {image.height} pixels, at most {MAX_PIXELS:,} are read")
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise IdanimError(f"{name}: not a readable picture ({error})") from error


def encode_jpeg(rgb: UInt8Array, quality: int = 95) -> bytes:
    """Encode [H, W, 3] uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def square(rgb: UInt8Array, size: int) -> UInt8Array:
    """Resize the shorter side to `size` (bicubic) and cut the centre, as CLIP's own preprocessing does.

    Args:
        rgb: [H, W, 3] uint8.
        size: side of the result in pixels.

    Returns:
        [size, size, 3] uint8.
    """
    height, width = rgb.shape[:2]
    if height == width == size:
        return rgb
    short = min(height, width)
    scaled = (int(size * height / short), int(size * width / short))
    image = Image.fromarray(rgb).resize((scaled[1], scaled[0]), Image.Resampling.BICUBIC)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))
