"""Sparse control on the toy world, with networks of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import SparseControlNetModel
from toy_people import ADAPTER, take_photos

from idanim.assembly import load_sampler
from idanim.generation.control import SparseControl
from idanim.generation.identity import IdTokens
from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.generator import Generator
from idanim.models.tiny import tiny_sparse_control
from idanim.pictures import decode_picture, fitted
from idanim.types import IdanimError

SETTINGS = SamplingSettings(3, 32, 32, 2, 3.0, "", 8)
PROMPT = "a person in front of a blue background"


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return load_sampler(ADAPTER, {}, "cpu")[0]


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    (path,) = take_photos(tmp_path_factory.mktemp("photos"), ["ada.png"])
    return decode_picture(path.read_bytes(), "ada")


@pytest.fixture(scope="module")
def tokens(sampler: Sampler, picture: np.ndarray) -> IdTokens:
    return sampler.id_tokens([picture])


@pytest.fixture(scope="module")
def networks(sampler: Sampler) -> dict[str, SparseControlNetModel]:
    return {kind: tiny_sparse_control(sampler.backbone, kind) for kind in ("rgb", "scribble")}


def frames(sampler: Sampler, tokens: IdTokens | None, control: SparseControl | None) -> np.ndarray:
    return sampler.generate_from(tokens, PROMPT, 1, SETTINGS, control=control).frames


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_pictures_frames_and_scale_count(
    kind: str, sampler: Sampler, tokens: IdTokens, picture: np.ndarray, networks: dict[str, SparseControlNetModel]
) -> None:
    control = SparseControl(networks[kind], (picture,), (0,))
    plain = frames(sampler, tokens, None)
    one = frames(sampler, tokens, control)
    assert np.array_equal(one, frames(sampler, tokens, control))
    others = [
        plain,
        frames(sampler, tokens, replace(control, frames=(2,))),
        frames(sampler, tokens, replace(control, pictures=(picture, 255 - picture), frames=(0, 2))),
        frames(sampler, tokens, replace(control, context="text")),
    ]
    assert not any(np.array_equal(one, other) for other in others)
    assert np.array_equal(frames(sampler, tokens, replace(control, scale=0.0)), plain)
    assert np.array_equal(frames(sampler, tokens, None), plain)  # nothing is left behind


def test_without_id_tokens_both_contexts_are_the_same(
    sampler: Sampler, picture: np.ndarray, networks: dict[str, SparseControlNetModel]
) -> None:
    control = SparseControl(networks["rgb"], (picture,), (1,))
    assert np.array_equal(frames(sampler, None, control), frames(sampler, None, replace(control, context="text")))


def test_what_does_not_fit_is_named(
    sampler: Sampler, tokens: IdTokens, picture: np.ndarray, networks: dict[str, SparseControlNetModel]
) -> None:
    good = SparseControl(networks["rgb"], (picture,), (0,))
    for control, words in (
        (replace(good, frames=(0, 1)), r"1 pictures for 2 frames \[0, 1\]; give each picture one frame"),
        (replace(good, pictures=(), frames=()), "0 pictures for 0 frames"),
        (replace(good, frames=(3,)), r"control.frames=\[3\]: the video has the frames 0 to 2"),
        (replace(good, frames=(-1,)), "the video has the frames 0 to 2"),
        (replace(good, pictures=(picture, picture), frames=(1, 1)), "a frame is named twice"),
        (replace(good, context="both"), "control.context='both': expected one of official, text"),
    ):
        with pytest.raises(IdanimError, match=words):
            frames(sampler, tokens, control)
    long = replace(SETTINGS, num_frames=17, free_noise=True)
    with pytest.raises(IdanimError, match="this control network makes 1 to 16 frames"):
        sampler.generate_from(tokens, PROMPT, 1, long, control=good)


def test_the_generator_without_a_network_says_which_it_needs(tmp_path: Path) -> None:
    generator = object.__new__(Generator)
    generator._network = None
    with pytest.raises(IdanimError, match="take control=scribble or control=rgb"):
        generator.control(["a.png"], [0])


def test_fitted_cuts_the_middle() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert fitted(wide, 20, 20).min() > 200 - 60
    assert fitted(wide, 20, 20)[:, 3:-3].min() > 240
