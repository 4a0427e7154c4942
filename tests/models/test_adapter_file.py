from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel
from full_size import meta_backbone, public, public_file
from small_adapters import CLIP, equal, small_adapter

from idanim.models.adapter import FaceAdapter
from idanim.models.adapter_file import parse_adapter, read_adapter_file, write_ip_adapter, write_official
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.tiny import tiny_backbone
from idanim.models.weight_file import read_weights
from idanim.models.weight_kind import kind_of
from idanim.types import IdanimError


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


# ---------------------------------------------------------------------------- the public files, full size


@pytest.mark.parametrize(
    ("name", "layout", "projection", "queries", "rank"),
    [
        ("animator.ckpt", "official", "resampler", 16, 128),
        ("ip-adapter_sd15", "ip_adapter", "image projection", 4, 0),
        ("ip-adapter-plus-face_sd15", "ip_adapter", "resampler", 16, 0),
        ("ip-adapter-faceid-portrait-v11_sd15", "ip_adapter", "FaceID projection", 16, 0),
        ("ip-adapter-faceid-plusv2_sd15", "ip_adapter", "FaceID projection with resampler", 4, 128),
    ],
)
def test_every_public_adapter_fits_sd15(name: str, layout: str, projection: str, queries: int, rank: int) -> None:
    file = parse_adapter(public_file(name))
    assert (file.layout, file.projection, file.lora_rank) == (layout, projection, rank)
    with torch.device("meta"):
        adapter = FaceAdapter.of_file(file, meta_backbone())
    assert adapter.image_proj_model.num_queries == queries
    assert sum(p.numel() for p in adapter.parameters()) == sum(t.numel() for t in public(name).values())


def test_layers_are_counted_as_in_the_2d_unet() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    official = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    layers = meta_backbone().cross_attention_layers()
    assert [layer.name for layer in layers] == official
    assert [layer.number for layer in layers] == list(range(1, 32, 2))


def test_lora_of_faceid_plus_lands_on_spatial_layers_only() -> None:
    with torch.device("meta"):
        adapter = FaceAdapter.of_file(parse_adapter(public_file("ip-adapter-faceid-plusv2_sd15")), meta_backbone())
    assert len(adapter.layer_names) == 32
    assert not any("motion_modules" in name for name in adapter.layer_names.values())
    for number, name in adapter.layer_names.items():
        assert name.endswith("attn1.processor" if int(number) % 2 == 0 else "attn2.processor")
        attention = meta_backbone().unet.get_submodule(name.removesuffix(".processor"))
        assert adapter.adapter_modules[number].to_q_lora.up.weight.shape[0] == attention.to_q.weight.shape[0]


def test_our_adapter_starts_from_plus_face() -> None:
    with torch.device("meta"):
        for rank in (0, 128):
            adapter = FaceAdapter(meta_backbone(), 1280, lora_rank=rank)
            adapter.start_from(parse_adapter(public_file("ip-adapter-plus-face_sd15")))
        with pytest.raises(IdanimError, match=r"ip-adapter_sd15 does not fit.*unknown key image_proj_model"):
            adapter.start_from(parse_adapter(public_file("ip-adapter_sd15")))


# ------------------------------------------------------------------------------------- layouts, round trips


