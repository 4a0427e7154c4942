import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from idanim.toyworld.make_videos import ToyVideo, film, film_into, main, write_videos
from idanim.types import IdanimError
from idanim.video import read_frames


def test_videos_and_their_facts_can_be_read_back(tmp_path: Path) -> None:
    videos = film(num_people=2, clips_per_person=2, num_frames=6, size_px=64, seed=10_001)
    write_videos(tmp_path, videos)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [f"{video.name}.mp4" for video in videos]
    frames = read_frames(tmp_path / f"{videos[0].name}.mp4")
    assert frames.shape == (6, 64, 64, 3)
    assert np.abs(frames.astype(int) - videos[0].frames.astype(int)).mean() < 6
    facts = [json.loads((tmp_path / f"{video.name}.json").read_text()) for video in videos]
    assert facts[0]["identity"] == facts[1]["identity"] != facts[2]["identity"]
    assert facts[0]["truth"]["identity_vector"] == facts[1]["truth"]["identity_vector"]
    assert facts[0]["unified"] != facts[1]["unified"]
    assert len(facts[0]["truth"]["boxes_px"]) == 6
    for clip in facts:
        action = clip["action"].removeprefix("a person ")
        assert action in clip["unified"]
        assert action not in clip["attribute"]


def test_the_same_seed_films_the_same_people() -> None:
    first, second = (film(1, 1, 2, 32, seed=10_001)[0] for _ in range(2))
    np.testing.assert_array_equal(first.frames, second.frames)
    assert first.facts == second.facts


def test_two_processes_film_the_same(tmp_path: Path) -> None:
    make = functools.partial(film, 9, 2, 2, 32, 10_001)
    write_videos(tmp_path / "one", make())
    film_into(tmp_path / "two", 18, make, workers=2)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert len(one) == 36
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def tell_threads_then_die(folder: Path, only: slice) -> list[ToyVideo]:
    if only.start:
        os._exit(9)
    (folder / "threads").write_text(str(torch.get_num_threads()))
    return []


def test_a_process_has_one_thread_and_its_loss_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with pytest.raises(IdanimError, match=r"out is not made: a process was lost.*fewer --workers"):
        film_into(tmp_path / "out", 17, functools.partial(tell_threads_then_die, tmp_path), workers=1)
    assert (tmp_path / "threads").read_text() == "1"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("typed", ["--people=0", "--clips=-1", "--frames=0", "--size=0", "--size=33", "--workers=0"])
def test_counts_that_are_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["make_videos", str(tmp_path / "out"), "--workers=2", typed])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
