"""What a video says of itself, and which part of it is read."""

from __future__ import annotations

from dataclasses import dataclass

ShareBox = tuple[float, float, float, float]
"""(left, top, right, bottom) as shares of a picture's width and height, in [0, 1]."""


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


@dataclass(frozen=True)
class Part:
    """The part of a video that is read.

    Attributes:
        start_s: seconds from the start of the video.
        end_s: where it ends (the frame at this time is left out); None for the video's end.
        box: the part of the picture, as shares of width and height; None for all of it.
    """

    start_s: float = 0.0
    end_s: float | None = None
    box: ShareBox | None = None


WHOLE = Part()
