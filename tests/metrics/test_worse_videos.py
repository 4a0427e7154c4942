"""A worse video never scores better: good videos are spoilt, and the figure that should notice falls."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from idanim.faces.align import aligned_crop
from idanim.metrics.people import Person, with_views
from idanim.metrics.protocols import Judges
from idanim.metrics.scoring import VideoScore, score_video
from idanim.metrics.videos import VideoRecord
from idanim.toyworld.faces import ToyFaceEngine
from idanim.toyworld.make_videos import film
from idanim.toyworld.shipped import shipped

NUM_PEOPLE, NUM_FRAMES, SIZE_PX = 6, 6, 48
CASES = range(NUM_PEOPLE)


class World:
    """People with two clips each: a reference picture from the first, and the second as a perfect video."""

    def __init__(self) -> None:
        self.engine = ToyFaceEngine(shipped("faces"))
        clips = [video.frames for video in film(NUM_PEOPLE, 2, NUM_FRAMES, SIZE_PX, seed=20_300)]
        self.first, self.second = clips[::2], clips[1::2]
        self.people = {str(i): self.person(str(i), first, second) for i, (first, second) in enumerate(self.pairs())}

    def pairs(self):
        return zip(self.first, self.second, strict=True)

    def person(self, name: str, first: np.ndarray, second: np.ndarray) -> Person:
        faces = [self.engine.detect(frames[0])[0] for frames in (first, second)]
        vectors = [
            self.engine.embed(frames[0], face)[None] for frames, face in zip((first, second), faces, strict=True)
        ]
        crop = aligned_crop(first[0], faces[0].landmarks, SIZE_PX)
        return with_views(Person(name, (crop,), vectors[0], tuple(vectors), "toy"), self.engine)

    def score(self, case: int, frames: np.ndarray) -> VideoScore:
        (score,) = score_video(
            "v", VideoRecord("a person", str(case)), frames, self.people, Judges(self.engine), NUM_FRAMES
        )
        return score


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def good(world) -> list[VideoScore]:
    return [world.score(case, frames) for case, frames in enumerate(world.second)]


def blanked(frames: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Some frames replaced by one flat grey."""
    worse = frames.copy()
    worse[rng.choice(len(frames), count, replace=False)] = 128
    return worse


def noisy(frames: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Pixel noise of a standard deviation in grey levels."""
    return (frames + rng.normal(0, sigma, frames.shape)).clip(0, 255).astype(np.uint8)


def test_good_videos_are_good(good):
    for score in good:
        assert score.face_detection_rate == 1
        assert score.face_similarity > 0.6
        assert score.retrieval_rank1 == 1
        assert score.motion > 0
        assert score.face_motion > 0
        assert abs(score.identity_drift) < 0.3
        assert score.pose_similarity > 0.7
        assert score.copy_paste < 0  # nearer to other pictures of the person than to the reference


@pytest.mark.parametrize("case", CASES)
def test_every_blank_frame_costs(world, good, case):
    rng = np.random.default_rng(case)
    for count in range(1, NUM_FRAMES + 1):
        after = world.score(case, blanked(world.second[case], count, rng))
        assert after.face_detection_rate == pytest.approx(1 - count / NUM_FRAMES)
        assert after.face_similarity < good[case].face_similarity * (1 - 0.5 * count / NUM_FRAMES)
        assert after.temporal_consistency < good[case].temporal_consistency
    blank = world.score(case, blanked(world.second[case], NUM_FRAMES, rng))
    assert blank.face_similarity == blank.temporal_consistency == blank.retrieval_rank1 == 0
    assert blank.copy_paste is None
    assert blank.pose_similarity is None
    assert blank.identity_drift is None


@pytest.mark.parametrize("case", CASES)
def test_noise_costs(world, good, case):
    rng = np.random.default_rng(case)
    mild, strong = (world.score(case, noisy(world.second[case], sigma, rng)) for sigma in (60, 120))
    assert strong.face_similarity < mild.face_similarity + 0.05 < good[case].face_similarity + 0.05
    assert strong.face_similarity < 0.8 * good[case].face_similarity
    assert strong.temporal_consistency < good[case].temporal_consistency
    assert strong.motion > good[case].motion  # flicker passes for motion, as documented


@pytest.mark.parametrize("case", CASES)
def test_somebody_else_scores_at_the_floor(world, good, case):
    """The right person must be told from any other; half a video of another costs half as much."""
    stranger = world.second[(case + 1) % NUM_PEOPLE]
    swapped = world.score(case, stranger)
    assert swapped.face_similarity < 0.35 < 0.6 < good[case].face_similarity
    assert swapped.retrieval_rank1 == 0
    half = np.concatenate([world.second[case][: NUM_FRAMES // 2], stranger[NUM_FRAMES // 2 :]])
    mixed = world.score(case, half)
    assert swapped.face_similarity < mixed.face_similarity < good[case].face_similarity
    assert mixed.temporal_consistency < good[case].temporal_consistency
    assert mixed.identity_drift < -0.3


@pytest.mark.parametrize("case", CASES)
def test_frozen_video_has_no_motion(world, case):
    frozen = world.score(case, np.repeat(world.second[case][:1], NUM_FRAMES, 0))
    assert frozen.motion == frozen.face_motion == frozen.background_motion == 0
    assert frozen.identity_drift == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_pasted_reference_is_told_from_a_new_picture_of_the_person(world, good, case):
    """Its face similarity is higher, so the figures of copying must say why."""
    pasted = world.score(case, np.repeat(world.first[case][:1], NUM_FRAMES, 0))
    assert pasted.face_similarity > good[case].face_similarity
    assert pasted.copy_paste == pytest.approx(1, abs=0.01)
    assert pasted.copy_paste > good[case].copy_paste + 1
    assert pasted.pose_similarity > 0.99
    assert pasted.background_similarity > good[case].background_similarity
    assert pasted.motion == 0


def test_scores_depend_on_the_video_alone(world, good):
    """Not on order, on what was scored before, or on how many people are compared."""
    again = [world.score(case, world.second[case]) for case in reversed(CASES)]
    assert again[::-1] == good


def _score_every_second(folder: str, rank: int) -> None:
    """What one of two processes does; it knows nothing of the other."""
    world = World()
    scores = {case: world.score(case, world.second[case]) for case in CASES if case % 2 == rank}
    Path(folder, str(rank)).write_bytes(pickle.dumps(scores))


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(good, tmp_path):
    """Each scores half of the videos; together they are the same to the last bit."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_score_every_second, args=(str(tmp_path), rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    halves = [pickle.loads((tmp_path / str(rank)).read_bytes()) for rank in (0, 1)]
    assert [halves[case % 2][case] for case in CASES] == good
