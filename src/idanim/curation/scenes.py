"""Scene cuts, found on small pictures of every frame while they are decoded for other reasons anyway."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from idanim.types import IdanimError, UInt8Array

SMALL_PX = 64
"""Longer side of the pictures that cuts and motion are measured on."""


@dataclass(frozen=True)
class Scenes:
    """What counts as a cut: PySceneDetect's adaptive detector.

    A frame begins a new scene where its change (mean over pixels of the differences in hue, saturation and brightness,
    0 to 255) is at least `min_change` and at least `min_ratio` times as large as the changes around it. The second
    condition keeps fast movement from being taken for cuts. Slow dissolves are not found.

    Attributes:
        min_change: least change of a cut.
        min_ratio: least ratio of a cut's change to the mean change around it.
        window_frames: how many frames on each side are "around".
        margin_frames: frames left out on both sides of a cut, since some cuts mix two pictures.
    """

    min_change: float
    min_ratio: float
    window_frames: int
    margin_frames: int

    def __post_init__(self) -> None:
        if self.window_frames < 1 or self.margin_frames < 0:
            raise IdanimError(
                f"scenes.window_frames={self.window_frames} scenes.margin_frames={self.margin_frames}: "
                "wanted window_frames ≥ 1 and margin_frames ≥ 0"
            )


class CutFinder:
    """Finds the cuts of one video.

    Args:
        scenes: what counts as one.

    Raises:
        IdanimError: PySceneDetect is not installed.
    """

    def __init__(self, scenes: Scenes) -> None:
        try:  # here, so that a missing package is told in words
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ModuleNotFoundError as error:
            raise IdanimError(f"finding scene cuts needs {error.name}: pip install 'idanim[faces]'") from error
        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(
            adaptive_threshold=scenes.min_ratio,
            min_scene_len=1,
            window_width=scenes.window_frames,
            min_content_val=scenes.min_change,
        )
        self._pad = scenes.window_frames + 1
        self._head: list[UInt8Array] = []
        self._tail: deque[UInt8Array] = deque(maxlen=self._pad + 1)
        self._count = 0

    @property
    def lag_frames(self) -> int:
        """A cut is reported at most this many frames late."""
        return 2 * self._pad + 1

    def push(self, small: UInt8Array) -> list[int]:
        """Take the next frame; returns indices of frames that begin a new scene, once they are known.

        Args:
            small: [h, w, 3] uint8 RGB, of the same size every time.
        """
        bgr = np.ascontiguousarray(small[..., ::-1])
        self._tail.append(bgr)
        if self._count:
            return self._push([bgr])
        self._head.append(bgr)
        return self._begin() if len(self._head) > self._pad else []

    def finish(self) -> list[int]:
        """Cuts among the last frames."""
        begun = self._begin() if not self._count else []
        return begun + self._push(list(self._tail)[-2::-1])

    def _begin(self) -> list[int]:
        # The detector looks at both sides of a frame, so the video is mirrored at its ends.
        self._pad = len(self._head) - 1
        return self._push([*self._head[:0:-1], *self._head])

    def _push(self, pictures: Iterable[UInt8Array]) -> list[int]:
        cuts: list[int] = []
        for bgr in pictures:
            found = self._detector.process_frame(self._timecode(self._count, 25.0), bgr)
            self._count += 1
            cuts += [cut.frame_num - self._pad for cut in found]
        return [cut for cut in cuts if cut > 0]
