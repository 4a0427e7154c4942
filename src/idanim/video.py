"""Reading video files, and pixel ranges; `video_encoding` writes them.

Frames on the outside of the program are uint8 arrays [F, H, W, 3] RGB; inside the models they are float
tensors [F, 3, H, W] in [-1, 1]. `to_float` and `to_uint8` are the only places that map one to the other.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from idanim.types import IdanimError, UInt8Array
from idanim.video_frame import DecodedFrame, pixel_shape, progressive
from idanim.video_part import WHOLE, Part, VideoInfo

Source = Path | str | bytes
"""A video file, or the content of one."""

MIN_FPS, MAX_FPS = 0.1, 1000.0
"""Frame rates outside are a broken header."""

MAX_FRAME_PIXELS = 70_000_000
"""Of one frame; 8K has 33 million. A header may ask for any size, whatever the file holds."""

MAX_ARRAY_BYTES = 8 * 2**30
"""Of all frames that are wanted in memory at once."""

FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,mpegts,ogg,flv,asf,gif,webp_pipe,ivf,h264,hevc,m4v,mjpeg"
"""FFmpeg's names. Of the others some read what a file names (playlists, lists of files, descriptions of streams)."""

TIME_TOLERANCE_S = 1e-3
"""Time stamps are rounded to the container's clock."""

# What mp4 and mov, avi, mkv and webm, mpg, ogg files have in their first bytes.
_CONTAINER_MARKS = (b"ftyp", b"moov", b"mdat", b"RIFF", b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"OggS")


class UnusableVideoError(IdanimError):
    """A video that can't be used, for a reason with a name.

    Attributes:
        reason: its name.
        measured: a number that shows it, where there is one.
        threshold: what that number should have been.
    """

    def __init__(self, reason: str, text: str, measured: float | None = None, threshold: float | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.measured = measured
        self.threshold = threshold


class UnreadableVideoError(UnusableVideoError):
    """A video that can't be read.

    The reason: one of "file_not_readable", "empty_file", "not_a_video", "truncated", "no_video_stream",
    "no_frames", "corrupt", "too_large".
    """


def to_float(frames: UInt8Array | Tensor) -> Tensor:
    """uint8 pixels to the models' range.

    Args:
        frames: [..., H, W, 3] uint8.

    Returns:
        [..., 3, H, W] float32 in [-1, 1]; 0 becomes -1 and 255 becomes 1.
    """
    pixels = torch.as_tensor(frames)
    if pixels.dtype != torch.uint8 or pixels.shape[-1] != 3:
        raise ValueError(f"expected uint8 [..., H, W, 3], got {pixels.dtype} {tuple(pixels.shape)}")
    return pixels.movedim(-1, -3).float().div_(127.5).sub_(1.0)


def to_uint8(pixels: Tensor) -> UInt8Array:
    """The models' range back to uint8 pixels; values outside [-1, 1] are clipped.

    Args:
        pixels: [..., 3, H, W] float of any precision.

    Returns:
        [..., H, W, 3] uint8 array on the CPU.

    Raises:
        UnusableVideoError: "not_a_number" where a value is NaN, which no pixel can show.
    """
    if not pixels.is_floating_point() or pixels.ndim < 3 or pixels.shape[-3] != 3:
        raise ValueError(f"expected float [..., 3, H, W], got {pixels.dtype} {tuple(pixels.shape)}")
    num_nan = int(pixels.isnan().sum())
    if num_nan:
        text = f"{num_nan} of {pixels.numel()} pixel values are not numbers; a type of higher precision may help"
        raise UnusableVideoError("not_a_number", text, num_nan, 0)
    levels = pixels.detach().float().clamp(-1.0, 1.0).add(1.0).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy())


# --------------------------------------------------------------------------------------------- reading


