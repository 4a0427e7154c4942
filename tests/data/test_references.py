from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
from drawn_people import face_meta, make_sample

from idanim.data import references
from idanim.data.references import NoReferenceError
from idanim.types import IdanimError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


META = make_sample(1, clip=0, num_clips=3).meta


def test_sizes_that_are_none_are_refused():
    for bad in (0, -1, 1.5):
        with pytest.raises(IdanimError, match=f"pool_size={bad}: expected 1 or more"):
            references.checked_random_reference(bad)
        with pytest.raises(IdanimError, match=f"num_references={bad}: expected 1 or more"):
            references.checked_multi(bad)
    assert references.checked_random_reference(2)(META, rng()) == references.random_reference(META, rng(), 2)
    assert references.checked_multi(4)(META, rng()) == references.multi(META, rng(), 4)


def test_first_frame_takes_the_whole_frame() -> None:
    assert references.first_frame(META, rng()) == ["frame.jpg"]


def test_same_face_comes_from_the_first_frame() -> None:
    (name,) = references.same_face(META, rng())
    assert META.faces[int(name.split(".")[1])].role == "first_frame"


def test_random_takes_every_face_of_the_own_pool_and_no_other() -> None:
    seen = {references.random_reference(META, rng(seed))[0] for seed in range(200)}
    assert seen == {f"face.{i}.jpg" for i in range(5)}


def test_a_smaller_pool_is_always_the_same_part_of_a_larger_one() -> None:
    seen = [
        {references.random_reference(META, rng(seed), pool_size=size)[0] for seed in range(100)} for size in (1, 2, 9)
    ]
    assert [len(names) for names in seen] == [1, 2, 5]
    assert seen[0] < seen[1] < seen[2]


def test_strategies_depend_on_nothing_but_the_generator() -> None:
    for strategy in (references.random_reference, references.multi, references.cross_clip):
        assert strategy(META, rng(7)) == strategy(META, rng(7))


def test_multi_takes_different_faces_and_repeats_a_small_pool() -> None:
    names = references.multi(META, rng(), num_references=3)
    assert len(set(names)) == 3
    assert len(references.multi(META, rng(), num_references=8)) == 8


def test_cross_clip_never_takes_a_near_duplicate_or_a_stranger() -> None:
    near = face_meta("p001__9", 1, 0, "pool", noise=0.0)
    stranger = face_meta("p001__8", 55, 0, "pool")
    good = face_meta("p001__7", 1, 5, "pool", noise=1.0)
    meta = dataclasses.replace(META, faces=(*META.faces[:6], near, stranger, good))
    similarity = np.array(good.embedding) @ np.array([f.embedding for f in META.faces[:6]]).T
    assert 0.4 < similarity.max() < 0.9
    strategy = partial(references.cross_clip, min_similarity=0.4, max_similarity=0.9)
    assert {strategy(meta, rng(seed))[0] for seed in range(50)} == {"face.8.jpg"}


def test_cross_clip_needs_another_clip() -> None:
    with pytest.raises(NoReferenceError, match="another clip"):
        references.cross_clip(make_sample(1).meta, rng())


def test_mixed_draws_by_weight_and_falls_back() -> None:
    strategies = {"random": references.random_reference, "first": references.first_frame}
    drawn = [
        references.mixed(META, rng(seed), strategies, {"random": 0.25, "first": 0.75}) == ["frame.jpg"]
        for seed in range(400)
    ]
    assert 0.68 < np.mean(drawn) < 0.82
    lonely = make_sample(1).meta
    both = {"cross_clip": references.cross_clip, "random": references.random_reference}
    assert references.mixed(lonely, rng(), both, {"cross_clip": 1.0, "random": 1e-9})[0].startswith("face.")
    with pytest.raises(NoReferenceError, match="for any of"):
        references.mixed(lonely, rng(), {"cross_clip": references.cross_clip}, {"cross_clip": 1.0})
