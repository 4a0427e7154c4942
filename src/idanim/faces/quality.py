"""How good a face picture is: sharpness and head pose, from pixels and five landmarks alone."""

from __future__ import annotations

import math

import numpy as np

from idanim.faces.align import TEMPLATE_PX, aligned_crop
from idanim.types import FloatArray, UInt8Array

NOSE_DEPTH = 0.5
"""How far the tip of the nose stands out before the plane of the eyes, in distances between the eyes."""
FACE_LENGTH = 1.155
"""From the line of the eyes to the line of the mouth, in distances between the eyes (ArcFace template)."""
NOSE_HEIGHT = 0.495
"""Where the tip of the nose lies between eyes (0) and mouth (1) in a face seen from the front (ArcFace template)."""


def blur(rgb: UInt8Array, landmarks: FloatArray) -> float:
    """Variance of the Laplacian of the grey face, aligned to 112 pixels; higher is sharper, 0 is flat.

    The fixed size makes faces of different sizes comparable: what counts is detail at the scale at which a
    recogniser looks, so a small face in a sharp picture counts as blurred.

    Args:
        rgb: [H, W, 3] uint8, the picture the face was found in.
        landmarks: [5, 2] pixels in it.
    """
    grey = aligned_crop(rgb, landmarks, TEMPLATE_PX).astype(np.float64) @ (0.299, 0.587, 0.114)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


def head_pose_deg(landmarks: FloatArray) -> tuple[float, float]:
    """Yaw and pitch of the head, estimated from where the tip of the nose lies between eyes and mouth.

    With the roll of the eyes' line taken out, the head turned by yaw ψ and pitch φ under parallel projection
    shows the eyes `e` apart and moves the tip of the nose, which stands `NOSE_DEPTH` before the face's plane,
    sideways by NOSE_DEPTH · sin ψ, while `e` shrinks by cos ψ; and likewise up, against the face's length:

        tan ψ = (nose_x - middle_x) / e / NOSE_DEPTH
        tan φ = (NOSE_HEIGHT - (nose_y - eyes_y) / (mouth_y - eyes_y)) · FACE_LENGTH / NOSE_DEPTH

    `middle_x` lies on the line from between the eyes to between the mouth corners, at the height of the nose.
    Good to some 10°, enough to tell a front view from a profile.

    Args:
        landmarks: [5, 2] pixels: left eye, right eye, nose, mouth corners, as seen in the picture.

    Returns:
        (yaw, pitch) in degrees within ±90: yaw positive towards the right of the picture, pitch positive upwards.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    eyes = points[1] - points[0]
    roll = math.atan2(eyes[1], eyes[0])
    cos, sin = math.cos(roll), math.sin(roll)
    x, y = ((points - points[0]) @ np.array([[cos, -sin], [sin, cos]])).T
    eye_distance = x[1]
    eyes_y, mouth_y = y[:2].mean(), y[3:].mean()
    length = mouth_y - eyes_y
    if eye_distance < 1e-6 or length < 1e-6:
        return 90.0, 0.0  # eyes in one place, or mouth above them: as far from a front view as can be
    height = (y[2] - eyes_y) / length
    middle_x = x[:2].mean() * (1 - height) + x[3:].mean() * height
    yaw = math.atan((x[2] - middle_x) / eye_distance / NOSE_DEPTH)
    pitch = math.atan((NOSE_HEIGHT - height) * FACE_LENGTH / NOSE_DEPTH)
    return math.degrees(yaw), math.degrees(pitch)