class VideoReader:
    """Reads frames of one video, or of a part of it, in order, decoding each at most once.

    A frame's index is its place in display order within the part, whatever its time stamp, so that a variable frame
    rate needs no special care. Where the part begins late, the reader jumps to the key frame before it. Rotation,
    non-square pixels and interlacing are resolved. Use it as a context manager.

    Attributes:
        info: what the file says of itself; size and length are those of the part.
        first_s: time stamp of the part's first frame.
        num_decoded: frames decoded so far; after reading to the end, the length of the part.
        num_damaged: those of them that the decoder could not restore without errors.

    Args:
        source: a file or its content.
        threads: decoder threads.
        part: what to read of it.

    Raises:
        UnreadableVideoError: see its `reason`.
    """

    def __init__(self, source: Source, threads: int = 1, part: Part = WHOLE) -> None:
        self._name = "video" if isinstance(source, bytes) else str(source)
        self._container = _open(source, self._name)
        self._part = part
        self.num_decoded = self.num_damaged = 0
        self._num_packets = 0
        self._has_jumped = False
        self._last_s = 0.0
        with ExitStack() as on_error:
            on_error.callback(self._container.close)
            if not self._container.streams.video:
                raise UnreadableVideoError("no_video_stream", f"{self._name}: has no picture, only sound or data")
            self._stream = self._container.streams.video[0]
            self._refuse_huge_frames(self._stream.codec_context)
            self._stream.thread_count = threads
            self._rate = _frame_rate(self._stream)
            self._pixel_shape = pixel_shape(self._stream)
            self._frames = self._frames_of_part()
            self._first = next(self._frames, None)
            if self._first is None:
                where = f" from {part.start_s:g} s" if part.start_s else ""
                raise UnreadableVideoError("no_frames", f"{self._name}: no frame can be decoded{where}", 0, 1)
            self.first_s = self._last_s = self._first.time_s
            self.info = self._describe(self._first)
            on_error.pop_all()

    def _refuse_huge_frames(self, size: Any) -> None:
        """Of a codec or of a frame, which may change its size midway."""
        width, height = size.width or 0, size.height or 0
        if width * height > MAX_FRAME_PIXELS:
            text = f"{self._name}: frames of {width} × {height} pixels, at most {MAX_FRAME_PIXELS:,} are read"
            raise UnreadableVideoError("too_large", text, width * height, MAX_FRAME_PIXELS)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _describe(self, first: DecodedFrame) -> VideoInfo:
        stream = self._stream
        seconds = 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        num_frames = stream.frames or round(seconds * self._rate)
        if num_frames and (self._part.start_s or self._part.end_s is not None):
            whole_s = float(num_frames / self._rate)
            end_s = whole_s if self._part.end_s is None else min(self._part.end_s, whole_s)
            num_frames = max(0, round((end_s - self._part.start_s) * self._rate))
        return VideoInfo(*first.size, float(self._rate), num_frames)

    def _frames_of_part(self) -> Iterator[DecodedFrame]:
        """The part's frames; if jumping to its start leads behind it, all frames before it are decoded instead."""
        start_s, end_s = self._part.start_s - TIME_TOLERANCE_S, self._part.end_s
        frames = self._decode()
        if self._part.start_s > 0 and self._jump(self._part.start_s):
            first = next(frames, None)
            if first is None or first.pts is None or self._time_s(first, 0) > start_s + 1.5 / self._rate:
                frames = self._decode() if self._jump(0.0) else iter(())
            else:
                frames = itertools.chain([first], frames)
        index = 0
        for number, frame in enumerate(frames):
            time_s = self._time_s(frame, number)
            if end_s is not None and time_s >= end_s - TIME_TOLERANCE_S:
                return
            if time_s >= start_s:
                yield DecodedFrame(index, time_s, frame, self._pixel_shape, self._part.box)
                index += 1

    def _jump(self, time_s: float) -> bool:
        stream = self._stream
        try:
            time_base = stream.time_base or Fraction(1, av.time_base)
            self._container.seek(round(Fraction(time_s) / time_base) + (stream.start_time or 0), stream=stream)
        except (av.FFmpegError, OSError, OverflowError):
            return False
        self._has_jumped = True
        return True

    def _time_s(self, frame: av.VideoFrame, number: int) -> float:
        if frame.pts is None:
            return float(number / self._rate)
        stream = self._stream
        start_s = stream.start_time * stream.time_base if stream.start_time and stream.time_base else 0
        return float(frame.time - start_s)

    def _decode(self) -> Iterator[av.VideoFrame]:
        return progressive(self._decode_raw(), self._stream)

    def _decode_raw(self) -> Iterator[av.VideoFrame]:
        cut_short = False
        try:
            for packet in self._container.demux(self._stream):
                cut_short = packet.is_corrupt  # the file ended inside the packet
                self._num_packets += packet.size > 0
                for frame in packet.decode():
                    self._refuse_huge_frames(frame)
                    yield frame
        except av.FFmpegError as error:
            reason = "truncated" if cut_short else "corrupt"
            text = f"{self._name}: decoding stopped after {self.num_decoded} frames ({error.strerror})"
            raise UnreadableVideoError(reason, text, self.num_decoded, self._stream.frames or None) from error
        if not self._has_jumped and not self._is_whole():
            text = f"{self._name}: ends after {self._num_packets} of {self._stream.frames} frames"
            raise UnreadableVideoError("truncated", text, self._num_packets, self._stream.frames)

    def _is_whole(self) -> bool:
        # Packets, not frames: an edit list may hide frames of a whole file. 2 % for counts that lie a little.
        return self._num_packets >= 0.98 * self._stream.frames - 1

    @property
    def fps(self) -> float:
        """Frames per second by the time stamps read so far where they differ from the file's own word by over 1 %."""
        if self._last_s <= self.first_s:
            return self.info.fps
        measured = (self.num_decoded - 1) / (self._last_s - self.first_s)
        is_plausible = MIN_FPS <= measured <= MAX_FPS  # broken time stamps make any number
        return measured if is_plausible and abs(measured / self.info.fps - 1) >= 0.01 else self.info.fps

    def frames(self) -> Iterator[DecodedFrame]:
        """Yield every frame; pixels are converted only where they are asked for. A reader can be read once.

        Raises:
            UnreadableVideoError: decoding failed midway, or the file ends before it should.
        """
        frame, self._first = self._first, None
        while frame is not None:
            self.num_decoded += 1
            self.num_damaged += frame.raw.is_corrupt
            self._last_s = frame.time_s
            yield frame
            frame = next(self._frames, None)

    def read(self, indices: Iterable[int] | None = None) -> Iterator[tuple[int, UInt8Array]]:
        """Yield (index, [H, W, 3] uint8 RGB) of the wanted frames. A reader can be read once.

        Args:
            indices: rising frame indices, possibly without end (`itertools.count(0, 5)`); all by default.
                Only wanted frames are converted to RGB, and reading stops behind the last one.

        Raises:
            UnreadableVideoError: decoding failed midway, or the file ends before it should.
        """
        wanted = iter(indices) if indices is not None else itertools.count()
        target = next(wanted, None)
        if target is None:
            return
        for frame in self.frames():
            if frame.index == target:
                yield frame.index, frame.rgb()
                target = next(wanted, None)
                if target is None:
                    return


