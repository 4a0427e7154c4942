"""Scenes, sampling and detection: one pass over a video that looks for faces on some of its frames only.

Every frame is decoded and shrunk to a few pixels, on which cuts are found. Faces are looked for on sampled frames. Of
the scenes that come by, only the longest is kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from idanim.curation.decision import RejectedError
from idanim.curation.face_pool import Cutout, FaceDraw
from idanim.curation.scenes import SMALL_PX, CutFinder, Scenes
from idanim.faces.align import ARCFACE_TEMPLATE, TEMPLATE_PX, aligned_crop
from idanim.faces.engine import FaceEngine
from idanim.types import Face, IdanimError, UInt8Array
from idanim.video import VideoReader
from idanim.video_frame import DecodedFrame
from idanim.video_part import Part, VideoInfo

THUMBNAIL_LANDMARKS = ARCFACE_TEMPLATE.astype(np.float32)


MAX_STRIDE_FRAMES = 30
"""Clips have 32 frames or more where the video does; with one sampled frame alone nothing is known of their motion."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames are looked at.

    Attributes:
        detect_fps: frames looked at for each second of video.
        min_frames: in a short video, frames are taken closer together to reach this many.
        max_s: only so much of a longer video is looked at.
        max_damaged_share: allowed share of frames that can't be decoded without errors, in [0, 1].
    """

    detect_fps: float
    min_frames: int
    max_s: float = math.inf
    max_damaged_share: float = 1.0

    def __post_init__(self) -> None:
        if not (self.detect_fps > 0 and self.min_frames > 0 and self.max_s > 0):
            raise IdanimError(f"sampling.*: wanted positive numbers, got {self}")
        if not 0 <= self.max_damaged_share <= 1:
            raise IdanimError(f"sampling.max_damaged_share={self.max_damaged_share}: a share from 0 to 1 is wanted")

    def stride(self, info: VideoInfo) -> int:
        """Distance in frames between two frames looked at."""
        stride = min(max(1, round(info.fps / self.detect_fps)), MAX_STRIDE_FRAMES)
        if info.num_frames:
            stride = min(stride, max(1, info.num_frames // self.min_frames))
        return stride

    def limit(self, part: Part) -> Part:
        """The part of a video that is looked at."""
        if math.isinf(self.max_s):
            return part
        limit_s = part.start_s + self.max_s
        return Part(part.start_s, limit_s if part.end_s is None else min(part.end_s, limit_s), part.box)

    def check_whole(self, scan: Scan) -> None:
        """Let a video pass that could be decoded, but for a few frames.

        Raises:
            RejectedError: "corrupt".
        """
        share = scan.num_damaged / scan.num_frames
        if share > self.max_damaged_share:
            text = f"{scan.num_damaged} of {scan.num_frames} frames are damaged, allowed {self.max_damaged_share:.0%}"
            raise RejectedError("corrupt", text, share, self.max_damaged_share)


@dataclass(frozen=True)
class SampledFrame:
    """The faces on one frame.

    Attributes:
        index: frame index in the video.
        faces: by falling size, without embeddings.
        time_s: time stamp in the source video.
        small: [h, w, 3] uint8, the whole frame at a few pixels.
        thumbnail: [112, 112, 3] uint8, the face aligned, where there is exactly one.
    """

    index: int
    faces: tuple[Face, ...]
    time_s: float = 0.0
    small: UInt8Array | None = field(default=None, repr=False)
    thumbnail: UInt8Array | None = field(default=None, repr=False)

    @property
    def thumbnail_face(self) -> Face:
        """The face in pixels of the thumbnail."""
        box = (0.0, 0.0, float(TEMPLATE_PX), float(TEMPLATE_PX))
        return Face(box, THUMBNAIL_LANDMARKS, self.faces[0].score)


@dataclass(frozen=True)
class Scan:
    """What one pass over a video shows.

    Attributes:
        info: what the file says of itself.
        num_frames: frames decoded, the true length.
        fps: frames per second, on average where they vary.
        samples: the frames looked at in the longest scene, in order.
        scene: the longest scene, (first frame, behind the last one).
        num_scenes: scenes in the video.
        face_counts: number of faces on every frame looked at, in all scenes.
        num_damaged: frames that could not be decoded without errors.
    """

    info: VideoInfo
    num_frames: int
    fps: float
    samples: tuple[SampledFrame, ...]
    scene: tuple[int, int]
    num_scenes: int
    face_counts: tuple[int, ...]
    num_damaged: int = 0

    @property
    def single(self) -> list[SampledFrame]:
        """The frames of the longest scene that show exactly one face."""
        return [sample for sample in self.samples if len(sample.faces) == 1]


@dataclass
class _Scene:
    """One scene while it is read."""

    start: int
    draw: FaceDraw
    end: int = 0
    samples: list[SampledFrame] = field(default_factory=list)

    def take(self, sample: SampledFrame, cutout: Cutout | None) -> None:
        self.samples.append(sample)
        if cutout is not None:
            self.draw.offer(cutout)


class _SceneKeeper:
    """Deals sampled frames out to scenes and keeps the longest one; a cut becomes known only some frames later."""

    def __init__(self, margin_frames: int, make_draw: Callable[[], FaceDraw]) -> None:
        self._margin = margin_frames
        self._make_draw = make_draw
        self._current = _Scene(0, make_draw())
        self._waiting: deque[tuple[SampledFrame, Cutout | None]] = deque()
        self.longest: _Scene | None = None
        self.num_scenes = 1

    def look(self, sample: SampledFrame, cutout: Cutout | None) -> None:
        self._waiting.append((sample, cutout))

    def settle(self, before: int) -> None:
        """Frames before this one belong to the current scene for sure."""
        while self._waiting and self._waiting[0][0].index < before:
            sample, cutout = self._waiting.popleft()
            if sample.index >= self._current.start:  # else it lies in the margin behind a cut
                self._current.take(sample, cutout)

    def cut(self, at: int) -> None:
        self.settle(at - self._margin)
        while self._waiting and self._waiting[0][0].index < at:
            self._waiting.popleft()  # in the margin before the cut
        self._close(at - self._margin)
        self._current = _Scene(at + self._margin, self._make_draw())
        self.num_scenes += 1

    def finish(self, num_frames: int) -> _Scene:
        self.settle(num_frames)
        self._close(num_frames)
        assert self.longest is not None
        return self.longest

    def _close(self, end: int) -> None:
        self._current.end = max(end, self._current.start)
        longest = self.longest
        if longest is None or self._current.end - self._current.start > longest.end - longest.start:
            self.longest = self._current


def scan_video(
    reader: VideoReader,
    sampling: FrameSampling,
    scenes: Scenes,
    engine: FaceEngine,
    make_draw: Callable[[], FaceDraw],
) -> tuple[Scan, FaceDraw]:
    """Decode a video to its end, find its longest scene and the faces on sampled frames.

    Args:
        reader: the opened video; it is used up.
        sampling: which frames to look at.
        scenes: what counts as a cut.
        engine: finds faces.
        make_draw: begins a draw for each scene; it is offered every frame with exactly one face.

    Returns:
        What is seen, and the draw of the longest scene.

    Raises:
        UnreadableVideoError: the video breaks off or can't be decoded.
    """
    cuts, keeper = CutFinder(scenes), _SceneKeeper(scenes.margin_frames, make_draw)
    stride = sampling.stride(reader.info)
    face_counts: list[int] = []
    shape: tuple[int, ...] | None = None
    for frame in reader.frames():
        small = _small(frame, shape)
        shape = small.shape
        for cut in cuts.push(small):
            keeper.cut(cut)
        if frame.index % stride == 0:
            sample, cutout = _look(frame, small, engine)
            face_counts.append(len(sample.faces))
            keeper.look(sample, cutout)
        keeper.settle(frame.index - cuts.lag_frames - scenes.margin_frames)
    for cut in cuts.finish():
        if cut < reader.num_decoded:
            keeper.cut(cut)
    scene = keeper.finish(reader.num_decoded)
    scan = Scan(
        info=reader.info,
        num_frames=reader.num_decoded,
        fps=reader.fps,
        samples=tuple(scene.samples),
        scene=(scene.start, scene.end),
        num_scenes=keeper.num_scenes,
        face_counts=tuple(face_counts),
        num_damaged=reader.num_damaged,
    )
    return scan, scene.draw


def _small(frame: DecodedFrame, shape: tuple[int, ...] | None) -> UInt8Array:
    small = frame.small(SMALL_PX)
    if shape is None or small.shape == shape:
        return small
    return np.asarray(Image.fromarray(small).resize((shape[1], shape[0])))  # the stream has changed its size


def _look(frame: DecodedFrame, small: UInt8Array, engine: FaceEngine) -> tuple[SampledFrame, Cutout | None]:
    rgb = frame.rgb()
    faces = tuple(engine.detect(rgb))
    if len(faces) != 1:
        return SampledFrame(frame.index, faces, frame.time_s, small), None
    thumbnail = aligned_crop(rgb, faces[0].landmarks, TEMPLATE_PX)
    return SampledFrame(frame.index, faces, frame.time_s, small, thumbnail), Cutout.take(frame.index, rgb, faces[0])
