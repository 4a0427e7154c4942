"""The stand-ins for the public files have their keys and shapes, and load as they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from full_size import KEYS, public
from torch import Tensor
from transformers import CLIPTokenizer

from idanim.models.adapter_file import parse_adapter
from idanim.models.fake_weights import BLOCK_VALUES, filled, public_state, stand_ins, write_fake
from idanim.models.motion import to_diffusers, to_official
from idanim.models.weight_file import WeightFile
from idanim.types import IdanimError
from idanim.weights import CATALOGUE


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def base_model(component: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a part of SD1.5 by diffusers' names."""
    entries = json.loads((KEYS / "sd15_single_file_ldm.json").read_text()).values()
    sizes = {e["diffusers"]: tuple(e["shape"]) for e in entries if e["component"] == component}
    # In LDM files the VAE's attention is made of 1 × 1 convolutions.
    return {key: shape[:2] if ".attentions." in key and component == "vae" else shape for key, shape in sizes.items()}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("motion-v2", "mm_sd_v15_v2"),
        ("motion-v3", "v3_sd15_mm"),
        ("sparsectrl-rgb", "v3_sd15_sparsectrl_rgb"),
        ("sparsectrl-scribble", "v3_sd15_sparsectrl_scribble"),
        ("image-encoder", "image_encoder_vit_h"),
        ("sd15-unet", "unet3d_base"),
        ("animator", "animator.ckpt"),
    ],
)
def test_keys_and_shapes_are_the_public_ones(name: str, keys: str) -> None:
    assert shapes(public_state(name)) == shapes(public(keys))


def test_keys_and_shapes_of_the_other_files() -> None:
    expected = parse_adapter(WeightFile(Path("plus"), public("ip-adapter-plus-face_sd15"), {})).state
    assert shapes(public_state("plus-face")) == shapes(expected)
    assert shapes(public_state("sd15-vae")) == base_model("vae")
    assert shapes(public_state("sd15-text")) == base_model("text_encoder")


def test_every_file_of_the_catalogue_has_a_stand_in() -> None:
    distilled = {"animatelcm-motion", "animatelcm-lora", "lightning-motion"}  # whose keys and shapes are not known here
    assert set(stand_ins()) == {file.name for file in CATALOGUE} - distilled
    with pytest.raises(IdanimError, match="no stand-in for 'sdxl'"):
        write_fake("sdxl", Path("x"))


def test_motion_keys_there_and_back() -> None:
    state = {key: torch.zeros(1) for key in public("mm_sd_v15_v2")}
    again = to_official(to_diffusers(state, "x"))
    assert again.keys() == state.keys()


def test_values_differ_from_row_to_row_and_are_small() -> None:
    shapes = {"a.weight": (1200, 1000), "b.weight": (7,), "b.bias": (7,), "c.pos_encoder.pe": (1, 4, 6)}
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    values = filled(state, torch.float16, seed=0)
    matrix = values["a.weight"].float()
    assert matrix.numel() > BLOCK_VALUES
    assert len(torch.unique(matrix, dim=0)) == 1200
    assert float(matrix.std()) == pytest.approx(0.5 / 1000**0.5, rel=0.01)
    assert values["b.weight"].tolist() == [1.0] * 7
    assert values["b.bias"].tolist() == [0.0] * 7
    assert values["c.pos_encoder.pe"][0, 0].tolist() == [0, 1] * 3  # sine and cosine of 0
    assert torch.equal(filled(state, torch.float16, 0)["a.weight"], values["a.weight"])
    assert not torch.equal(filled(state, torch.float16, 1)["a.weight"], values["a.weight"])


def test_the_tokenizer_has_as_many_words_as_the_real_one(tmp_path: Path) -> None:
    for name in ("vocab", "merges", "tokenizer-config"):
        file = next(file for file in CATALOGUE if file.name == f"sd15-{name}")
        write_fake(file.name, file.local(tmp_path))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "stable-diffusion-v1-5" / "tokenizer", local_files_only=True)
    ids = tokenizer(["a man"], padding="max_length", truncation=True).input_ids[0]
    assert (len(tokenizer), len(ids), ids[0], ids[-1]) == (49408, 77, 49406, 49407)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a man"
