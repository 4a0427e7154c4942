from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from full_size import KEYS, public, public_file
from official_keys import official_motion
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from idanim.models import sd15
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.checkpoint import load_strictly
from idanim.models.group_norm import FrameGroupNorm, VideoGroupNorm
from idanim.models.loading import build_sparse_control, load_animatediff, motion_unet
from idanim.models.lora import add_lora
from idanim.models.motion import MotionFile, parse_motion, read_motion
from idanim.models.tiny import tiny_backbone
from idanim.models.weight_file import WeightFile
from idanim.types import IdanimError


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


# ------------------------------------------------------------------------------------ the public files


@pytest.mark.parametrize(("name", "version"), [("mm_sd_v15_v2", "v2"), ("v3_sd15_mm", "v3")])
def test_public_motion_modules_fit_sd15(name: str, version: str) -> None:
    motion = parse_motion(public_file(name))
    assert (motion.version, motion.max_frames) == (version, 32)
    with torch.device("meta"):
        unet = motion_unet(public("unet3d_base"), motion, name, sd15.UNET)
    motion_values = sum(p.numel() for key, p in unet.named_parameters() if "motion_modules" in key)
    without_tables = sum(t.numel() for key, t in public(name).items() if not key.endswith("pos_encoder.pe"))
    assert motion_values == without_tables


def test_v1_is_known_by_its_short_table() -> None:
    state = {
        key: torch.empty(1, 24, t.shape[2], device="meta") if key.endswith("pe") else t
        for key, t in public("v3_sd15_mm").items()
    }
    motion = parse_motion(WeightFile(Path("mm_sd_v15.ckpt"), state, {}))
    assert (motion.version, motion.max_frames) == ("v1", 24)
    with torch.device("meta"):
        unet = motion_unet(public("unet3d_base"), motion, "v1", sd15.UNET)
    assert unet.config.motion_max_seq_length == 24
    assert isinstance(unet.conv_norm_out, VideoGroupNorm)


def ldm_mapping() -> dict[str, dict]:
    return json.loads((KEYS / "sd15_single_file_ldm.json").read_text())


def test_single_file_fits_sd15() -> None:
    file = sd15.parse_single_file(public_file("sd15_single_file_ldm"))
    with torch.device("meta"):
        load_strictly(UNet2DConditionModel(cross_attention_dim=768), file.unet, "unet")
        load_strictly(AutoencoderKL(**sd15.VAE), file.vae or {}, "vae")
        load_strictly(CLIPTextModel(CLIPTextConfig(**sd15.TEXT)), file.text_encoder, "text")


def ldm_numbers(without: str = "nothing") -> dict[str, Tensor]:
    """Every key of a single file, its value the key's own number."""
    return {
        key: torch.full((1, 1, 1, 1) if ".attn_1." in key and key.endswith("weight") else (1,), float(number))
        for number, key in enumerate(ldm_mapping())
        if not key.startswith(without)
    }


