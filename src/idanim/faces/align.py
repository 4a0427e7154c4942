"""Alignment: face crops in which eyes, nose and mouth always lie at the same place.

The place is the five-point template of ArcFace (Deng et al., arXiv 1801.07698), given there for crops of
112 pixels. The crop is a similarity transform (rotation, one scale, translation), fitted by least squares.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from idanim.types import FloatArray, UInt8Array

TEMPLATE_PX = 112
ARCFACE_TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""[5, 2]: left eye, right eye, nose, mouth corners (as seen in the picture) in a crop of 112 × 112 pixels."""

Matrix = npt.NDArray[np.float64]


def fit_similarity(source: FloatArray | Matrix, target: FloatArray | Matrix) -> Matrix:
    """The similarity transform that takes `source` points closest to `target` (Umeyama 1991, Eqs. 40-42).

    Args:
        source: [N, 2] points, not all the same.
        target: [N, 2] points.

    Returns:
        [2, 3] matrix M with target ≈ M[:, :2] @ source + M[:, 2]; never a reflection.

    Raises:
        ValueError: fewer than two different points, or values that are not finite.
    """
    x, y = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"expected two finite [N, 2] sets of points, got {x.shape} and {y.shape}")
    x_mean, y_mean = x.mean(0), y.mean(0)
    variance = ((x - x_mean) ** 2).sum(1).mean()
    if variance < 1e-12:
        raise ValueError("the points of the face all lie in one place")
    covariance = (y - y_mean).T @ (x - x_mean) / len(x)
    u, singular, vt = np.linalg.svd(covariance)
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = u @ np.diag(signs) @ vt
    scale = (singular * signs).sum() / variance
    return np.column_stack([scale * rotation, y_mean - scale * rotation @ x_mean])


def scale_of(matrix: Matrix) -> float:
    """How many target pixels one source pixel becomes."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def natural_size_px(landmarks: FloatArray) -> int:
    """The largest side of an aligned crop that does not magnify the face.

    Args:
        landmarks: [5, 2] pixels in the source picture.
    """
    return max(1, int(TEMPLATE_PX / scale_of(fit_similarity(landmarks, ARCFACE_TEMPLATE))))


def aligned_crop(rgb: UInt8Array, landmarks: FloatArray, size: int) -> UInt8Array:
    """Cut out a face so that its landmarks lie at the ArcFace template.

    Shrinking is antialiased. What lies outside the picture is black.

    Args:
        rgb: [H, W, 3] uint8.
        landmarks: [5, 2] pixels in `rgb`.
        size: side of the crop in pixels; above `natural_size_px` the face is magnified.

    Returns:
        [size, size, 3] uint8.
    """
    matrix = fit_similarity(landmarks, ARCFACE_TEMPLATE * (size / TEMPLATE_PX))
    if rgb.shape[:2] == (size, size) and np.allclose(matrix, np.eye(2, 3), atol=1e-4):
        return rgb.copy()  # is such a crop already
    image, (left, top), factor = _region(rgb, matrix, size)
    # Pillow maps target pixel centres to source points, so it is given the inverse, in the region's pixels.
    linear = np.linalg.inv(matrix[:, :2])
    offset = (-linear @ matrix[:, 2] - (left, top)) / factor
    linear = linear / factor
    # Landmarks count from the centre of the first pixel, Pillow from its corner.
    offset += 0.5 / factor - linear @ (0.5, 0.5)
    coefficients = (linear[0, 0], linear[0, 1], offset[0], linear[1, 0], linear[1, 1], offset[1])
    crop = image.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return np.array(crop)


def _region(rgb: UInt8Array, matrix: Matrix, size: int) -> tuple[Image.Image, tuple[int, int], int]:
    """The part of the picture that the crop needs, shrunk by a whole factor to at most twice the crop's scale.

    Returns:
        (region, (left, top) of it in the picture, factor).
    """
    height, width = rgb.shape[:2]
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) - matrix[:, 2]
    points = corners @ np.linalg.inv(matrix[:, :2]).T
    factor = max(1, int(1 / scale_of(matrix)))
    margin = 4 * factor  # the reach of the filters
    left, top = (int(v) for v in np.clip(points.min(0) - margin, 0, (width - 1, height - 1)))
    right, bottom = (int(v) for v in np.clip(points.max(0) + margin + 1, (left + 1, top + 1), (width, height)))
    image = Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right]))
    return (image.reduce(factor) if factor > 1 else image), (left, top), factor
