"""Video files and pixel ranges.

Frames on the outside of the program are uint8 arrays [F, H, W, 3] RGB; inside the models they are float
tensors [F, 3, H, W] in [-1, 1]. `to_float` and `to_uint8` are the only places that map one to the other.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idanim.types import IdanimError, UInt8Array

Source = Path | str | bytes
"""A video file, or the content of one."""

GOP_FRAMES = 12
"""Frames between key frames: reading at random from short groups is twice as fast as from long ones."""

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
    "no_frames", "corrupt".
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
    return pixels.movedim(-1, -3).float().div(127.5).sub(1.0)


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


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself.

    Attributes:
        width: pixels as shown, that is after rotation.
        height: pixels as shown.
        fps: average frames per second.
        num_frames: frames promised by the container, or estimated from its duration; 0 when unknown.
    """

    width: int
    height: int
    fps: float
    num_frames: int


class VideoReader:
    """Reads frames of one video in order, decoding each at most once.

    A frame's index is its place in display order, whatever its time stamp, so that a variable frame rate
    needs no special care. Rotation metadata is applied. Use it as a context manager.

    Attributes:
        info: what the file says of itself.
        num_decoded: frames decoded so far; after reading to the end, the length of the video.

    Args:
        source: a file or its content.
        threads: decoder threads.

    Raises:
        UnreadableVideoError: see its `reason`.
    """

    def __init__(self, source: Source, threads: int = 1) -> None:
        self._name = "video" if isinstance(source, bytes) else str(source)
        self._container = _open(source, self._name)
        self.num_decoded = 0
        self._num_packets = 0
        self._first_s: float | None = None
        self._last_s: float | None = None
        with ExitStack() as on_error:
            on_error.callback(self._container.close)
            if not self._container.streams.video:
                raise UnreadableVideoError("no_video_stream", f"{self._name}: has no picture, only sound or data")
            self._stream = self._container.streams.video[0]
            self._stream.thread_count = threads
            self._frames = self._decode()
            self._first = next(self._frames, None)
            if self._first is None:
                raise UnreadableVideoError("no_frames", f"{self._name}: holds no frame that can be decoded", 0, 1)
            self.info = self._describe(self._first)
            on_error.pop_all()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        stream = self._stream
        rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
        rate = next((rate for rate in rates if rate and 0.1 <= rate <= 1000), Fraction(25))  # else a broken header
        seconds = 0.0
        if stream.duration and stream.time_base:
            seconds = float(stream.duration * stream.time_base)
        elif self._container.duration:
            seconds = self._container.duration / av.time_base
        num_frames = stream.frames or round(seconds * rate)
        sideways = first.rotation % 180 == 90
        width, height = (first.height, first.width) if sideways else (first.width, first.height)
        return VideoInfo(width, height, float(rate), num_frames)

    def _decode(self) -> Iterator[av.VideoFrame]:
        cut_short = False
        try:
            for packet in self._container.demux(self._stream):
                cut_short = packet.is_corrupt  # the file ended inside the packet
                self._num_packets += packet.size > 0
                yield from packet.decode()
        except av.FFmpegError as error:
            reason = "truncated" if cut_short else "corrupt"
            text = f"{self._name}: decoding stopped after {self.num_decoded} frames ({error.strerror})"
            raise UnreadableVideoError(reason, text, self.num_decoded, self._stream.frames or None) from error
        if not self._is_whole():
            text = f"{self._name}: ends after {self._num_packets} of {self._stream.frames} frames"
            raise UnreadableVideoError("truncated", text, self._num_packets, self._stream.frames)

    def _is_whole(self) -> bool:
        # Packets, not frames: an edit list may hide frames of a whole file. 2 % for counts that lie a little.
        return self._num_packets >= 0.98 * self._stream.frames - 1

    @property
    def fps(self) -> float:
        """Frames per second by the time stamps read so far where they differ from the file's own word by over 1 %."""
        if self._first_s is None or self._last_s is None or self._last_s <= self._first_s:
            return self.info.fps
        measured = (self.num_decoded - 1) / (self._last_s - self._first_s)
        return self.info.fps if abs(measured / self.info.fps - 1) < 0.01 else measured

    def read(self, indices: Iterable[int] | None = None) -> Iterator[tuple[int, UInt8Array]]:
        """Yield (index, [H, W, 3] uint8 RGB) of the wanted frames. A reader can be read once.

        Args:
            indices: rising frame indices, possibly without end (`itertools.count(0, 5)`); all by default.
                Only wanted frames are converted to RGB, and reading stops behind the last one.

        Raises:
            UnreadableVideoError: decoding failed midway, or the file ends before it should.
        """
        wanted = iter(indices) if indices is not None else None
        target = next(wanted, None) if wanted is not None else 0
        frame = self._first
        self._first = None
        while frame is not None and target is not None:
            index = self.num_decoded
            self.num_decoded += 1
            self._last_s = frame.time
            self._first_s = frame.time if index == 0 else self._first_s
            if index == target:
                yield index, _upright(frame)
                target = next(wanted, None) if wanted is not None else index + 1
            if target is not None:
                frame = next(self._frames, None)


