import math
from itertools import combinations, product

import numpy as np
import pytest

from idanim.metrics.face_track import FaceTrack, sampled_frames
from idanim.metrics.identity import (
    chance_similarity,
    detected_face_similarity,
    different_person_similarity,
    face_detection_rate,
    face_similarity,
    frame_similarities,
    normalised_position,
    other_clip_similarity,
    retrieval_rank1,
    same_clip_similarity,
)


def cosine(a, b):
    """Cosine by plain loops."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def vectors(rng, count, width=16):
    raw = rng.normal(size=(count, width))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def track(found, rng):
    found = np.array(found, dtype=bool)
    return FaceTrack(found, vectors(rng, int(found.sum())) if found.any() else np.zeros((0, 0), np.float32))


def test_similarity_matches_loops_with_faceless_frames_at_zero():
    rng = np.random.default_rng(0)
    video, references = track([True, False, True, True, False], rng), vectors(rng, 3)
    expected, faces = [], iter(video.embeddings)
    for found in video.found:
        face = next(faces) if found else None
        expected.append(0.0 if face is None else sum(cosine(face, r) for r in references) / 3)
    assert frame_similarities(video, references) == pytest.approx(expected, abs=1e-6)
    assert face_similarity(video, references) == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert detected_face_similarity(video, references) == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert face_detection_rate(video) == 0.6


def test_pasted_reference_scores_one_and_its_opposite_minus_one():
    reference = vectors(np.random.default_rng(1), 1)
    everywhere = np.ones(4, bool)
    assert face_similarity(FaceTrack(everywhere, np.repeat(reference, 4, 0)), reference) == pytest.approx(1)
    assert face_similarity(FaceTrack(everywhere, -np.repeat(reference, 4, 0)), reference) == pytest.approx(-1)


def test_video_without_any_face():
    nothing = track([False] * 4, np.random.default_rng(0))
    references = vectors(np.random.default_rng(1), 1)
    assert face_similarity(nothing, references) == 0
    assert detected_face_similarity(nothing, references) is None
    assert face_detection_rate(nothing) == 0
    assert chance_similarity(nothing, [references]) == 0


def test_losing_a_face_never_lifts_the_score_of_a_similar_video():
    rng = np.random.default_rng(2)
    reference = vectors(rng, 1)
    close = reference + 0.3 * vectors(rng, 6)
    scores = [
        face_similarity(FaceTrack(np.arange(6) < kept, close[:kept].astype(np.float32)), reference)
        for kept in range(1, 7)
    ]
    assert scores == sorted(scores)


def test_rank_one_needs_the_right_person_to_be_nearest():
    rng = np.random.default_rng(4)
    person, stranger = vectors(rng, 1), vectors(rng, 1)
    video = FaceTrack(np.ones(3, bool), np.repeat(person, 3, 0))
    assert retrieval_rank1(video, person, [stranger]) == 1
    assert retrieval_rank1(video, stranger, [person]) == 0
    assert retrieval_rank1(video, person, [person]) == 0  # a tie is no hit
    assert retrieval_rank1(video, person, []) is None
    assert retrieval_rank1(track([False] * 3, rng), person, [stranger]) == 0


def test_chance_is_the_mean_over_other_people():
    rng = np.random.default_rng(3)
    video, others = track([True, True, False], rng), [vectors(rng, 2), vectors(rng, 1)]
    by_hand = [face_similarity(video, other) for other in others]
    assert chance_similarity(video, others) == pytest.approx(sum(by_hand) / 2)
    assert chance_similarity(video, []) is None


def test_vectors_of_another_recogniser_or_without_direction_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="different recognisers"):
        face_similarity(track([True], rng), vectors(rng, 1, width=8))
    with pytest.raises(ValueError, match="no direction"):
        face_similarity(track([True], rng), np.zeros((1, 16), np.float32))
    with pytest.raises(ValueError, match="references have shape"):
        face_similarity(track([True], rng), np.zeros((0, 16), np.float32))


def test_real_pairs_match_loops_over_all_pairs():
    rng = np.random.default_rng(4)
    clips = [vectors(rng, count) for count in (3, 1, 4)]
    between = [np.mean([cosine(a, b) for a, b in product(left, right)]) for left, right in combinations(clips, 2)]
    assert other_clip_similarity(clips) == pytest.approx(np.mean(between), abs=1e-6)
    within = [np.mean([cosine(a, b) for a, b in combinations(clip, 2)]) for clip in clips if len(clip) > 1]
    assert same_clip_similarity(clips) == pytest.approx(np.mean(within), abs=1e-6)
    assert other_clip_similarity(clips[:1]) is None
    assert same_clip_similarity(clips[1:2]) is None


def test_different_people_match_loops_over_all_pairs():
    rng = np.random.default_rng(5)
    people = {name: [vectors(rng, count) for count in counts] for name, counts in {"a": (2, 3), "b": (1,)}.items()}
    people["c"] = [vectors(rng, 4)]
    faces = {name: np.concatenate(clips) for name, clips in people.items()}
    values = different_person_similarity(people)
    for name in people:
        pairs = [
            np.mean([cosine(x, y) for x, y in product(faces[name], faces[other])]) for other in people if other != name
        ]
        assert values[name] == pytest.approx(np.mean(pairs), abs=1e-6)
    assert different_person_similarity({"a": people["a"]}) == {"a": None}


def test_normalised_position():
    assert normalised_position(0.1, 0.1, 0.7) == 0
    assert normalised_position(0.7, 0.1, 0.7) == pytest.approx(1)
    assert normalised_position(0.4, 0.1, 0.7) == pytest.approx(0.5)
    assert normalised_position(0.4, 0.7, 0.1) is None


def test_sampled_frames_are_spread_from_first_to_last():
    assert sampled_frames(16, 16).tolist() == list(range(16))
    assert sampled_frames(5, 16).tolist() == [0, 1, 2, 3, 4]
    assert sampled_frames(101, 5).tolist() == [0, 25, 50, 75, 100]
    assert sampled_frames(1, 1).tolist() == [0]
    with pytest.raises(ValueError, match="at least 1"):
        sampled_frames(0, 4)
