import json
from dataclasses import replace

import numpy as np
import pytest

from idanim.metrics.intervals import Interval, bootstrap_interval
from idanim.metrics.report import difference_table, summary_table
from idanim.metrics.scoring import VideoScore
from idanim.metrics.summary import normalise, per_identity, report, summarise_real


def score(video, identity, similarity, shown=None, system="adapter", group="all", motion=0.1, detected=True):
    return VideoScore(
        video=video,
        system=system,
        identity=identity,
        shown=identity if shown is None else shown,
        prompt=video,
        group=group,
        seed=0,
        num_frames=4,
        num_faces=4 if detected else 0,
        face_similarity=similarity,
        detected_face_similarity=similarity if detected else None,
        chance_similarity=0.05,
        retrieval_rank1=float(detected),
        face_detection_rate=float(detected),
        motion=motion,
    )


def unit_vectors(seed, count):
    raw = np.random.default_rng(seed).normal(size=(count, 8))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


SCORES = [
    score("a0", "a", 0.6, group="hair"),
    score("a1", "a", 0.0, group="action", detected=False),
    score("b0", "b", 0.2, group="hair"),
    score("b1", "b", 0.4, group="action"),
]
PEOPLE = {name: [unit_vectors(i, 2), unit_vectors(i + 9, 1)] for i, name in enumerate("ab")}


