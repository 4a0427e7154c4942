"""The box of a face as a region of the picture."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels; may reach beyond the picture."""


def box_mask(shape: tuple[int, ...], box: Box) -> npt.NDArray[np.bool_]:
    """The pixels that a box touches, [H, W] bool.

    Args:
        shape: (H, W, …) of the picture.
        box: in its pixels.
    """
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = (max(0, math.ceil(value)) for value in box[2:])
    mask = np.zeros(shape[:2], np.bool_)
    mask[top:bottom, left:right] = True
    return mask
