import math

import numpy as np
import pytest

from idanim.metrics.consistency import consecutive_similarity, identity_drift, temporal_consistency
from idanim.metrics.face_track import FaceTrack


def at(*degrees):
    """Unit vectors in a plane, at these angles."""
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], np.float32)


def track(found, vectors):
    return FaceTrack(np.array(found, bool), vectors)


NOTHING = track([0, 0, 0], np.zeros((0, 0), np.float32))


def test_turning_by_sixty_degrees_a_frame():
    assert consecutive_similarity(at(0, 60, 120)) == pytest.approx(0.5)
    assert temporal_consistency(track([1, 1, 1], at(0, 60, 120))) == pytest.approx(0.5)
    assert consecutive_similarity(5.0 * at(0, 60, 120)) == pytest.approx(0.5)


def test_still_video_is_steady():
    assert consecutive_similarity(at(30, 30, 30)) == pytest.approx(1)
    assert temporal_consistency(track([1, 1, 1], at(30, 30, 30))) == pytest.approx(1)


def test_a_face_that_comes_and_goes_is_not_steady():
    assert temporal_consistency(track([1, 0, 1, 0, 1], at(0, 0, 0))) == 0
    assert temporal_consistency(track([1, 1, 0, 1, 1], at(0, 0, 0, 0))) == pytest.approx(0.5)
    assert temporal_consistency(NOTHING) == 0


def test_drift_is_the_slope_of_a_fitted_line():
    angles = (10, 20, 15, 60, 80)
    similarities = [math.cos(math.radians(a)) for a in angles]
    slope = np.polyfit(np.arange(5), similarities, 1)[0]
    assert identity_drift(track([1] * 5, at(*angles)), at(0)) == pytest.approx(4 * slope, abs=1e-6)


def test_drift_of_known_videos():
    assert identity_drift(track([1] * 4, at(40, 40, 40, 40)), at(0)) == pytest.approx(0, abs=1e-6)
    assert identity_drift(track([1, 1], at(0, 90)), at(0)) == pytest.approx(-1, abs=1e-6)
    assert identity_drift(track([1, 1], at(90, 0)), at(0)) == pytest.approx(1, abs=1e-6)
    assert identity_drift(track([1, 1, 0, 0], at(0, 0)), at(0)) < -1  # the face is lost
    assert identity_drift(NOTHING, at(0)) is None


def test_single_frame_has_neither():
    single = track([1], at(0))
    assert consecutive_similarity(at(0)) is None
    assert temporal_consistency(single) is None
    assert identity_drift(single, at(0)) is None