def test_official_layouts_all_give_the_same(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    state = small_adapter(backbone, lora_rank=4).state_dict()
    split: dict[str, Any] = {"image_proj": {}, "face_adapter": {}}
    for key, tensor in state.items():
        part = "image_proj" if key.startswith("image_proj_model.") else "face_adapter"
        split[part][key.split(".", 1)[1]] = tensor
    layouts = {
        "a": {"state_dict": {f"module.{k}": t for k, t in state.items()}, "epoch": 3, "global_step": 7},
        "b": {"state_dict": dict(state)},
        "c": split,
    }
    for name, content in layouts.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        assert equal(FaceAdapter.from_file(tmp_path / f"{name}.ckpt", backbone, dim_head=8).state_dict(), state)


@pytest.mark.parametrize("name", ["x.bin", "x.safetensors"])
def test_ip_adapter_round_trip(name: str, tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    adapter = small_adapter(backbone)
    adapter.to_file(tmp_path / name, "ip_adapter")
    read = read_adapter_file(tmp_path / name)
    assert read.layout == "ip_adapter"
    assert equal(read.state, adapter.state_dict())
    write_ip_adapter(tmp_path / f"again_{name}", read.state)
    assert equal(read_adapter_file(tmp_path / f"again_{name}").state, read.state)
    again = FaceAdapter.from_file(tmp_path / name, backbone, dim_head=8)
    assert equal(again.state_dict(), adapter.state_dict())


def test_official_round_trip_keeps_types(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    state = {k: t.half() for k, t in small_adapter(backbone, 4).state_dict().items()}
    write_official(tmp_path / "animator.ckpt", state)
    content = torch.load(tmp_path / "animator.ckpt", weights_only=True)
    assert all(key.startswith("module.") for key in content["state_dict"])
    assert equal(read_adapter_file(tmp_path / "animator.ckpt").state, state)


def test_low_rank_additions_are_not_dropped_on_the_way(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    with pytest.raises(IdanimError, match="low-rank additions"):
        small_adapter(backbone, 4).to_file(tmp_path / "x.bin", "ip_adapter")


def test_start_from_keeps_fresh_lora(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    source = small_adapter(backbone)
    source.to_file(tmp_path / "plus.bin", "ip_adapter")
    options = {"num_queries": 4, "depth": 2, "dim_head": 8, "heads": 2}
    adapter = FaceAdapter(backbone, CLIP, lora_rank=4, init=str(tmp_path / "plus.bin"), **options)
    state = adapter.state_dict()
    assert equal({k: t for k, t in state.items() if "_lora." not in k}, source.state_dict())
    assert all(not t.any() for k, t in state.items() if k.endswith("_lora.up.weight"))


# --------------------------------------------------------------------------------------------- wrong files


def test_wrong_keys_and_shapes_are_named(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    state = small_adapter(backbone).state_dict()
    key = "adapter_modules.1.to_k_face.weight"
    cases = {
        "missing key adapter_modules.1.to_k_face.weight": {k: t for k, t in state.items() if k != key},
        "unknown key adapter_modules.7.x.weight": state | {"adapter_modules.7.x.weight": torch.zeros(1)},
        r"to_k_face.weight has shape \(5, 32\), expected \(32, 32\)": state | {key: torch.zeros(5, 32)},
        "missing key image_proj_model.latents": {k: t for k, t in state.items() if not k.endswith("latents")},
        "unknown key unet.x": state | {"unet.x": torch.zeros(1)},
    }
    for number, (words, content) in enumerate(cases.items()):
        path = tmp_path / f"{number}.ckpt"
        torch.save({"state_dict": dict(content)}, path)
        with pytest.raises(IdanimError, match=f"{path.name}.*{words}"):
            FaceAdapter.from_file(path, backbone, dim_head=8)


KINDS = {
    "a LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)},
    "a LoRA for SDXL": {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (4, 1280)},
    "a motion LoRA": {"down_blocks.0.motion_modules.0.x.processor.to_q_lora.down.weight": (4, 320)},
    "an SDXL checkpoint": {
        "model.diffusion_model.label_emb.0.0.weight": (4, 4),
        "conditioner.embedders.0.transformer.text_model.x": (4,),
    },
    "an SD2 checkpoint": {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
    "an IP-Adapter for SDXL": {"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (640, 2048)},
    "a VAE": {"encoder.conv_in.weight": (128, 3, 3, 3)},
    "a file of unknown kind": {"emb_params": (1, 768)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_told_apart_by_name(kind: str, tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    path = tmp_path / "animator.safetensors"
    safetensors.torch.save_file({k: torch.zeros(shape) for k, shape in KINDS[kind].items()}, path)
    with pytest.raises(IdanimError, match=f"this is {kind}, expected a face adapter"):
        FaceAdapter.from_file(path, backbone)


def test_public_files_are_told_apart_by_name() -> None:
    kinds = {
        "animator.ckpt": "a face adapter (ID-Animator)",
        "ip-adapter_sd15": "an IP-Adapter for SD1.5",
        "ip-adapter-faceid-plusv2_sd15": "an IP-Adapter for SD1.5",
        "image_encoder_vit_h": "a CLIP image encoder",
        "mm_sd_v15_v2": "AnimateDiff motion modules",
        "v3_sd15_mm": "AnimateDiff motion modules",
        "v3_sd15_sparsectrl_rgb": "a SparseCtrl network",
        "v3_sd15_sparsectrl_scribble": "a SparseCtrl network",
        "sd15_single_file_ldm": "an SD1.5 checkpoint",
    }
    assert {name: kind_of(public(name)) for name in kinds} == kinds


@pytest.mark.parametrize("length", [0x80, 0x3C20, 0x7B20])
def test_the_length_in_front_of_a_safetensors_file_misleads_nobody(length: int, tmp_path: Path) -> None:
    """It may look like the start of a pickle, of a web page or of JSON."""
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + header + b"\0" * 4)
    assert list(read_weights(tmp_path / "x.safetensors").tensors) == ["x"]


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_damaged_and_hostile_files(
    tmp_path: Path, backbone: AnimateDiffBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_official(tmp_path / "whole.ckpt", small_adapter(backbone).state_dict())
    whole = (tmp_path / "whole.ckpt").read_bytes()
    small_adapter(backbone).to_file(tmp_path / "whole.safetensors", "ip_adapter")
    contents = {
        "not a whole checkpoint": ("cut.ckpt", whole[: len(whole) // 2]),
        "not a whole safetensors": ("cut.safetensors", (tmp_path / "whole.safetensors").read_bytes()[:-10]),
        r"a web page \(HTML\)": ("page.safetensors", b"\n<!DOCTYPE html><html>404</html>"),
        "Git LFS pointer": ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "this is JSON": ("error.bin", b'{"error": "Repository not found"}'),
        "the file is empty": ("empty.ckpt", b""),
        "refused": ("evil.bin", pickle.dumps({"image_proj": Evil()})),
    }
    for words, (name, content) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IdanimError, match=f"{name}.*{words}"):
            read_adapter_file(tmp_path / name)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(IdanimError, match="refused"):
        read_adapter_file(tmp_path / "evil.ckpt")
    with pytest.raises(IdanimError, match="no such file"):
        read_adapter_file(tmp_path / "nothing.ckpt")
    assert not (tmp_path / "pwned").exists()
