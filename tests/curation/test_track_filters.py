"""Tracking and filters on scans made by hand, and on videos of square faces."""

import dataclasses

import numpy as np
import pytest
from square_faces import SquareFaces, draw

from idanim.curation.decision import RejectedError
from idanim.curation.filters import FaceFilter, MotionFilter, motion_levels
from idanim.curation.scan import SampledFrame, Scan
from idanim.curation.track import Tracker, box_overlap
from idanim.faces.align import ARCFACE_TEMPLATE, TEMPLATE_PX, aligned_crop
from idanim.types import Face
from idanim.video_part import VideoInfo

TRACKER = Tracker(min_similarity=0.5, max_stranger_share=0.3, min_overlap=0.05, max_jump_share=0.3, max_faces=16)
FILTER = FaceFilter(0.1, 0.3, 20.0, 0.9, 0.5, 20.0, 50.0, 45.0)
ENGINE = SquareFaces()


def look(index, colour, x=36):
    rgb = draw((colour,), x=x)
    (face,) = ENGINE.detect(rgb)
    return SampledFrame(index, (face,), index / 25, rgb, aligned_crop(rgb, face.landmarks, TEMPLATE_PX))


def scan_of(samples):
    samples = tuple(samples)
    counts = tuple(len(sample.faces) for sample in samples)
    return Scan(VideoInfo(96, 96, 25.0, 0), len(samples) * 10, 25.0, samples, (0, len(samples) * 10), 1, counts)


def reason(call, *arguments):
    with pytest.raises(RejectedError) as caught:
        call(*arguments)
    assert caught.value.measured is not None
    assert caught.value.threshold is not None
    return caught.value.reason


class TestTracker:
    def test_one_person(self):
        track = TRACKER.follow(scan_of(look(i, "red", x=30 + i) for i in range(12)), ENGINE)
        assert track.shows_person(look(50, "red"))
        assert not track.shows_person(look(51, "blue"))

    @pytest.mark.parametrize(
        "colours",
        [["red", "green"] * 6, ["red"] * 6 + ["green"] * 6, ["red"] * 4 + ["green"] * 4 + ["blue"] * 4],
        ids=["taking turns", "relieving each other", "three"],
    )
    def test_several_people_one_after_another(self, colours):
        scan = scan_of(look(i, colour) for i, colour in enumerate(colours))
        assert reason(TRACKER.follow, scan, ENGINE) == "person_changes"

    def test_a_stranger_for_a_moment_is_tolerated_and_known(self):
        colours = ["red"] * 5 + ["green"] + ["red"] * 6
        samples = [look(i, colour) for i, colour in enumerate(colours)]
        track = TRACKER.follow(scan_of(samples), ENGINE)
        assert [track.shows_person(sample) for sample in samples] == [colour == "red" for colour in colours]

    def test_a_face_that_jumps(self):
        scan = scan_of(look(i, "red", x=5 + 50 * (i % 2)) for i in range(12))
        assert reason(TRACKER.follow, scan, ENGINE) == "face_jumps"

    def test_the_number_of_comparisons_is_bounded(self):
        class Counting(SquareFaces):
            count = 0

            def embed(self, rgb, face):
                Counting.count += 1
                return super().embed(rgb, face)

        dataclasses.replace(TRACKER, max_faces=5).follow(scan_of(look(i, "red") for i in range(40)), Counting())
        assert Counting.count == 5


def test_box_overlap():
    def face(left, top, right, bottom):
        return Face((left, top, right, bottom), np.zeros((5, 2), np.float32), 0.9)

    assert box_overlap(face(0, 0, 10, 10), face(0, 0, 10, 10)) == 1
    assert box_overlap(face(0, 0, 10, 10), face(5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_overlap(face(0, 0, 10, 10), face(20, 0, 30, 10)) == 0
    assert box_overlap(face(0, 0, 0, 0), face(0, 0, 0, 0)) == 0


class TestFaceFilter:
    def scan(self, **changes):
        """One frame with a sharp frontal face of 40 px in a picture of 96 px, changed as told."""
        rng = np.random.default_rng(0)
        landmarks = (ARCFACE_TEMPLATE * 40 / 112 + 20).astype(np.float32)
        face = dataclasses.replace(Face((20.0, 20.0, 60.0, 60.0), landmarks, 0.9), **changes)
        thumbnail = rng.integers(0, 256, (112, 112, 3), np.uint8)
        return scan_of([SampledFrame(i, (face,), 0.0, None, thumbnail) for i in range(5)])

    def test_a_good_face_passes(self):
        FILTER.check_several(self.scan())
        FILTER.check_seen(self.scan())
        FILTER.check_quality(self.scan())

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"box": (20.0, 20.0, 60.0, 35.0)}, "face_too_small"),
            ({"box": (-2.0, 0.0, 95.0, 96.0)}, "face_too_large"),
            ({"score": 0.4}, "low_score"),
            ({"landmarks": (ARCFACE_TEMPLATE + np.eye(5)[:, 2:3] * [30, 0]).astype(np.float32)},
             "turned_away"),
            ({"landmarks": (ARCFACE_TEMPLATE + np.eye(5)[:, 2:3] * [0, 30]).astype(np.float32)},
             "turned_away"),
        ],
    )  # fmt: skip
    def test_each_reason(self, changes, expected):
        assert reason(FILTER.check_quality, self.scan(**changes)) == expected

    def test_a_blurred_face(self):
        scan = self.scan()
        flat = np.full((112, 112, 3), 128, np.uint8)
        samples = [dataclasses.replace(sample, thumbnail=flat) for sample in scan.samples]
        assert reason(FILTER.check_quality, scan_of(samples)) == "blurred"

    def test_several_faces_anywhere_count_and_no_face_in_the_scene(self):
        scan = dataclasses.replace(self.scan(), face_counts=(1,) * 8 + (2,) * 2)
        assert reason(FILTER.check_several, scan) == "several_faces"
        empty = [SampledFrame(i, ()) for i in range(3)]
        assert reason(FILTER.check_seen, scan_of([*self.scan().samples, *empty])) == "no_face"
        assert reason(FILTER.check_seen, scan_of([])) == "no_single_face_span"


class TestMotion:
    PICTURE = np.random.default_rng(0).integers(0, 256, (36, 64, 3)).astype(np.int64)

    def test_grain_and_flicker_are_no_motion_and_a_moving_part_is(self):
        rng = np.random.default_rng(1)
        still = [np.clip(self.PICTURE * 0.8 + rng.normal(0, 1, self.PICTURE.shape) + 9 * (i % 2), 0, 255)
                 for i in range(6)]  # fmt: skip
        moving = [picture.copy() for picture in still]
        for i, picture in enumerate(moving):
            picture[10:18, 20:28] = np.roll(picture[10:18, 20:28], i, 1)
        still, moving = ([picture.astype(np.uint8) for picture in pictures] for pictures in (still, moving))
        assert motion_levels(still) < 4 < motion_levels(moving)
        assert motion_levels(still[:1]) == motion_levels([]) == 0

    def test_a_frozen_clip(self):
        samples = [SampledFrame(i, (), 0.0, self.PICTURE.astype(np.uint8)) for i in range(5)]
        assert reason(MotionFilter(4.0).check, samples) == "frozen"
