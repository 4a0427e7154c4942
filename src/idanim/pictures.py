"""Still pictures: JPEG and PNG bytes ↔ [H, W, 3] uint8 RGB."""

from __future__ import annotations

import io
import struct
import warnings
from functools import cache

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from idanim.types import IdanimError, UInt8Array

MAX_PIXELS = 150_000_000
"""Larger pictures are refused; Pillow itself refuses those above 178 million."""

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
"""What is read. Pillow knows more: for PostScript it would start another program, whose language can do anything."""


def decode_picture(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decode a picture of any common format to [H, W, 3] uint8 RGB, turned as its EXIF data says.

    Where it is transparent it is white; 16-bit grey is scaled to 8 bits.

    Args:
        content: the file's bytes.
        name: what to call it in an error.
        max_pixels: larger ones are refused, before anything is decoded.

    Raises:
        IdanimError: not a picture of one of `FORMATS`, damaged, or absurdly large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is our own limit
            image = Image.open(io.BytesIO(content), formats=_known_formats())
        with image:
            if image.width * image.height > max_pixels or not image.width or not image.height:
                size = f"{image.width} × {image.height}"
                raise IdanimError(f"{name}: {size} pixels, at least one and at most {max_pixels:,} are read")
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except IdanimError:
        raise
    except UnidentifiedImageError as error:  # whose own text names an object in memory
        known = ", ".join(_known_formats())
        raise IdanimError(f"{name}: not a readable picture: none of the formats {known}, or damaged") from error
    # What Pillow's readers of damaged files are known to raise; the last ones by their arithmetic on wrong sizes.
    except (
        OSError,
        SyntaxError,
        Image.DecompressionBombError,
        struct.error,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        MemoryError,
        AttributeError,
    ) as error:
        raise IdanimError(f"{name}: not a readable picture ({error})") from error


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF is not in every build


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip every value above 255
        return Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I":
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def encode_png(rgb: UInt8Array, comment: str = "") -> bytes:
    """Encode [H, W, 3] uint8 RGB, with a text stored in the file."""
    buffer, info = io.BytesIO(), PngInfo()
    if comment:
        info.add_itxt("Description", comment)
    Image.fromarray(rgb).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


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


def fitted(rgb: UInt8Array, height: int, width: int) -> UInt8Array:
    """Scale (bicubic) and cut the centre so that the result has exactly this size: [height, width, 3] uint8."""
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.array(ImageOps.fit(Image.fromarray(rgb), (width, height), Image.Resampling.BICUBIC))
