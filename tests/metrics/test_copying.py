import math

import numpy as np
import pytest

from idanim.metrics.copying import (
    View,
    background_colours,
    background_similarity,
    copy_paste,
    facing,
    pose_similarity,
    view,
)
from idanim.metrics.face_track import FaceTrack

FRONT = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.1435], [-0.8, 2.31], [0.8, 2.31]], np.float32)
"""Landmarks of a face from the front, as in the ArcFace template, eyes 2 apart."""


def unit_vectors(rng, count, width=16):
    raw = rng.normal(size=(count, width))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def video_of(vectors):
    return FaceTrack(np.ones(len(vectors), bool), vectors)


def angle(a, b):
    """In radians, by the chord: independent of arccos."""
    return 2 * math.asin(min(1.0, float(np.linalg.norm(a.astype(float) - b.astype(float))) / 2))


def test_copy_paste_matches_loops():
    rng = np.random.default_rng(0)
    faces, references, others = unit_vectors(rng, 5), unit_vectors(rng, 2), unit_vectors(rng, 3)
    by_hand = [(angle(g, t) - angle(g, r)) / angle(r, t) for g in faces for r in references for t in others]
    assert copy_paste(video_of(faces), references, others) == pytest.approx(np.mean(by_hand), abs=1e-6)


def test_pasted_reference_is_one_and_another_picture_of_the_person_minus_one():
    rng = np.random.default_rng(1)
    person = unit_vectors(rng, 1)
    reference, other = (person + 0.4 * unit_vectors(rng, 1) for _ in range(2))
    reference, other = (x / np.linalg.norm(x) for x in (reference, other))
    half_way = (reference + other) / np.linalg.norm(reference + other)
    assert copy_paste(video_of(np.repeat(reference, 4, 0)), reference, other) == pytest.approx(1, abs=2e-3)
    assert copy_paste(video_of(np.repeat(other, 4, 0)), reference, other) == pytest.approx(-1, abs=2e-3)
    assert copy_paste(video_of(half_way), reference, other) == pytest.approx(0, abs=1e-3)


def test_copy_paste_needs_a_face_and_another_picture():
    rng = np.random.default_rng(2)
    reference = unit_vectors(rng, 1)
    nothing = FaceTrack(np.zeros(3, bool), np.zeros((0, 0), np.float32))
    assert copy_paste(nothing, reference, unit_vectors(rng, 1)) is None
    assert copy_paste(video_of(reference), reference, np.zeros((0, 16), np.float32)) is None
    assert copy_paste(video_of(reference), reference, reference) is None  # the same picture twice


@pytest.mark.parametrize("yaw_deg", [-40, 0, 25])
def test_facing_is_where_the_head_turns(yaw_deg):
    """A head of known depth turned by hand: eyes draw together, the tip of the nose moves aside."""
    yaw = math.radians(yaw_deg)
    points = FRONT.copy()
    points[:, 0] *= math.cos(yaw)
    points[2, 0] += 2 * 0.5 * math.sin(yaw)  # half the distance between the eyes before the plane of the face
    assert facing(points) == pytest.approx([math.sin(yaw), 0, math.cos(yaw)], abs=2e-3)


def test_pose_similarity_is_the_cosine_of_the_turn():
    def turned(yaw_deg):
        return View(np.array([math.sin(math.radians(yaw_deg)), 0, math.cos(math.radians(yaw_deg))]), None)

    assert pose_similarity([turned(20)], [turned(20)]) == pytest.approx(1)
    assert pose_similarity([turned(0), turned(60)], [turned(0)]) == pytest.approx((1 + 0.5) / 2)
    assert pose_similarity([turned(45)], [turned(-45)]) == pytest.approx(0)
    assert pose_similarity([], [turned(0)]) is None
    assert pose_similarity([turned(0)], []) is None


def picture(background, face=(200, 150, 120)):
    rgb = np.full((40, 40, 3), background, np.uint8)
    rgb[10:30, 10:30] = face
    return rgb


BOX = (10.0, 10.0, 30.0, 30.0)


def test_background_is_what_lies_outside_of_the_box():
    beach, forest = (view(picture(colour), BOX, FRONT) for colour in ((230, 210, 150), (20, 90, 30)))
    other_face = view(picture((230, 210, 150), face=(0, 0, 255)), BOX, FRONT)
    half = picture((230, 210, 150))
    half[:, :20] = (20, 90, 30)
    assert background_similarity([beach], [other_face]) == pytest.approx(1)
    assert background_similarity([beach], [forest]) == 0
    half_view = view(half, (10.0, 10.0, 30.0, 30.0), FRONT)
    assert background_similarity([half_view], [beach]) == pytest.approx(math.sqrt(0.5))
    assert background_similarity([beach, forest], [beach]) == pytest.approx(0.5)


def test_colour_histogram_matches_counting():
    rgb = np.random.default_rng(3).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    box = (2.2, -5.0, 6.0, 7.5)
    counts = np.zeros(64)
    outside = [rgb[y, x] for y in range(12) for x in range(9) if not (2 <= x < 6 and y < 8)]
    for r, g, b in outside:
        counts[(r // 64) * 16 + (g // 64) * 4 + b // 64] += 1
    assert background_colours(rgb, box) == pytest.approx(counts / len(outside))


def test_a_face_that_fills_the_picture_has_no_background():
    filled = view(picture((0, 0, 0)), (0.0, 0.0, 40.0, 39.0), FRONT)
    assert filled.colours is None
    assert background_similarity([filled], [view(picture((0, 0, 0)), BOX, FRONT)]) is None