def _open(source: Source, name: str) -> av.container.InputContainer:
    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), mode="r")
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


def _upright(frame: av.VideoFrame) -> UInt8Array:
    # One thread: with more, libswscale keeps a pool that hangs when a forked loader process frees it.
    rgb: UInt8Array = frame.to_ndarray(format="rgb24", threads=1).astype(np.uint8, copy=False)
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, like np.rot90
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns)) if quarter_turns else rgb


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
        UnreadableVideoError: see its `reason`; "no_frames" when a wanted index lies behind the end.
    """
    wanted = None if indices is None else list(indices)
    frames = [rgb for _, rgb in decode(source, wanted)]
    if not frames or (wanted is not None and len(frames) < len(wanted)):
        expected = "any" if wanted is None else str(len(wanted))
        name = "video" if isinstance(source, bytes) else str(source)
        text = f"{name}: {len(frames)} of the wanted frames ({expected}) are there"
        raise UnreadableVideoError("no_frames", text, len(frames), None if wanted is None else len(wanted))
    return np.stack(frames)


# --------------------------------------------------------------------------------------------- writing


def encode_mp4(frames: UInt8Array, fps: float, crf: int = 17) -> bytes:
    """Encode an h264 mp4: yuv420p, short groups of pictures, index in front, the same bytes every time.

    Args:
        frames: [F, H, W, 3] uint8 RGB; H and W even, because colour is stored at half resolution.
        fps: frames per second.
        crf: x264's constant rate factor; lower is better and larger.

    Raises:
        ValueError: frames of another shape or type, none at all, or odd sizes.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"expected uint8 [F ≥ 1, H, W, 3], got {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or not height or not width:
        raise ValueError(f"h264 wants even sizes, got {width} × {height}; crop or resize first")
    stream = io.BytesIO()
    # Room for the index is kept in front: players can start at once, and nothing is written twice.
    options = {"moov_size": str(2048 + 32 * len(frames)), "fflags": "+bitexact"}
    with av.open(stream, "w", format="mp4", options=options) as container:
        rate = Fraction(fps).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={"crf": str(crf), "threads": "1"})
        video.width, video.height, video.pix_fmt, video.gop_size = width, height, "yuv420p", GOP_FRAMES
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p", threads=1)))  # see _upright
        container.mux(video.encode(None))
    return stream.getvalue()


def encode_gif(frames: UInt8Array, fps: float) -> bytes:
    """Encode an endless GIF, at most 256 colours a frame; its clock ticks in hundredths of a second.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
        fps: frames per second.
    """
    stream = io.BytesIO()
    first, *others = (Image.fromarray(rgb) for rgb in frames)
    duration_ms = max(20, 10 * round(100 / fps))
    first.save(stream, "GIF", save_all=True, append_images=others, duration=duration_ms, loop=0)
    return stream.getvalue()
