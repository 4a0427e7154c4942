"""Sampling and detection: one pass over a video that looks for faces on some of its frames only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from idanim.curation.face_pool import FaceDraw
from idanim.faces.engine import FaceEngine
from idanim.types import Face
from idanim.video import VideoInfo, VideoReader


@dataclass(frozen=True)
class FrameSampling:
    """Which frames are looked at.

    Attributes:
        detect_fps: frames looked at for each second of video.
        min_frames: in a short video, frames are taken closer together to reach this many.
    """

    detect_fps: float
    min_frames: int

    def stride(self, info: VideoInfo) -> int:
        """Distance in frames between two frames looked at."""
        stride = max(1, round(info.fps / self.detect_fps))
        if info.num_frames:
            stride = min(stride, max(1, info.num_frames // self.min_frames))
        return stride


@dataclass(frozen=True)
class SampledFrame:
    """The faces on one frame.

    Attributes:
        index: frame index in the source video.
        faces: by falling size, without embeddings.
    """

    index: int
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Scan:
    """What one pass over a video shows.

    Attributes:
        info: what the file says of itself.
        num_frames: frames decoded, the true length.
        fps: frames per second, on average where they vary.
        samples: the frames looked at, in order.
    """

    info: VideoInfo
    num_frames: int
    fps: float
    samples: tuple[SampledFrame, ...]

    @property
    def single(self) -> list[SampledFrame]:
        """The frames that show exactly one face."""
        return [sample for sample in self.samples if len(sample.faces) == 1]

    def share(self, several: bool) -> float:
        """The share of sampled frames with several faces, or with none."""
        hits = sum(len(sample.faces) > 1 if several else not sample.faces for sample in self.samples)
        return hits / len(self.samples)


def scan_video(reader: VideoReader, sampling: FrameSampling, engine: FaceEngine, draw: FaceDraw) -> Scan:
    """Decode a video to its end and find the faces on sampled frames.

    Args:
        reader: the opened video; it is used up.
        sampling: which frames to look at.
        engine: finds faces.
        draw: is offered every frame with exactly one face.

    Raises:
        UnreadableVideoError: the video breaks off or can't be decoded.
    """
    samples = []
    for index, rgb in reader.read(itertools.count(0, sampling.stride(reader.info))):
        faces = tuple(engine.detect(rgb))
        samples.append(SampledFrame(index, faces))
        if len(faces) == 1:
            draw.offer(index, rgb, faces[0])
    return Scan(reader.info, reader.num_decoded, reader.fps, tuple(samples))
