"""What the projections of FaceID files do, beside diffusers and written out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_adapters import CLIP, FACE, WIDTH, faceid_plus_state, portrait_state, small_adapter
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.attention import LowRankAttention
from idanim.models.projections import joined_features
from idanim.models.tiny import tiny_backbone
from idanim.types import IdanimError


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


@torch.no_grad()
def test_faceid_plus_acts_as_lora_merged_into_the_2d_layers(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    """At scale 0 the file's LoRA is all that acts: the same as adding up · down to the spatial weights."""
    state = faceid_plus_state(backbone)
    safetensors.torch.save_file(state, tmp_path / "plusv2.safetensors")
    adapter = FaceAdapter.from_file(tmp_path / "plusv2.safetensors", backbone, scale=0.0, dim_head=8)
    assert sum(isinstance(m, LowRankAttention) for m in adapter.adapter_modules.values()) == len(
        backbone.self_attention_layers()
    )
    sample, text = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 7, WIDTH)
    face, clip = torch.randn(1, 1, FACE), torch.randn(1, 1, 5, CLIP)
    tokens = adapter.id_tokens(joined_features(face, clip))
    assert tokens.shape == (1, 4, WIDTH)
    adapter.attach(backbone)
    adapted = backbone.predict(sample, torch.tensor([10]), torch.cat([text, tokens], dim=1))

    merged = tiny_backbone()
    for layer in (*merged.cross_attention_layers(), *merged.self_attention_layers()):
        attention = merged.unet.get_submodule(layer.name.removesuffix(".processor"))
        for part, linear in (("q", attention.to_q), ("k", attention.to_k), ("v", attention.to_v)):
            linear.weight += _product(state, layer.number, part)
        attention.to_out[0].weight += _product(state, layer.number, "out")
    assert torch.allclose(adapted, merged.predict(sample, torch.tensor([10]), text), atol=1e-5)


def _product(state: Mapping[str, Tensor], number: int, part: str) -> Tensor:
    prefix = f"ip_adapter.{number}.to_{part}_lora"
    return state[f"{prefix}.up.weight"] @ state[f"{prefix}.down.weight"]


@torch.no_grad()
@pytest.mark.parametrize("plus", [False, True], ids=["portrait", "plusv2"])
def test_faceid_tokens_are_those_of_diffusers(plus: bool, tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    """diffusers takes heads of width 64 and four blocks for granted."""
    source = portrait_state(backbone, queries=4)
    if plus:
        source = faceid_plus_state(backbone)
        inner = {k: t for k, t in source.items() if "perceiver_resampler" not in k}
        sizes = {"num_queries": 4, "depth": 4, "dim_head": 64, "heads": 2}
        resampler = FaceAdapter(backbone, CLIP, **sizes).image_proj_model.state_dict()
        source = inner | {f"image_proj.perceiver_resampler.{k}": t for k, t in resampler.items() if k != "latents"}
    safetensors.torch.save_file(source, tmp_path / "faceid.safetensors")
    adapter = FaceAdapter.from_file(tmp_path / "faceid.safetensors", backbone)
    parts = {k.removeprefix("image_proj."): t.clone() for k, t in source.items() if k.startswith("image_proj.")}
    theirs = backbone.unet._convert_ip_adapter_image_proj_to_diffusers(parts)
    vector, clip = torch.nn.functional.normalize(torch.randn(1, FACE), dim=1), torch.randn(1, 1, 5, CLIP)
    features = vector[:, None, None]
    if plus:
        theirs.shortcut, theirs.clip_embeds = True, clip
        features = joined_features(vector[:, None], clip)
    expected = theirs(vector[:, None])
    assert torch.allclose(adapter.id_tokens(features), expected.view(1, 4, WIDTH), atol=1e-5)


def portrait_tokens(state: Mapping[str, Tensor], vector: Tensor) -> Tensor:
    """Tokens of one ArcFace vector, written out: linear, exact GELU, linear, cut into tokens, LayerNorm."""
    part = {key.removeprefix("image_proj."): tensor for key, tensor in state.items()}
    hidden = part["proj.0.weight"] @ vector + part["proj.0.bias"]
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    rows = (part["proj.2.weight"] @ hidden + part["proj.2.bias"]).view(-1, WIDTH)
    normed = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return normed * part["norm.weight"] + part["norm.bias"]


def by_hand(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Attention of [S, E] on [T, E], head by head."""
    parts = []
    for q, k, v in zip(*(x.chunk(heads, dim=1) for x in (query, key, value)), strict=True):
        parts.append(torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v)
    return torch.cat(parts, dim=1)


@torch.no_grad()
def test_portrait_tokens_of_several_faces_stand_side_by_side(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    state = portrait_state(backbone)
    safetensors.torch.save_file(state, tmp_path / "portrait.safetensors")
    adapter = FaceAdapter.from_file(tmp_path / "portrait.safetensors", backbone, scale=0.7)
    adapter.num_references = 5
    vectors = torch.nn.functional.normalize(torch.randn(5, FACE), dim=1)
    tokens = adapter.id_tokens(vectors[None, :, None])
    expected = torch.cat([portrait_tokens(state, vector) for vector in vectors])
    assert tokens.shape == (1, 15, WIDTH)
    assert torch.allclose(tokens[0], expected, atol=1e-5)

    layer = backbone.cross_attention_layers()[0]
    attention = backbone.unet.get_submodule(layer.name.removesuffix(".processor"))
    hidden, text = torch.randn(4, layer.hidden_dim), torch.randn(7, WIDTH)
    query, prefix = attention.to_q(hidden), f"ip_adapter.{layer.number}"
    attended = by_hand(query, attention.to_k(text), attention.to_v(text), attention.heads)
    key, value = (expected @ state[f"{prefix}.to_{part}_ip.weight"].T for part in "kv")
    attended = attended + 0.7 * by_hand(query, key, value, attention.heads)
    context = torch.cat([text, tokens[0]])[None]
    result = adapter.adapter_modules[str(layer.number)](attention, hidden[None], context)
    assert torch.allclose(result[0], attention.to_out[0](attended), atol=1e-5)


def test_the_number_of_references_is_held(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    safetensors.torch.save_file(portrait_state(backbone), tmp_path / "portrait.safetensors")
    adapter = FaceAdapter.from_file(tmp_path / "portrait.safetensors", backbone)
    with pytest.raises(IdanimError, match="2 references, but the adapter's num_references=1"):
        adapter.id_tokens(torch.zeros(1, 2, 1, FACE))
    with pytest.raises(IdanimError, match="num_references=2: expected 1, as this adapter averages"):
        small_adapter(backbone).num_references = 2
