"""Frames [F, H, W, 3] uint8 RGB → the bytes of video files: mp4, GIF, WebP."""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image

from idanim.types import UInt8Array

GOP_FRAMES = 12
"""Frames between key frames: reading at random from short groups is twice as fast as from long ones."""

_EXIF_DESCRIPTION = 0x010E


def encode_mp4(
    frames: UInt8Array,
    fps: float,
    crf: int = 17,
    preset: str = "medium",
    tags: Mapping[str, str] | None = None,
) -> bytes:
    """Encode an h264 mp4: yuv420p, short groups of pictures, index in front, the same bytes every time.

    The file says which colours its numbers mean (matrix of BT.601, primaries and transfer of BT.709), so that
    players need not guess.

    Args:
        frames: [F, H, W, 3] uint8 RGB; H and W even, because colour is stored at half resolution.
        fps: frames per second.
        crf: x264's constant rate factor; lower is better and larger.
        preset: x264's trade of time for size.
        tags: metadata of the file, for instance {"comment": text}.

    Raises:
        ValueError: frames of another shape or type, none at all, or odd sizes.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"expected uint8 [F ≥ 1, H, W, 3], got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or not height or not width:
        raise ValueError(f"h264 wants even sizes, got {width} × {height}; crop or resize first")
    stream = io.BytesIO()
    tags = dict(tags or {})
    tags_size = sum(64 + len(text.encode()) for text in tags.values())
    # Room for the index is kept in front: players can start at once, and nothing is written twice.
    options = {"moov_size": str(2048 + 32 * len(frames) + tags_size), "fflags": "+bitexact"}
    with av.open(stream, "w", format="mp4", options=options) as container:
        container.metadata.update(tags)
        rate = Fraction(fps).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "preset": preset, "threads": "1"})
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, "yuv420p", GOP_FRAMES
        codec = video.codec_context
        codec.colorspace, codec.color_range = Colorspace.smpte170m, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p", threads=1)))  # see DecodedFrame
        container.mux(video.encode(None))
    return stream.getvalue()


def encode_gif(frames: UInt8Array, fps: float, comment: str = "") -> bytes:
    """Encode an endless GIF, at most 256 colours a frame; its clock ticks in hundredths of a second.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
        fps: frames per second.
        comment: text stored in the file.
    """
    duration_ms = max(20, 10 * round(100 / fps))
    return _animation(frames, "GIF", duration_ms, **({"comment": comment.encode()} if comment else {}))


def encode_webp(frames: UInt8Array, fps: float, comment: str = "") -> bytes:
    """Encode an endless WebP animation in full colour.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
        fps: frames per second.
        comment: text stored in the file, as the description of its EXIF data.
    """
    exif = Image.Exif()
    if comment:
        exif[_EXIF_DESCRIPTION] = comment
    return _animation(frames, "WEBP", round(1000 / fps), quality=90, exif=exif.tobytes())


def _animation(frames: UInt8Array, kind: str, duration_ms: int, **options: Any) -> bytes:
    stream = io.BytesIO()
    first, *others = (Image.fromarray(rgb) for rgb in frames)
    first.save(stream, kind, save_all=True, append_images=others, duration=duration_ms, loop=0, **options)
    return stream.getvalue()
