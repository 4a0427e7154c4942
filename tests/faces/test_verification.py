"""Verification against plain loops, and the program on labelled photos."""

from __future__ import annotations

import itertools
import re
import sys

import numpy as np
import pytest
from PIL import Image
from toy_people import take_photos

from idanim.faces.__main__ import main
from idanim.faces.verification import accuracy, best_threshold, tar_at_far, verify


def toy_scores(seed=0, num_same=23, num_different=61):
    rng = np.random.default_rng(seed)
    similarities = np.concatenate([rng.normal(0.6, 0.2, num_same), rng.normal(0.1, 0.2, num_different)])
    order = rng.permutation(len(similarities))
    return similarities[order], (np.arange(len(similarities)) < num_same)[order]


def share_right(similarities, same, threshold):
    return sum((s >= threshold) == k for s, k in zip(similarities, same, strict=True)) / len(same)


@pytest.mark.parametrize("seed", range(4))
def test_threshold_is_the_best_of_all(seed):
    similarities, same = toy_scores(seed)
    best = max(share_right(similarities, same, t) for t in np.linspace(-1, 2, 3001))
    assert share_right(similarities, same, best_threshold(similarities, same)) >= best


def test_accuracy_judges_each_fold_by_the_others():
    similarities, same = toy_scores(1)
    place = {True: itertools.count(), False: itertools.count()}
    folds = [next(place[bool(k)]) % 10 for k in same]
    right = 0
    for fold in range(10):
        inside = np.array([f == fold for f in folds])
        threshold = best_threshold(similarities[~inside], same[~inside])
        right += sum((s >= threshold) == k for s, k in zip(similarities[inside], same[inside], strict=True))
    assert accuracy(similarities, same) == pytest.approx(right / len(same))


def test_tar_at_far_by_counting():
    similarities, same = toy_scores(2, num_different=100)
    for rate, share in tar_at_far(similarities, same, [0.1, 0.01, 0.0]).items():
        strangers = similarities[~same]
        thresholds = [t for t in similarities[~same] if (strangers > t).mean() <= rate + 1e-12]
        assert share == pytest.approx((similarities[same] > min(thresholds)).mean())


def test_people_who_are_easy_and_hard_to_tell_apart():
    ann, bob = np.eye(4, dtype=np.float32)[:2]
    result = verify([ann, ann, bob, bob], ["ann", "ann", "bob", "bob"])
    assert (result.accuracy, result.num_same, result.num_different) == (1, 2, 4)
    assert 0 < result.threshold <= 1
    assert result.tar_at_far == {}  # four pairs show no rate of a tenth
    blind = verify([ann] * 12, ["ann", "bob"] * 6)
    assert blind.accuracy == pytest.approx(36 / 66)  # everybody looks alike: all are called different
    assert blind.tar_at_far == {0.1: 0.0}


def test_pairs_of_both_kinds_are_needed():
    ann, bob = np.eye(4, dtype=np.float32)[:2]
    with pytest.raises(ValueError, match="0 pairs of one person and 1 of two"):
        verify([ann, bob], ["ann", "bob"])
    with pytest.raises(ValueError, match="1 pairs of one person and 0 of two"):
        verify([ann, ann], ["ann", "ann"])


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["faces", *map(str, arguments)])
    main()


def test_program_lists_files_without_a_face(tmp_path, monkeypatch, capsys):
    for name in ("ann", "bob"):  # films of one seed show the same people
        take_photos(tmp_path, [f"ann__{name}.png", f"bob__{name}.png", f"cy__{name}.png"])
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / "ann__blank.png")
    run(monkeypatch, "verify", tmp_path, "faces=toy")
    printed = capsys.readouterr().out
    assert re.search(r"^engine +toy/b-", printed, re.M)
    assert re.search(r"^accuracy +1\.0000$", printed, re.M)
    assert "3 of one person, 12 of two people" in printed
    assert "no face, left out: ann__blank.png" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage: python -m idanim.faces verify"),
        (("verify", "/nowhere", "faces=toy"), "there is no such folder"),
        (("verify", "{empty}", "faces=toy"), "0 pairs of one person"),
    ],
)
def test_mistakes_are_named(tmp_path, monkeypatch, arguments, message):
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, *(a.format(empty=tmp_path) for a in arguments))


@pytest.mark.real_input
def test_the_small_pack_tells_real_people_apart(real_dir, monkeypatch, capsys):
    pytest.importorskip("insightface")
    root = real_dir / "models/insightface"
    run(monkeypatch, "verify", real_dir / "photos", "faces.pack=yunet_mobilefacenet", f"faces.root={root}")
    printed = capsys.readouterr().out
    match = re.search(r"^accuracy +([\d.]+)$", printed, re.M)
    assert match is not None
    assert float(match[1]) >= 0.99
    assert "no face, left out: no_face__0.jpg" in printed
    assert re.search(r"several faces, left out: .*several_faces__0\.jpg", printed)