def test_every_ldm_key_goes_where_the_table_says(tmp_path: Path) -> None:
    extras = {
        "betas": torch.zeros(2),
        "model_ema.decay": torch.zeros(1),
        "first_stage_model.loss.x": torch.zeros(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    path = tmp_path / "community.safetensors"
    safetensors.torch.save_file(ldm_numbers() | extras, path)
    file = sd15.read_single_file(path)
    parts = {"unet": file.unet, "vae": file.vae or {}, "text_encoder": file.text_encoder}
    mapping = ldm_mapping()
    assert sum(len(part) for part in parts.values()) == len(mapping)
    for number, entry in enumerate(mapping.values()):
        tensor = parts[entry["component"]][entry["diffusers"].removeprefix("text_model.")]
        assert float(tensor.flatten()[0]) == number, entry


def test_single_file_without_vae_and_with_unknown_keys(tmp_path: Path) -> None:
    path = tmp_path / "noVAE.safetensors"
    safetensors.torch.save_file(ldm_numbers(without="first_stage_model."), path)
    assert sd15.read_single_file(path).vae is None
    for key in ("model.diffusion_model.input_blocks.99.0.weird", "something.else"):
        safetensors.torch.save_file(ldm_numbers() | {key: torch.zeros(1)}, path)
        with pytest.raises(IdanimError, match=f"noVAE.safetensors: unknown key {key}"):
            sd15.read_single_file(path)


def test_a_vae_file_of_its_own(tmp_path: Path) -> None:
    path, prefix = tmp_path / "vae-ft-mse.safetensors", "first_stage_model."
    safetensors.torch.save_file(ldm_numbers(), tmp_path / "whole.safetensors")
    expected = sd15.read_single_file(tmp_path / "whole.safetensors").vae or {}
    ldm = {key.removeprefix(prefix): t for key, t in ldm_numbers().items() if key.startswith(prefix)}
    for content in (ldm, {f"{prefix}{key}": t for key, t in ldm.items()}, expected):
        safetensors.torch.save_file({**content, "model_ema.decay": torch.zeros(1)}, path)
        state = sd15.read_vae(path)
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    safetensors.torch.save_file({**ldm, "encoder.weird": torch.zeros(1)}, path)
    with pytest.raises(IdanimError, match=r"vae-ft-mse.safetensors: unknown key first_stage_model\.encoder\.weird"):
        sd15.read_vae(path)
    safetensors.torch.save_file(ldm_numbers(), path)
    with pytest.raises(IdanimError, match=r"this is an SD1\.5 checkpoint, expected a VAE"):
        sd15.read_vae(path)


@pytest.mark.parametrize(("kind", "condition"), [("scribble", 4), ("rgb", 5)])
def test_sparse_control_fits(kind: str, condition: int) -> None:
    with torch.device("meta"):
        model = build_sparse_control(public_file(f"v3_sd15_sparsectrl_{kind}"))
    first = model.controlnet_cond_embedding if kind == "rgb" else model.controlnet_cond_embedding.conv_in
    assert first.weight.shape[1] == condition
    norms = [m for name, m in model.named_modules() if name.endswith(".norm") and "motion_modules" in name]
    assert norms
    assert all(isinstance(norm, FrameGroupNorm) for norm in norms)


# ---------------------------------------------------------------------------------------- small real files


def test_every_wrapping_of_motion_modules_is_read(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    motion = official_motion(backbone.unet)
    prefixed = {f"module.{key}": tensor for key, tensor in motion.items()}
    whole = motion | {key: t for key, t in backbone.unet.state_dict().items() if "motion_modules" not in key}
    wrappings = {
        "flat": motion,
        "nested": {"state_dict": motion, "epoch": 1},
        "prefixed": {"state_dict": prefixed, "global_step": 3},
        "whole": {"state_dict": {f"module.{key}": tensor for key, tensor in whole.items()}},
        "config": motion | {"animatediff_config": torch.zeros(1)},
        "prefixed_config": prefixed | {"animatediff_config": {"a": 1}},
    }
    expected = {key: t for key, t in backbone.unet.state_dict().items() if "motion_modules" in key}
    for name, content in wrappings.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
        state = read_motion(tmp_path / f"{name}.ckpt").state
        assert state.keys() == expected.keys(), name
        assert all(torch.equal(state[key], expected[key]) for key in expected), name


def test_the_configured_version_is_held(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    torch.save(official_motion(backbone.unet), tmp_path / "v3_sd15_mm.ckpt")
    with pytest.raises(IdanimError, match=r"v3_sd15_mm\.ckpt: these are motion modules v3, but v2 is configured"):
        read_motion(tmp_path / "v3_sd15_mm.ckpt", "v2")


def save_folder(path: Path, backbone: AnimateDiffBackbone) -> UNet2DConditionModel:
    """A base model in diffusers layout with the tiny backbone's own weights."""
    config = backbone.unet.config
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=config.block_out_channels,
        down_block_types=tuple(t.replace("Motion", "2D") for t in config.down_block_types),
        up_block_types=tuple(t.replace("Motion", "2D") for t in config.up_block_types),
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        cross_attention_dim=config.cross_attention_dim,
        attention_head_dim=4,
    )
    spatial = {key: t for key, t in backbone.unet.state_dict().items() if "motion_modules" not in key}
    load_strictly(unet, spatial, "spatial layers")
    unet.save_pretrained(path / "unet")
    backbone.vae.save_pretrained(path / "vae")
    backbone.text_encoder.save_pretrained(path / "text_encoder")
    backbone.tokenizer.save_pretrained(path / "tokenizer")
    return unet


@torch.no_grad()
def test_folder_and_motion_file_make_the_same_backbone(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    for name, module in backbone.unet.named_modules():
        if "motion_modules" in name and hasattr(module, "heads"):
            module.heads = 8  # as in every public file; the shapes don't tell
    save_folder(tmp_path / "base", backbone)
    torch.save({"state_dict": official_motion(backbone.unet)}, tmp_path / "mm.ckpt")
    loaded = load_animatediff(str(tmp_path / "base"), str(tmp_path / "mm.ckpt"))
    sample, context = torch.randn(1, 4, 3, 8, 8), loaded.encode_text(["a man"])
    assert torch.equal(context, backbone.encode_text(["a man"]))
    time = torch.tensor([500])
    assert torch.equal(loaded.predict(sample, time, context), backbone.predict(sample, time, context))


def test_a_vae_file_takes_the_place_of_the_bases_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_backbone()
    save_folder(tmp_path / "base", backbone)
    torch.save(official_motion(backbone.unet), tmp_path / "mm.ckpt")
    other = {key: t + 0.01 for key, t in backbone.vae.state_dict().items()}
    safetensors.torch.save_file(other, tmp_path / "vae.safetensors")
    files = str(tmp_path / "base"), str(tmp_path / "mm.ckpt")
    with pytest.raises(IdanimError, match=r"vae\.safetensors does not fit this architecture.*decoder"):
        load_animatediff(*files, vae=str(tmp_path / "vae.safetensors"))
    sizes = ("down_block_types", "up_block_types", "block_out_channels", "latent_channels", "norm_num_groups")
    monkeypatch.setattr(sd15, "VAE", {key: backbone.vae.config[key] for key in sizes})
    loaded = load_animatediff(*files, vae=str(tmp_path / "vae.safetensors"))
    assert all(torch.equal(t, other[key]) for key, t in loaded.vae.state_dict().items())
    with pytest.raises(IdanimError, match=r"nothing\.safetensors: there is no such file"):
        load_animatediff(*files, vae=str(tmp_path / "nothing.safetensors"))


def test_motion_modules_of_another_width_are_named() -> None:
    state = parse_motion(public_file("v3_sd15_mm")).state
    key = "down_blocks.0.motion_modules.0.proj_in.weight"
    motion = MotionFile(Path("mm.ckpt"), state | {key: torch.empty(64, 64, device="meta")})
    words = r"with mm does not fit.*down_blocks\.0\.motion_modules.* shape \(64, 64\), expected \(320, 320\)"
    with torch.device("meta"), pytest.raises(IdanimError, match=words):
        motion_unet(public("unet3d_base"), motion, "x with mm", sd15.UNET)


# ---------------------------------------------------------------------------------------------------- LoRA


def low_rank(layer: torch.nn.Linear, rank: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(layer.out_features, rank), torch.randn(rank, layer.in_features)


@pytest.mark.parametrize(
    ("prefix", "down", "up"),
    [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0", "lora_down", "lora_up"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0", "lora_A", "lora_B"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_out", "_lora.down", "_lora.up"),
    ],
)
def test_lora_is_added(prefix: str, down: str, up: str, tmp_path: Path) -> None:
    model = tiny_backbone()
    layer = model.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_out[0]
    b, a = low_rank(layer)
    dot = "" if down.startswith("_") else "."
    content = {f"{prefix}{dot}{down}.weight": a, f"{prefix}{dot}{up}.weight": b}
    scale = 0.5
    if down == "lora_down":
        content[f"{prefix}.alpha"] = torch.tensor(1.0)
        scale = 0.25
    safetensors.torch.save_file(content, tmp_path / "style.safetensors")
    before = layer.weight.clone()
    assert add_lora(model.unet, model.text_encoder, tmp_path / "style.safetensors", 0.5) == 1
    assert torch.allclose(layer.weight, before + scale * b @ a, atol=1e-6)


def test_motion_lora_is_added_to_the_motion_modules(tmp_path: Path) -> None:
    model = tiny_backbone()
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks"
    layers = model.unet.down_blocks[0].motion_modules[0].transformer_blocks[0]
    targets = {
        f"{block}.0.processor.to_q_lora": layers.attn1.to_q,
        f"{block}.1.processor.to_out_lora": layers.attn2.to_out[0],
    }
    content, expected = {}, []
    for name, layer in targets.items():
        b, a = low_rank(layer)
        content |= {f"{name}.down.weight": a, f"{name}.up.weight": b}
        expected.append((layer, layer.weight + b @ a))
    torch.save({"state_dict": content}, tmp_path / "v2_lora_PanLeft.ckpt")
    assert add_lora(model.unet, model.text_encoder, tmp_path / "v2_lora_PanLeft.ckpt") == 2
    assert all(torch.allclose(layer.weight, wanted, atol=1e-6) for layer, wanted in expected)


def test_a_lora_that_fits_nowhere_is_refused(tmp_path: Path, backbone: AnimateDiffBackbone) -> None:
    def refused(content: Mapping[str, Tensor], words: str) -> None:
        safetensors.torch.save_file(dict(content), tmp_path / "x.safetensors")
        with pytest.raises(IdanimError, match=words):
            add_lora(backbone.unet, backbone.text_encoder, tmp_path / "x.safetensors")

    pair = {"lora_down.weight": torch.zeros(2, 32), "lora_up.weight": torch.zeros(32, 2)}
    refused({f"lora_unet_nowhere.{k}": t for k, t in pair.items()}, "unknown key lora_unet_nowhere")
    refused({"lora_unet_x.lora_down.weight": torch.zeros(2, 3)}, r"missing key lora_unet_x\.lora_up\.weight")
    refused({f"lora_te2_text_model.{k}": t for k, t in pair.items()}, "a LoRA for SDXL, expected a LoRA")
