"""What the layers attend to among the id tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_people import take_photos

from idanim.generator import Generator
from idanim.models.adapter import FaceAdapter
from idanim.models.attention import attend
from idanim.models.attention_maps import AttentionRecorder, id_token_attention, layer_size, recorded_attention
from idanim.models.tiny import tiny_backbone
from idanim.types import IdanimError

FRAMES, QUERIES = 3, 4


@pytest.mark.parametrize("key_rows", [1, 2, 6])
def test_the_weights_are_those_of_attention(key_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 10, 8, generator=generator)
    key, value = torch.randn(2, key_rows, 5, 8, generator=generator)
    one_head = id_token_attention(query, key, heads=1)
    values = value.repeat_interleave(6 // key_rows, dim=0)
    assert torch.allclose(one_head @ values, attend(query, key, value, heads=1), atol=1e-6)
    two_heads = id_token_attention(query, key, heads=2)
    assert torch.allclose(two_heads.sum(-1), torch.ones(6, 10), atol=1e-6)
    halves = [id_token_attention(query[..., part], key[..., part], 1) for part in (slice(0, 4), slice(4, 8))]
    assert torch.allclose(two_heads, (halves[0] + halves[1]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "cells", "size"),
    [
        ((512, 384), 64 * 48, (64, 48)),
        ((64, 64), 64, (8, 8)),
        ((5, 8), 40, (5, 8)),
        ((5, 8), 12, (3, 4)),
        ((5, 8), 1, (1, 1)),
        ((9, 7), 6, (3, 2)),
    ],
)
def test_sizes_of_layers(pixels: tuple[int, int], cells: int, size: tuple[int, int]) -> None:
    assert layer_size(*pixels, cells) == size


def test_a_layer_that_does_not_fit() -> None:
    with pytest.raises(IdanimError, match="a layer of 7 cells does not fit a video of 8 × 8"):
        layer_size(8, 8, 7)


def test_recording_changes_nothing_and_ends() -> None:
    backbone = tiny_backbone()
    adapter = FaceAdapter(backbone, 48, QUERIES, depth=1, dim_head=8, heads=2).requires_grad_(False)
    adapter.attach(backbone)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, FRAMES, 4, 8, generator=generator)
    context = torch.randn(2, 20, 32, generator=generator)
    time = torch.tensor([500, 500])
    before = backbone.predict(latents, time, context)
    with recorded_attention(adapter, FRAMES) as recorder:
        assert torch.equal(backbone.predict(latents, time, context), before)
        first = recorder.maps(4, 8)
        backbone.predict(latents * 0.5, time, context)
        both = recorder.maps(4, 8)
    assert first.keys() == adapter.face_attentions().keys()
    assert [name.partition("_")[0] for name in first] == ["down", "mid", "up", "up"]  # in the order of work
    for name, maps in both.items():
        size = (2, 4) if name.startswith("mid") else (4, 8)
        assert maps.shape == (FRAMES, QUERIES, *size), name
        assert torch.allclose(maps.sum(1), torch.ones(FRAMES, *size), atol=1e-5)
        assert not torch.equal(maps, first[name])
    with recorded_attention(adapter, FRAMES) as alone:
        backbone.predict(latents[1:], time[1:], context[1:])  # the prompt's half, without guidance
    assert all(torch.allclose(maps, first[name], atol=1e-5) for name, maps in alone.maps(4, 8).items())
    backbone.predict(latents, time, context)
    assert all(layer.observer is None for layer in adapter.face_attentions().values())
    assert torch.equal(both[name], recorder.maps(4, 8)[name])


def test_nothing_was_recorded() -> None:
    with pytest.raises(IdanimError, match="no attention to id tokens was recorded"):
        AttentionRecorder(1).maps(8, 8)


def test_a_generated_video_with_its_maps(tmp_path: Path) -> None:
    generator = Generator.load("sampling.num_inference_steps=2", "sampling.num_frames=2")
    ada = generator.person(take_photos(tmp_path, ["ada.png"])[0])
    plain = generator.generate(ada, "a person wearing a red hat", seed=3)
    video, maps = generator.attention_maps(ada, "a person wearing a red hat", seed=3)
    assert (video.clip.frames == plain.clip.frames).all()
    assert maps.keys() == generator.sampler.adapter.face_attentions().keys()
    for name, layer in maps.items():
        assert layer.shape[:2] == (2, 16), name
        assert torch.allclose(layer.sum(1), torch.ones(layer.sum(1).shape), atol=1e-5)
        assert layer.std(dim=(2, 3)).max() > 1e-4  # the cells differ
    _, wide = generator.attention_maps(ada, "a person", seed=3, width=48, num_frames=3, guidance_scale=1.0)
    assert max(layer.shape[3] for layer in wide.values()) == 1.5 * max(layer.shape[3] for layer in maps.values())
