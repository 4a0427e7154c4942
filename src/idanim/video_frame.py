"""One decoded frame of a video as pixels that can be shown: upright, with square pixels, without interlacing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from PIL import Image

from idanim.types import UInt8Array
from idanim.video_part import ShareBox

_QUICK_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")


@dataclass(frozen=True)
class DecodedFrame:
    """A frame whose pixels are converted only when they are asked for.

    Attributes:
        index: place in display order, counted from the first frame that was read.
        time_s: time stamp, counted from the start of the video's stream.
        raw: as the decoder gave it.
        pixel_shape: width of a stored pixel by its height.
        box: the part of the picture that is read; all of it by default.
    """

    index: int
    time_s: float
    raw: av.VideoFrame
    pixel_shape: Fraction = Fraction(1)
    box: ShareBox | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as shown."""
        width, height = self._square_width, self.raw.height
        if _quarter_turns(self.raw) % 2:
            width, height = height, width
        left, top, right, bottom = _pixels(self.box, width, height)
        return right - left, bottom - top

    def rgb(self) -> UInt8Array:
        """[H, W, 3] uint8 RGB, at the resolution of the file."""
        return self._upright(self._square_width, self.raw.height, None)

    def small(self, longest_px: int) -> UInt8Array:
        """The frame shrunk by averaging, [h, w, 3] uint8 RGB; cheap, since the decoder's own format is shrunk.

        Args:
            longest_px: pixels of the longer side of the whole picture.
        """
        width, height = self._square_width, self.raw.height
        scale = min(1.0, longest_px / max(width, height))
        return self._upright(max(2, round(width * scale)), max(2, round(height * scale)), "AREA")

    def square(self, box: tuple[int, int, int, int], size: int) -> UInt8Array:
        """A square of the picture, shrunk or enlarged by bicubic filters that fit the scale.

        Args:
            box: (left, top, right, bottom) in pixels of `rgb`, a square within it.
            size: side of the result in pixels.

        Returns:
            [size, size, 3] uint8 RGB. Where the box falls between its pixels, it is off by up to half a pixel.
        """
        side = box[2] - box[0]
        if self.raw.format.name not in _QUICK_FORMATS or max(self._square_width, self.raw.height) > 4 * side:
            picture = Image.fromarray(self.rgb()).resize((size, size), Image.Resampling.BICUBIC, box=box)
            return np.asarray(picture)
        # Else the whole picture is scaled in the decoder's own format, in a fifth of the time.
        width, height = (max(size, round(px * size / side)) for px in (self._square_width, self.raw.height))
        scaled = self.raw.reformat(width, height, self.raw.format.name, interpolation="BICUBIC", threads=1)
        rgb: UInt8Array = scaled.reformat(format="rgb24", threads=1).to_ndarray().astype(np.uint8, copy=False)
        rgb = np.rot90(rgb, _quarter_turns(self.raw))
        left, top = self._corner
        x = min(round((left + box[0]) * size / side), rgb.shape[1] - size)
        y = min(round((top + box[1]) * size / side), rgb.shape[0] - size)
        return np.ascontiguousarray(rgb[y : y + size, x : x + size])

    @property
    def _corner(self) -> tuple[int, int]:
        """Left and top of the part that is read, in pixels of the whole upright picture."""
        width, height = self._square_width, self.raw.height
        if _quarter_turns(self.raw) % 2:
            width, height = height, width
        return _pixels(self.box, width, height)[:2]

    @property
    def _square_width(self) -> int:
        return max(2, round(self.raw.width * self.pixel_shape))

    def _upright(self, width: int, height: int, interpolation: str | None) -> UInt8Array:
        # One thread: with more, libswscale keeps a pool that hangs when a forked loader process frees it.
        scaled = self.raw.reformat(width, height, "rgb24", interpolation=interpolation, threads=1)
        rgb: UInt8Array = scaled.to_ndarray().astype(np.uint8, copy=False)
        rgb = np.rot90(rgb, _quarter_turns(self.raw))
        left, top, right, bottom = _pixels(self.box, rgb.shape[1], rgb.shape[0])
        return np.ascontiguousarray(rgb[top:bottom, left:right])


def pixel_shape(stream: av.VideoStream) -> Fraction:
    """Width of a stored pixel by its height; shapes beyond 4 : 1 are taken for a broken header."""
    shape = stream.sample_aspect_ratio or Fraction(1)
    return Fraction(shape) if Fraction(1, 4) <= shape <= 4 else Fraction(1)


def progressive(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames as they come; those of an interlaced video with its two half-pictures made one (filter bwdif).

    Whether a video is interlaced is told by its first frame.
    """
    graph: av.filter.Graph | None = None
    for number, frame in enumerate(frames):
        if number == 0 and frame.interlaced_frame:
            graph = _deinterlacer(stream)
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _deinterlacer(stream: av.VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    nodes = (graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame"), graph.add("buffersink"))
    for node, following in pairwise(nodes):
        node.link_to(following)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # wants the next frame first, or is done
            return
        assert isinstance(frame, av.VideoFrame)
        yield frame


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4  # counter-clockwise, like np.rot90


def _pixels(box: ShareBox | None, width: int, height: int) -> tuple[int, int, int, int]:
    if box is None:
        return 0, 0, width, height
    left, right = (min(max(round(v * width), 0), width) for v in (box[0], box[2]))
    top, bottom = (min(max(round(v * height), 0), height) for v in (box[1], box[3]))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)
