from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from idanim.metrics.people import Person
from idanim.metrics.prompts import load_prompts
from idanim.metrics.scoring import score_unreadable
from idanim.metrics.videos import VideoRecord
from idanim.toyworld.captions import caption
from idanim.toyworld.make_videos import film
from idanim.toyworld.people import ACTIONS, HAIR_STYLES, sample_attributes
from idanim.toyworld.prompt_reader import ToyPromptReader, asked_for
from idanim.toyworld.shipped import shipped


@pytest.fixture(scope="module")
def reader() -> ToyPromptReader:
    return ToyPromptReader(shipped("readers"))


def test_words_are_read_as_they_were_written() -> None:
    attributes = sample_attributes(300, torch.Generator().manual_seed(0))
    for clip in range(300):
        expected = {name: int(column[clip]) for name, column in attributes._asdict().items()}
        if HAIR_STYLES[expected["hair_style"]] == "bald":
            del expected["hair_colour"]  # not said
        assert asked_for(caption(attributes, clip)) == expected


def test_what_is_not_said_is_not_asked_for() -> None:
    assert asked_for("a person") == {}
    assert asked_for("a person wearing a red hat") == {"hat": 1}
    assert asked_for("a person is smiling") == {"action": ACTIONS.index("smiling")}


def test_a_full_stop_hides_nothing() -> None:
    text = "A person with no hat, smiling. Green background; glasses!"
    plain = "a person with no hat smiling green background glasses"
    assert asked_for(text) == asked_for(plain)
    assert asked_for(text).keys() == {"hat", "action", "background", "glasses"}


def test_prompts_of_studies_ask_for_different_actions_in_known_words() -> None:
    asked = [asked_for(prompt.text) for prompt in load_prompts("toy_study")]
    assert len({a["action"] for a in asked}) == len(asked) == 8
    assert all({"background", "shirt", "hat", "glasses", "hair_style"} <= a.keys() for a in asked)


def test_right_prompts_score_above_those_of_others(reader: ToyPromptReader) -> None:
    videos = film(24, clips_per_person=1, num_frames=8, size_px=32, seed=31000)
    prompts = [str(video.facts["unified"]) for video in videos]
    right = [reader.read(v.frames, p) for v, p in zip(videos, prompts, strict=True)]
    wrong = [reader.read(v.frames, p) for v, p in zip(videos, prompts[1:] + prompts[:1], strict=True)]
    means = [[sum(x[i] for x in rows) / len(rows) for i in (0, 1)] for rows in (right, wrong)]
    assert means[0][0] > 0.85
    assert means[1][0] < 0.6
    assert means[0][1] > means[1][1] + 0.2


def test_what_is_not_asked_has_no_score(reader: ToyPromptReader) -> None:
    (video,) = film(1, clips_per_person=1, num_frames=8, size_px=32, seed=31000)
    assert reader.read(video.frames, "a photo of somebody") == (None, None)
    attributes, action = reader.read(video.frames[:4], "a person wearing a red hat smiling")
    assert attributes is not None
    assert action is None  # too short to tell


def test_the_name_is_of_both_networks(reader: ToyPromptReader, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped("readers"), tmp_path / "readers"))
    assert ToyPromptReader(folder).name == reader.name
    weights = load_file(folder / "action_reader.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "action_reader.safetensors")
    assert ToyPromptReader(folder).name != reader.name


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of somebody", (None, None)),
        ("a person wearing a red hat", (0.0, None)),
        ("a person is smiling", (None, 0.0)),
        ("a person wearing a red hat smiling", (0.0, 0.0)),
    ],
)
def test_a_video_that_is_not_there_follows_nothing_that_is_asked(
    reader: ToyPromptReader, prompt: str, expected: tuple[float | None, float | None]
) -> None:
    (video,) = film(1, clips_per_person=1, num_frames=8, size_px=32, seed=31000)
    assert tuple(value is None for value in reader.read(video.frames, prompt)) == tuple(v is None for v in expected)
    ann = Person("ann", (), np.ones((1, 4), np.float32), (), "photos")
    (score,) = score_unreadable("x.mp4", VideoRecord(prompt, "ann"), {"ann": ann}, "missing", reader=reader)
    assert (score.prompt_attributes, score.prompt_action) == expected
    (score,) = score_unreadable("x.mp4", VideoRecord(prompt, "ann"), {"ann": ann}, "missing")
    assert (score.prompt_attributes, score.prompt_action) == (None, None)
