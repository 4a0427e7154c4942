"""How much a video moves. F frames · H W pixels."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from idanim.types import UInt8Array


def flow_magnitudes(frames: UInt8Array) -> npt.NDArray[np.float64]:
    """Mean optical flow between consecutive frames, in frame diagonals: [F - 1], 0 or more.

    m_f = mean over pixels of |v_f(x)| / √(H² + W²), with v_f the dense flow in pixels from frame f to f + 1
    (Farnebäck 2003). The length of the flow is averaged, not the flow: a head shaking ±3 px moves, though
    its signed mean is 0 (OpenS2V-Eval's MotionAmplitude).

    Args:
        frames: [F, H, W, 3] uint8 RGB.
    """
    height, width = frames.shape[1:3]
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    magnitudes = [_mean_flow_px(a, b) for a, b in pairwise(grey)]
    return np.array(magnitudes, dtype=np.float64) / float(np.hypot(height, width))


def _mean_flow_px(a: UInt8Array, b: UInt8Array) -> float:
    if np.array_equal(a, b):
        return 0.0  # where the algorithm gives some 1e-3 px
    no_guess = np.zeros((*a.shape, 2), np.float32)
    # pyramid scale, levels, window, iterations, neighbourhood and its sigma: OpenCV's own example
    flow = cv2.calcOpticalFlowFarneback(a, b, no_guess, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.linalg.norm(flow, axis=-1).mean())


def motion(frames: UInt8Array) -> float | None:
    """Mean of `flow_magnitudes` over the frame pairs; None for a single frame.

    0 for a still video; 0.01 where everything moves by 1 % of the diagonal a frame. Neither direction is
    better: compare with real videos. Flicker counts as motion, so look at the videos, too.
    """
    return float(flow_magnitudes(frames).mean()) if len(frames) > 1 else None
