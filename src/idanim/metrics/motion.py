"""How much a video moves. F frames · H W pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from idanim.metrics.face_box import Box, box_mask
from idanim.types import FloatArray, UInt8Array

LONGER_SIDE_PX = 256
"""Larger pictures are shrunk to this before their flow is measured: four times faster at 512, and less grain."""


def flow_lengths(frames: UInt8Array) -> Iterator[FloatArray]:
    """Length of the dense optical flow from each frame to the next (Farnebäck 2003), F - 1 × [h, w].

    In frame diagonals; h and w are those of the frames shrunk to `LONGER_SIDE_PX` where they are larger.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
    """
    for a, b in pairwise(_small_grey(frame) for frame in frames):
        if np.array_equal(a, b):
            yield np.zeros(a.shape, np.float32)  # where the algorithm gives some 1e-3 px
            continue
        no_guess = np.zeros((*a.shape, 2), np.float32)
        # pyramid scale, levels, window, iterations, neighbourhood and its sigma: OpenCV's own example
        flow = cv2.calcOpticalFlowFarneback(a, b, no_guess, 0.5, 3, 15, 3, 5, 1.2, 0)
        # Not cv2.magnitude, whose last bits depend on where the array lies in memory.
        yield np.sqrt(np.square(flow).sum(axis=-1)) / np.float32(np.hypot(*a.shape))


def _small_grey(frame: UInt8Array) -> UInt8Array:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = LONGER_SIDE_PX / max(grey.shape)
    if scale >= 1:
        return np.asarray(grey, dtype=np.uint8)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


@dataclass(frozen=True)
class Motion:
    """Motion of one video, each in frame diagonals a frame, 0 or more, neither direction better.

    Attributes:
        everywhere: mean over frame pairs and pixels of |v(x)| / √(h² + w²), with v the flow in pixels; None for a
            single frame. 0 for a still video, 0.01 where everything moves by 1 % of the diagonal a frame. The length
            of the flow is averaged, not the flow: a head shaking ±3 px moves, though its signed mean is 0
            (OpenS2V-Eval's MotionAmplitude). Flicker counts as motion.
        face: the same mean over the pixels inside the face's box, over the frame pairs (f, f + 1) with a box
            known for f; None where there is no such pair.
        background: likewise outside of the box: what camera, body and scene move.
    """

    everywhere: float | None
    face: float | None
    background: float | None


def motion_by_region(frames: UInt8Array, boxes: Mapping[int, Box]) -> Motion:
    """Motion of the whole picture, of the face and of what is around it.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
        boxes: of the face, by index of the frame.
    """
    everywhere, inside, outside = [], [], []
    for index, lengths in enumerate(flow_lengths(frames)):
        everywhere.append(float(lengths.mean(dtype=np.float64)))
        if index in boxes:
            scale = lengths.shape[1] / frames.shape[2]
            left, top, right, bottom = (value * scale for value in boxes[index])
            mask = box_mask(lengths.shape, (left, top, right, bottom))
            inside += [float(lengths[mask].mean(dtype=np.float64))] if mask.any() else []
            outside += [float(lengths[~mask].mean(dtype=np.float64))] if not mask.all() else []
    return Motion(*(float(np.mean(part)) if part else None for part in (everywhere, inside, outside)))