def test_videos_of_one_person_are_averaged_before_the_interval():
    assert per_identity(SCORES, "face_similarity") == {"a": pytest.approx(0.3), "b": pytest.approx(0.3)}
    assert per_identity(SCORES, "detected_face_similarity") == {"a": pytest.approx(0.6), "b": pytest.approx(0.3)}
    figure = report(SCORES, PEOPLE, "adapter", seed=5)["summary"]["detected_face_similarity"]
    expected = bootstrap_interval([0.6, 0.3], np.random.default_rng(5))
    assert (figure["mean"], figure["low"], figure["high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )
    assert figure["n"] == 2


def test_video_of_nobody_is_one_observation_however_many_it_is_compared_with():
    baseline = [score("x", name, value, shown="", system="no_adapter") for name, value in (("a", 0.1), ("b", 0.3))]
    summary = report(SCORES + baseline, PEOPLE, "adapter")["summary"]
    assert summary["no_adapter/face_similarity"]["n"] == 2
    assert summary["no_adapter/face_similarity"]["mean"] == pytest.approx(0.2)
    assert summary["no_adapter/motion"] == {"mean": 0.1, "low": None, "high": None, "n": 1}
    assert summary["face_similarity"]["mean"] == pytest.approx(0.3)


def test_groups_and_identities():
    result = report(SCORES, PEOPLE, "adapter")
    assert result["groups"]["adapter"]["hair"]["face_similarity"]["mean"] == pytest.approx(0.4)
    assert result["groups"]["adapter"]["action"]["face_detection_rate"]["mean"] == pytest.approx(0.5)
    first = result["identities"][0]
    assert (first["system"], first["identity"], first["num_videos"]) == ("adapter", "a", 2)


def test_report_is_strict_json_with_null_where_nothing_is_defined():
    scores = [score("a0", "a", 0.0, detected=False, motion=None)]
    result = report(scores, {"a": []}, "adapter")
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text)["summary"]["detected_face_similarity"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert result["summary"]["normalised_similarity"]["mean"] is None


def test_figures_do_not_depend_on_the_order_of_videos():
    scores = [*SCORES, score("c0", "c", 0.9)]
    forwards, backwards = report(scores, PEOPLE, "adapter"), report(scores[::-1], PEOPLE, "adapter")
    assert forwards["summary"]["face_similarity"] == backwards["summary"]["face_similarity"]


def test_real_pairs_are_of_other_clips_where_there_are_any():
    figures, pairs = summarise_real(PEOPLE, seed=0)
    assert pairs == "other clips"
    assert figures["real_pair_similarity"].n == 2
    figures, pairs = summarise_real({"a": [unit_vectors(0, 3)], "b": [unit_vectors(1, 1)]}, seed=0)
    assert pairs == "same clip"
    assert figures["real_pair_similarity"].n == 1


def test_nobody_seen_is_nowhere_between_strangers_and_the_person():
    nobody = [score(f"n{name}", name, 0.0, detected=False) for name in "ab"]
    summary = report(nobody, PEOPLE, "adapter")["summary"]
    assert summary["face_similarity"]["mean"] == 0
    assert summary["normalised_similarity"] == {"mean": None, "low": None, "high": None, "n": 0}


def test_normalised_keeps_the_interval_and_needs_a_ceiling_above_the_floor():
    real = {"real_pair_similarity": Interval(0.7, 0.6, 0.8, 4), "different_person_similarity": Interval(0.1, 0, 0.2, 4)}
    found = normalise(Interval(0.4, 0.1, 0.7, 5), real)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((0.5, 0, 1, 5))
    assert normalise(Interval(0.4, 0.1, 0.7, 5), dict.fromkeys(real, real["real_pair_similarity"])).n == 0


def test_table_folds_and_aligns():
    table = summary_table(report(SCORES, PEOPLE, "adapter")["summary"])
    assert max(map(len, table.text().splitlines())) > 60
    folded = table.text(60)
    assert folded.count("face_detection_rate") >= 2
    assert "| metric | mean |" in table.markdown()


def test_systems_are_compared_on_the_part_of_the_grid_that_both_have():
    other = [
        score("c0", "a", 0.1, group="hair", system="init"),
        score("c1", "b", 0.1, group="hair", system="init"),
    ]
    own = [replace(s, prompt="a hat") for s in (SCORES[0], SCORES[2])]
    extra = replace(score("z", "a", -1.0), prompt="only here")
    scores = [*own, extra, *(replace(s, prompt="a hat") for s in other)]
    rows = {row["metric"]: row for row in report(scores, PEOPLE, "adapter")["differences"]}
    found = rows["face_similarity"]
    assert (found["system"], found["minus"], found["n"]) == ("adapter", "init", 2)
    assert found["mean"] == pytest.approx(((0.6 - 0.1) + (0.2 - 0.1)) / 2)
    assert found["p"] == 0.5  # two people can't show more
    assert "copy_paste" not in rows  # nobody has a value
    assert report(SCORES, PEOPLE, "adapter")["differences"] == []
    assert "adapter − init" in difference_table(report(scores, PEOPLE, "adapter")["differences"]).text()


def test_a_baseline_of_nobody_stands_against_everybody_in_the_scores_of_a_video():
    """One video of nobody, compared with two people: their own videos move by .1 and .3 more."""
    baseline = [score("x", name, 0.0, shown="", system="no_adapter") for name in ("a", "b")]
    baseline = [replace(s, motion=0.2, prompt="a hat") for s in baseline]
    own = [
        replace(score(f"{name}0", name, 0.5), motion=motion, prompt="a hat")
        for name, motion in (("a", 0.3), ("b", 0.5))
    ]
    rows = {row["metric"]: row for row in report([*own, *baseline], PEOPLE, "adapter")["differences"]}
    assert rows["motion"]["n"] == 2
    assert rows["motion"]["mean"] == pytest.approx(0.2)


def test_only_cells_with_a_value_in_both_are_paired():
    """One system's second video can't be read: what the other scores there must not count against it."""
    own = [
        replace(score("a0", "a", 0.5), motion=0.1, prompt="one"),
        replace(score("a1", "a", 0.5), motion=None, prompt="two"),
    ]
    other = [
        replace(score("c0", "a", 0.5, system="init"), motion=0.1, prompt="one"),
        replace(score("c1", "a", 0.5, system="init"), motion=0.9, prompt="two"),
    ]
    rows = {row["metric"]: row for row in report([*own, *other], PEOPLE, "adapter")["differences"]}
    assert rows["motion"]["mean"] == pytest.approx(0)
    assert rows["face_similarity"]["n"] == 1
