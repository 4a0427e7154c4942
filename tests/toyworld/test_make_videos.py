import functools
import json
from pathlib import Path

import numpy as np

from idanim.toyworld.make_videos import film, film_into, write_videos
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
