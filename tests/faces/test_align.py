"""Alignment, against transforms that are known, and sharpness and pose, against faces that are made."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from idanim.faces.align import ARCFACE_TEMPLATE, aligned_crop, fit_similarity, natural_size_px, scale_of
from idanim.faces.quality import FACE_LENGTH, NOSE_DEPTH, NOSE_HEIGHT, blur, head_pose_deg


def similarity(angle_deg, scale, shift):
    angle = np.radians(angle_deg)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([scale * rotation, shift])


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def picture_with_dots(points, height=300, width=400):
    rgb = np.zeros((height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    for x, y in points:
        rgb[(columns - x) ** 2 + (rows - y) ** 2 <= 9] = 255
    return rgb


def test_an_aligned_crop_is_aligned_already():
    rgb = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    crop = aligned_crop(rgb, ARCFACE_TEMPLATE, 112)
    np.testing.assert_array_equal(crop, rgb)
    assert crop is not rgb
    assert (aligned_crop(rgb, np.add(ARCFACE_TEMPLATE, (3, 0)), 112) != rgb).any()


class TestFit:
    @pytest.mark.parametrize("angle", [0, 30, -100, 179])
    def test_recovers_a_known_transform(self, angle):
        true = similarity(angle, 2.5, [40.0, -7.0])
        np.testing.assert_allclose(
            fit_similarity(ARCFACE_TEMPLATE, apply(true, ARCFACE_TEMPLATE)), true, rtol=1e-9, atol=1e-9
        )

    def test_is_least_squares_and_never_a_reflection(self):
        rng = np.random.default_rng(0)
        target = ARCFACE_TEMPLATE * [-1, 1] + rng.normal(0, 1, (5, 2))  # mirrored
        fitted = fit_similarity(ARCFACE_TEMPLATE, target)
        assert np.linalg.det(fitted[:, :2]) > 0

        def error(matrix):
            return ((apply(matrix, ARCFACE_TEMPLATE) - target) ** 2).sum()

        for _ in range(50):
            angle, scale = rng.normal(0, 2), np.exp(rng.normal(0, 0.02))
            nudge = similarity(angle, scale, rng.normal(0, 1, 2))
            nudged = np.column_stack([nudge[:, :2] @ fitted[:, :2], nudge[:, :2] @ fitted[:, 2] + nudge[:, 2]])
            assert error(nudged) >= error(fitted)

    @pytest.mark.parametrize("points", [np.zeros((5, 2)), np.full((5, 2), np.nan), np.zeros((4, 2))])
    def test_points_that_fix_nothing_are_refused(self, points):
        with pytest.raises(ValueError, match="points"):
            fit_similarity(points, ARCFACE_TEMPLATE)


class TestCrop:
    @pytest.mark.parametrize(("angle", "scale"), [(0, 1.0), (25, 2.0), (-40, 0.6), (170, 1.4)])
    @pytest.mark.parametrize("size", [112, 224])
    def test_landmarks_land_on_the_template(self, angle, scale, size):
        landmarks = apply(similarity(angle, scale, [0.0, 0.0]), ARCFACE_TEMPLATE - 56) + np.array([200, 150])
        crop = aligned_crop(picture_with_dots(landmarks), landmarks, size)
        assert crop.shape == (size, size, 3)
        assert crop.dtype == np.uint8
        bright = crop[..., 0].astype(float)
        for x, y in ARCFACE_TEMPLATE * size / 112:
            reach = int(6 * size / 112 / min(scale, 1) + 2)
            window = bright[round(y) - reach : round(y) + reach + 1, round(x) - reach : round(x) + reach + 1]
            rows, columns = np.mgrid[: window.shape[0], : window.shape[1]]
            centre = (columns * window).sum() / window.sum(), (rows * window).sum() / window.sum()
            offset = np.array(centre) - reach + [round(x) - x, round(y) - y]
            assert np.abs(offset).max() < 0.3 * max(1, size / 112 / scale)  # dots are drawn on whole pixels

    def test_a_shrunk_crop_keeps_the_mean_and_does_not_alias(self):
        stripes = np.zeros((600, 600, 3), np.uint8)
        stripes[:, ::2] = 255
        landmarks = ARCFACE_TEMPLATE * 4 + 60
        crop = aligned_crop(stripes, landmarks, 112).astype(float)
        assert abs(crop.mean() - 127.5) < 3
        assert crop.std() < 10

    def test_outside_of_the_picture_is_black(self):
        landmarks = ARCFACE_TEMPLATE - 80  # up and left of the picture
        crop = aligned_crop(np.full((100, 100, 3), 255, np.uint8), landmarks, 112)
        assert crop[:40, :40].max() == 0
        assert crop[90:, 90:].min() == 255

    def test_natural_size_does_not_magnify(self):
        for scale in (0.3, 1.0, 2.7, 6.0):
            landmarks = apply(similarity(15, scale, [50.0, 60.0]), ARCFACE_TEMPLATE)
            size = natural_size_px(landmarks)
            assert abs(size - 112 * scale) <= 1
            assert scale_of(fit_similarity(landmarks, ARCFACE_TEMPLATE * size / 112)) <= 1 + 1e-9

    def test_agrees_with_opencv(self):
        cv2 = pytest.importorskip("cv2")
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
        rgb = np.array(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)))
        landmarks = apply(similarity(20, 1.3, [90.0, 60.0]), ARCFACE_TEMPLATE)
        theirs = cv2.warpAffine(rgb, fit_similarity(landmarks, ARCFACE_TEMPLATE), (112, 112))
        assert np.abs(aligned_crop(rgb, landmarks, 112).astype(int) - theirs).max() <= 3


class TestQuality:
    def test_blurring_lowers_the_measure_of_blur(self):
        sharp = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        soft = np.array(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(2)))
        landmarks = ARCFACE_TEMPLATE + 40
        assert blur(sharp, landmarks) > 20 * blur(soft, landmarks)
        assert blur(np.full((200, 200, 3), 90, np.uint8), landmarks) == 0

    @pytest.mark.parametrize(("yaw", "pitch"), [(-60, 0), (-20, 0), (0, 0), (35, 0), (0, 20), (0, -30)])
    @pytest.mark.parametrize("roll", [0, 30])
    def test_pose_of_a_head_of_the_assumed_shape(self, yaw, pitch, roll):
        mouth = 0.42
        # x right, y down, z towards the camera, in distances between the eyes
        head = np.array(
            [
                [-0.5, 0, 0],
                [0.5, 0, 0],
                [0, NOSE_HEIGHT * FACE_LENGTH, NOSE_DEPTH],
                [-mouth, FACE_LENGTH, 0],
                [mouth, FACE_LENGTH, 0],
            ]
        )
        a, b = np.radians([yaw, pitch])
        turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        flat = (head @ turn.T @ nod.T)[:, :2]
        landmarks = apply(similarity(roll, 80.0, [200.0, 100.0]), flat)
        np.testing.assert_allclose(head_pose_deg(landmarks), (yaw, pitch), atol=1e-6)

    def test_a_face_without_width_is_no_front_view(self):
        assert head_pose_deg(np.ones((5, 2)))[0] == 90
