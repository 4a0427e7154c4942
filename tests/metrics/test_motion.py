import cv2
import numpy as np
import pytest

from idanim.metrics.motion import flow_lengths, motion_by_region


def texture(height, width):
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


@pytest.fixture(scope="module")
def picture():
    return texture(96, 128)


def motion(frames):
    return motion_by_region(frames, {}).everywhere


def shaken(picture, offsets_px):
    return np.stack([np.roll(picture, offset, axis=1) for offset in offsets_px])


def test_still_video_has_none(picture):
    assert motion(shaken(picture, [0] * 5)) == 0


def test_single_frame_has_no_motion_to_speak_of(picture):
    assert motion(picture[None]) is None


def test_shaking_head_moves_though_its_signed_mean_is_zero(picture):
    diagonal = np.hypot(96, 128)
    lengths = flow_lengths(shaken(picture, [0, 3, 0, -3, 0]))
    measured = [float(pair.mean()) * diagonal for pair in lengths]
    assert measured == pytest.approx([3, 3, 3, 3], abs=0.15)


def test_faster_is_more_and_counted_in_diagonals(picture):
    slow, fast = motion(shaken(picture, range(0, 8, 1))), motion(shaken(picture, range(0, 32, 4)))
    assert fast == pytest.approx(4 * slow, rel=0.1)
    assert motion(shaken(texture(192, 256), range(0, 16, 2))) == pytest.approx(slow, rel=0.1)


BOX = (32.0, 24.0, 64.0, 72.0)


def test_shaking_head_before_a_still_wall_moves_inside_its_box_only(picture):
    """A patch of texture shakes by ±3 px; around it nothing moves."""
    frames = np.repeat(np.full_like(picture, 90)[None], 5, 0)
    for frame, offset in zip(frames, (0, 3, 0, -3, 0), strict=True):
        frame[16:80, 24 + offset : 72 + offset] = picture[16:80, 24:72]
    moved = motion_by_region(frames, dict.fromkeys(range(5), BOX))
    diagonal = np.hypot(96, 128)
    assert moved.face * diagonal == pytest.approx(3, abs=0.3)
    assert moved.everywhere == pytest.approx(motion(frames))
    with_margin = motion_by_region(frames, dict.fromkeys(range(5), (12.0, 4.0, 84.0, 92.0)))  # flow smears a little
    assert with_margin.background < 0.1 * moved.face


def test_regions_of_a_panning_camera_move_alike(picture):
    frames = shaken(picture, range(5))
    moved = motion_by_region(frames, dict.fromkeys(range(5), BOX))
    assert moved.face == pytest.approx(moved.background, rel=0.1)
    share = 32 * 48 / (96 * 128)
    assert share * moved.face + (1 - share) * moved.background == pytest.approx(moved.everywhere)


def test_only_pairs_with_a_box_count_for_regions(picture):
    frames = shaken(picture, [0, 0, 0, 4])  # still but for the last pair
    assert motion_by_region(frames, {0: BOX}).face == 0
    assert motion_by_region(frames, {2: BOX}).face > 0
    assert motion_by_region(frames, {3: BOX}) == motion_by_region(frames, {})  # no pair begins at the last frame
    assert motion_by_region(frames, {}).face is None
    assert motion_by_region(frames[:1], {0: BOX}).everywhere is None


def test_box_may_reach_beyond_the_picture_or_fill_it(picture):
    frames = shaken(picture, [0, 2])
    whole = motion_by_region(frames, {0: (-5.0, -5.0, 500.0, 500.0)})
    assert whole.face == pytest.approx(whole.everywhere)
    assert whole.background is None
    assert motion_by_region(frames, {0: (-20.0, -20.0, -5.0, -5.0)}).face is None


def test_large_pictures_are_measured_at_one_scale(picture):
    """The same scene filmed at four times the size moves as much, face and surroundings alike."""
    offsets = [0, 1, 2, 3]
    small = shaken(cv2.resize(texture(288, 384), (192, 144)), offsets)
    large = np.stack([cv2.resize(frame, (768, 576), interpolation=cv2.INTER_CUBIC) for frame in small])
    box = (60.0, 40.0, 120.0, 100.0)
    one, other = motion_by_region(small, {0: box}), motion_by_region(large, {0: tuple(4 * v for v in box)})
    assert other.everywhere == pytest.approx(one.everywhere, rel=0.1)
    assert other.face == pytest.approx(one.face, rel=0.15)
    assert other.background == pytest.approx(one.background, rel=0.1)