def _frame_rate(stream: av.VideoStream) -> Fraction:
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((rate for rate in rates if rate and MIN_FPS <= rate <= MAX_FPS), Fraction(25))  # else a broken header


def _open(source: Source, name: str) -> av.container.InputContainer:
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        # A title in another encoding is no reason to fail.
        return av.open(file, mode="r", metadata_errors="replace", options={"format_whitelist": FORMATS})
    except av.ArgumentError as error:
        raise UnreadableVideoError("not_a_video", f"{name}: none of the formats that are read ({FORMATS})") from error
    except OSError as error:
        raise UnreadableVideoError("file_not_readable", f"{name}: {error.strerror}") from error
    except av.FFmpegError as error:
        head = source[:64] if isinstance(source, bytes) else _head(Path(source))
        if not head:
            raise UnreadableVideoError("empty_file", f"{name}: the file is empty", 0, 1) from error
        if any(mark in head for mark in _CONTAINER_MARKS):
            text = f"{name}: the file begins as a video and breaks off before it can be read"
            raise UnreadableVideoError("truncated", text) from error
        raise UnreadableVideoError("not_a_video", f"{name}: not a video file") from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def decode(source: Source, indices: Iterable[int] | None = None) -> Iterator[tuple[int, UInt8Array]]:
    """Yield (index, [H, W, 3] uint8 RGB) of the wanted frames; see `VideoReader.read`.

    Raises:
        UnreadableVideoError: see its `reason`.
    """
    with VideoReader(source) as reader:
        yield from reader.read(indices)


def read_frames(source: Source, indices: Iterable[int] | None = None) -> UInt8Array:
    """The wanted frames as one array [F, H, W, 3] uint8 RGB.

    Args:
        source: a file or its content.
        indices: rising frame indices, all of them by default.

    Raises:
        UnreadableVideoError: see its `reason`; "too_large" where they would not fit into memory, "no_frames" when a
            wanted index lies behind the end.
    """
    wanted = None if indices is None else list(indices)
    frames, num_bytes = [], 0
    for _, rgb in decode(source, wanted):
        frames.append(rgb)
        num_bytes += rgb.nbytes
        if num_bytes > MAX_ARRAY_BYTES:
            text = f"{len(frames)} frames need more than the {MAX_ARRAY_BYTES:,} bytes that are read at once"
            raise UnreadableVideoError("too_large", text, num_bytes, MAX_ARRAY_BYTES)
    if not frames or (wanted is not None and len(frames) < len(wanted)):
        expected = "any" if wanted is None else str(len(wanted))
        name = "video" if isinstance(source, bytes) else str(source)
        text = f"{name}: {len(frames)} of the wanted frames ({expected}) are there"
        raise UnreadableVideoError("no_frames", text, len(frames), None if wanted is None else len(wanted))
    return np.stack(frames)
