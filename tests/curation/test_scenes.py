"""Scene cuts: found where they are, also close to the ends, and not where something merely moves."""

import numpy as np
import pytest

from idanim.curation.scenes import CutFinder, Scenes
from idanim.types import IdanimError

SCENES = Scenes(min_change=15.0, min_ratio=3.0, window_frames=2, margin_frames=1)


def cuts(frames):
    finder = CutFinder(SCENES)
    found = [cut for frame in frames for cut in finder.push(frame)]
    return [cut for cut in found + finder.finish() if cut < len(frames)]


def scene(seed, num_frames, speed=0):
    rng = np.random.default_rng(seed)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (9, 16, 3)), 4, 0), 4, 1)
    grain = rng.integers(-4, 5, (num_frames, *picture.shape))
    return [np.clip(np.roll(picture, speed * i, 1) + grain[i], 0, 255).astype(np.uint8) for i in range(num_frames)]


@pytest.mark.parametrize(("before", "after"), [(20, 20), (1, 20), (2, 20), (20, 1), (20, 2), (2, 2)])
def test_a_cut_is_found_wherever_it_is(before, after):
    assert cuts(scene(0, before) + scene(1, after)) == [before]


def test_several_cuts():
    assert cuts(scene(0, 12) + scene(1, 9) + scene(2, 30)) == [12, 21]


@pytest.mark.parametrize("speed", [0, 1, 3])
def test_grain_and_movement_are_no_cut(speed):
    assert cuts(scene(0, 40, speed)) == []


def test_a_cut_is_known_in_time():
    finder = CutFinder(SCENES)
    for i, frame in enumerate(scene(0, 30) + scene(1, 30)):
        if finder.push(frame):
            assert 30 <= i <= 30 + finder.lag_frames
            return
    pytest.fail("no cut")


@pytest.mark.parametrize("num_frames", [0, 1, 2])
def test_hardly_any_frames(num_frames):
    assert cuts(scene(0, num_frames)) == []


def test_settings_that_make_no_sense():
    with pytest.raises(IdanimError, match="window_frames=0"):
        Scenes(15.0, 3.0, 0, 1)
