"""The cut: which frames and which part of the picture become the training clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from idanim.curation.decision import RejectedError
from idanim.curation.face_pool import Cutout
from idanim.curation.scan import SampledFrame, Scan
from idanim.curation.sources import SourceVideo
from idanim.types import Face, IdanimError, UInt8Array
from idanim.video import UnreadableVideoError, VideoReader
from idanim.video_frame import DecodedFrame

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Span:
    """A stretch of a video.

    Attributes:
        start: index of its first frame.
        length: number of frames.
        samples: the frames in it that were looked at; the first is its first.
    """

    start: int
    length: int
    samples: tuple[SampledFrame, ...]


@dataclass(frozen=True)
class Cut:
    """A clip's pixels.

    Attributes:
        frames: [F, size, size, 3] uint8 RGB.
        start_frame: index in the source video of the first one.
        crop_box: the part of the source frame kept, (left, top, right, bottom) in pixels.
        first_face: the face on the first frame.
    """

    frames: UInt8Array
    start_frame: int
    crop_box: Box
    first_face: Cutout


@dataclass(frozen=True)
class Clip:
    """How a clip is cut from a video.

    Attributes:
        num_frames: a clip has at least this many frames; the paper trains on 16.
        max_frames: and at most this many.
        size: side of the clip's square picture in pixels, even.
    """

    num_frames: int
    max_frames: int
    size: int

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise IdanimError(f"clip.size={self.size}: h264 wants an even size")
        if not 1 <= self.num_frames <= self.max_frames:
            raise IdanimError(
                f"clip.num_frames={self.num_frames} clip.max_frames={self.max_frames}: "
                "wanted 1 ≤ num_frames ≤ max_frames"
            )

    def check_length(self, scan: Scan) -> None:
        """Let a video pass that is long enough for a clip.

        Raises:
            RejectedError: "too_short".
        """
        length = scan.scene[1] - scan.scene[0]
        if length < self.num_frames:
            text = f"{scan.num_frames} frames"
            if scan.num_scenes > 1:
                text += f" in {scan.num_scenes} scenes, {length} in the longest"
            raise RejectedError("too_short", f"{text}; a clip needs {self.num_frames}", length, self.num_frames)

    def choose_span(self, scan: Scan, shows_person: Callable[[SampledFrame], bool]) -> Span:
        """The first stretch, long enough for a clip, on which every sampled frame shows the person's face alone.

        It begins on a sampled frame, so that its first frame is known to show the face, and ends on one (or with
        the scene), because nobody has looked at the frames behind it.

        Args:
            scan: of the video.
            shows_person: whether a frame's only face is the person's.

        Raises:
            RejectedError: "no_single_face_span".
        """
        longest = 0
        for run in self._runs(scan.samples, shows_person):
            start = run[0].index
            end = scan.scene[1] if run[-1] is scan.samples[-1] else run[-1].index + 1
            length = min(end - start, self.max_frames)
            if length >= self.num_frames:
                return Span(start, length, tuple(sample for sample in run if sample.index < start + length))
            longest = max(longest, length)
        text = f"one person alone for {longest} frames at the longest, a clip needs {self.num_frames}"
        raise RejectedError("no_single_face_span", text, longest, self.num_frames)

    def _runs(
        self, samples: Sequence[SampledFrame], shows_person: Callable[[SampledFrame], bool]
    ) -> Iterator[list[SampledFrame]]:
        """Stretches of frames that show the person alone; one that is longer than a clip may be is not followed on."""
        run: list[SampledFrame] = []
        for sample in samples:
            if len(sample.faces) == 1 and shows_person(sample):
                run.append(sample)
            elif run:
                yield run
                run = []
            if run and run[-1].index - run[0].index >= self.max_frames:
                yield run
                run = []
        if run:
            yield run

    def cut(self, video: SourceVideo, scan: Scan, span: Span) -> Cut:
        """Decode the frames of a span, crop them to a square around the centre and resize them.

        Raises:
            UnreadableVideoError: decoding failed this time.
        """
        start, length, samples = span.start, span.length, span.samples
        box = square_crop(scan.info.width, scan.info.height, [sample.faces[0] for sample in samples])
        frames = np.empty((length, self.size, self.size, 3), dtype=np.uint8)
        first_face: Cutout | None = None
        num_read = 0
        for index, frame in enumerate(_read_again(video, span, 0.5 / scan.fps)):
            if index == 0:
                first_face = Cutout.take(start, frame.rgb(), samples[0].faces[0])
            frames[index] = frame.square(box, self.size)
            num_read += 1
        if first_face is None or num_read < length:
            text = f"{video.name}: {num_read} of {length} frames came back when they were read again"
            raise UnreadableVideoError("corrupt", text, num_read, length)
        return Cut(frames, start, box, first_face)


def _read_again(video: SourceVideo, span: Span, tolerance_s: float) -> Iterator[DecodedFrame]:
    """The frames of a span, from the key frame before it where the file allows to jump."""
    first_s = span.samples[0].time_s
    if span.start > 0 and first_s > 0:
        part = replace(video.part, start_s=first_s, end_s=None)
        with VideoReader(video.path, part=part) as reader:
            if abs(reader.first_s - first_s) < tolerance_s:
                yield from islice(reader.frames(), span.length)
                return
    with VideoReader(video.path, part=video.part) as reader:
        yield from islice(reader.frames(), span.start, span.start + span.length)


def square_crop(width: int, height: int, faces: Sequence[Face]) -> Box:
    """The largest square at the centre of the picture, moved just so far that the faces are inside it.

    The paper crops at the centre; in upright phone footage that can cut off the head, hence the move.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        faces: the person's face on several frames. If they spread wider than the square, it centres on them.

    Returns:
        (left, top, right, bottom) in pixels.
    """
    side = min(width, height)
    boxes = np.array([face.box for face in faces], dtype=np.float64).reshape(-1, 4)
    left = _slide(side, width, boxes[:, [0, 2]])
    top = _slide(side, height, boxes[:, [1, 3]])
    return left, top, left + side, top + side


def _slide(side: int, extent: int, ranges: np.ndarray) -> int:
    """Where a window of `side` begins on an axis of `extent` so that it holds all (low, high) ranges."""
    centred = (extent - side) // 2
    if not len(ranges):
        return centred
    low, high = np.floor(ranges[:, 0].min()), np.ceil(ranges[:, 1].max())
    begin = (low + high - side) / 2 if high - low > side else np.clip(centred, high - side, low)
    return int(np.clip(begin, 0, extent - side))
