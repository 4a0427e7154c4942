import cv2
import numpy as np
import pytest

from idanim.metrics.motion import flow_magnitudes, motion


def texture(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def picture():
    return texture(96, 128)


def shaken(picture, offsets_px):
    return np.stack([np.roll(picture, offset, axis=1) for offset in offsets_px])


def test_still_video_has_none(picture):
    assert motion(shaken(picture, [0] * 5)) == 0


def test_single_frame_has_no_motion_to_speak_of(picture):
    assert motion(picture[None]) is None


def test_shaking_head_moves_though_its_signed_mean_is_zero(picture):
    diagonal = np.hypot(96, 128)
    measured = flow_magnitudes(shaken(picture, [0, 3, 0, -3, 0])) * diagonal
    assert measured == pytest.approx([3, 3, 3, 3], abs=0.15)


def test_faster_is_more_and_counted_in_diagonals(picture):
    slow, fast = motion(shaken(picture, range(0, 8, 1))), motion(shaken(picture, range(0, 32, 4)))
    assert fast == pytest.approx(4 * slow, rel=0.1)
    assert motion(shaken(texture(192, 256), range(0, 16, 2))) == pytest.approx(slow, rel=0.1)
