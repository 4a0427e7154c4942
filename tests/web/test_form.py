"""The fields of the page: what is refused, and how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from idanim.types import IdanimError
from idanim.web.form import MIX, ONE, SWEEP, Form, Limits

LIMITS = Limits(queue=2, upload_mb=1, num_files=2, num_videos=4, num_frames=32, side_px=64, num_steps=20, idle_s=3600)


def form(*photos: Path) -> Form:
    values = ["a person", ONE, "", 3, None, "1", 8, 32, 32, 8.0, False, "ddim", 4, 3.0, "", None, "0", 1.0, "official"]
    return Form.read([str(photo) for photo in photos], *values, "full")


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a.png", "b.JPG"):
        (tmp_path / name).write_bytes(b"picture")
    return tmp_path / "a.png", tmp_path / "b.JPG"


def test_what_the_models_are_asked_for(photos: tuple[Path, Path]) -> None:
    filled = form(*photos)
    filled.check(LIMITS)
    assert filled.photos == photos
    assert filled.control_images == ()
    assert filled.settings() == {
        "num_frames": 8,
        "height": 32,
        "width": 32,
        "fps": 8.0,
        "free_noise": False,
        "scheduler": "ddim",
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "negative_prompt": "",
    }
    assert "height" not in replace(filled, height=None).settings()
    assert replace(filled, seeds="3, 1 3").seed_list() == [3, 1]
    assert replace(filled, control_frames="0, 7").control_frame_list() == [0, 7]


def test_weights_of_the_people(photos: tuple[Path, Path]) -> None:
    assert form(*photos).mixtures() == [[]]
    assert replace(form(*photos), use=MIX).mixtures() == [[0.5, 0.5]]
    assert replace(form(*photos), use=MIX, weights="0.7, 0.3").mixtures() == [[0.7, 0.3]]
    assert replace(form(*photos), use=SWEEP).mixtures() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


def test_mistakes_are_named(photos: tuple[Path, Path], tmp_path: Path) -> None:
    text, large = tmp_path / "words.txt", tmp_path / "large.png"
    text.write_text("no picture")
    large.write_bytes(bytes(2**20 + 1))
    both = form(*photos)
    for wrong, words in (
        (form(), "no photo: upload one"),
        (form(text), r"words\.txt: this kind of file is not taken; expected \.jpg"),
        (form(large), r"large\.png: too large, at most 1 MB"),
        (form(*photos, photos[0]), "3 files: at most 2"),
        (replace(both, prompt=" \n"), "the prompt is empty"),
        (replace(both, num_frames=33), "frames: 33 is too much, at most 32"),
        (replace(both, width=65), "width: 65 is too much, at most 64"),
        (replace(both, num_inference_steps=21), "steps: 21 is too much, at most 20"),
        (replace(both, use=SWEEP, sweep=10**9), "one person to the other: 1e.09 is too much, at most 4"),
        (replace(both, use=SWEEP, sweep=1), "2 photos and 2 or more steps, got 2 photos and 1 steps"),
        (replace(both, use=SWEEP, seeds="1, 2"), "6 videos .* are too many, at most 4"),
        (replace(form(photos[0]), use=MIX), "upload one photo of each"),
        (replace(both, use="nobody"), "the photos show 'nobody'"),
        (replace(both, use=MIX, weights="half, half"), "weights: 'half, half', expected numbers"),
        (replace(both, seeds=""), "seed: '', expected a whole number"),
        (replace(both, seeds="-1"), "seed: '-1', expected a whole number"),
        (replace(both, seeds="1.5"), "seed: '1.5', expected whole numbers"),
        (replace(both, control_images=(text,)), r"words\.txt: this kind of file"),
    ):
        with pytest.raises(IdanimError, match=words):
            wrong.check(LIMITS)
