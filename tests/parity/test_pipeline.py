"""From pictures and a prompt to a video through our `Sampler`; the same with SparseCtrl."""

from __future__ import annotations

import re
from typing import Any

import official_models
import pytest
import torch
from golden_folder import GoldenFolder, Tensors, max_error, relative_error
from parity_table import Record
from PIL import Image
from torch import Tensor

from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.sparse_control import condition_latents, sparse_control_pipeline

LAYER, LATENTS, RESIDUALS, VIDEO, EXACT = 1e-5, 2e-5, 5e-5, 5e-5, 1e-11
SCALE_IN_SPARSE_CALL = 0.9


@pytest.fixture(scope="module")
def data(golden: GoldenFolder) -> Tensors:
    return golden.tensors("pipeline")


@pytest.fixture
def sampler(golden: GoldenFolder, backbone: AnimateDiffBackbone) -> Sampler:
    adapter = official_models.face_adapter(golden, backbone, golden.args("pipeline")["scale"])
    return Sampler(backbone, official_models.vision_encoder(golden), adapter.requires_grad_(False))


def settings_of(golden: GoldenFolder, steps: int | None = None) -> SamplingSettings:
    args = golden.args("pipeline")
    return SamplingSettings(
        num_frames=args["frames"],
        height=args["H"],
        width=args["W"],
        num_inference_steps=steps or args["steps"],
        guidance_scale=args["guidance_scale"],
        negative_prompt=args["negative_prompt"],
        fps=8,
    )


def references(data: Tensors, case: str) -> list:
    names = sorted(key for key in data if re.fullmatch(r"ref\d+", key))
    return [data[name].numpy() for name in (names[:1] if case == "single" else names)]


def test_text_encoder(golden: GoldenFolder, backbone: AnimateDiffBackbone, data: Tensors, record: Record) -> None:
    args = golden.args("pipeline")
    text, negative = backbone.encode_text([args["prompt"], args["negative_prompt"]]).split(1)
    record("CLIP text", max_error(text, data["prompt_embeds"]), LAYER)
    record("CLIP text, negative", max_error(negative, data["negative_prompt_embeds"]), LAYER)


def test_id_tokens_of_pictures(golden: GoldenFolder, sampler: Sampler, data: Tensors, record: Record) -> None:
    args = golden.args("pipeline")
    length = data["prompt_embeds"].shape[1]
    for case, key in (("single", "face_tokens.ref0"), ("two", "face_tokens.mean")):
        expected = data[key]
        context, negative = sampler.guidance_contexts(references(data, case), args["prompt"], args["negative_prompt"])
        record(f"id tokens of pictures, {case}", max_error(context[:, length:], expected), LAYER)
        record(f"id tokens of nobody, {case}", max_error(negative[:, length:], data["face_tokens.uncond"]), LAYER)


@pytest.mark.parametrize("case", ["single", "two"])
def test_video(case: str, golden: GoldenFolder, sampler: Sampler, data: Tensors, record: Record) -> None:
    args, settings = golden.args("pipeline"), settings_of(golden)
    expected = data[f"{case}.latents_per_step"]
    initial = torch.randn(data[f"{case}.latents_init"].shape, generator=torch.Generator().manual_seed(args["seed"]))
    record(f"initial noise, {case}", max_error(initial, data[f"{case}.latents_init"]), 0)
    contexts = sampler.guidance_contexts(references(data, case), args["prompt"], args["negative_prompt"])
    latents: list[Tensor] = []
    video = sampler.denoise(*contexts, args["seed"], settings, on_step=latents.append)
    assert torch.equal(sampler._pipeline.scheduler.timesteps, data[f"{case}.timesteps"])
    kept = latents if len(expected) == len(latents) else [latents[0], latents[-1]]
    for number, (got, wanted) in enumerate(zip(kept, expected, strict=True)):
        record(f"latents of the pipeline, {case}, {number}", relative_error(got, wanted), LATENTS, "relative")
    check_video(case, video, data, record)


def check_video(case: str, video: Tensor, data: Tensors, record: Record) -> None:
    """The golden video has first and last frame only, with every second pixel."""
    key = f"{case}.video_first_last_sub2"
    if key in data:
        corners = video[[0, -1], :, ::2, ::2].transpose(0, 1)[None]
        record(f"video, {case}", max_error(corners, data[key]), VIDEO)


def test_video_in_float64(golden: GoldenFolder, data: Tensors, sampler: Sampler, record: Record) -> None:
    """The stored float32 tokens come in, as in the official run."""
    expected, args = data["single64.latents_last"], golden.args("pipeline")
    context = torch.cat([data["prompt_embeds"], data["face_tokens.ref0"]], dim=1)
    negative = torch.cat([data["negative_prompt_embeds"], data["face_tokens.uncond"]], dim=1)
    latents: list[Tensor] = []
    sampler.adapter.attach(sampler.backbone)
    try:
        sampler.backbone.double()
        sampler.adapter.double()
        sampler.denoise(
            context.double(),
            negative.double(),
            args["seed"],
            settings_of(golden),
            on_step=latents.append,
            latents=data["single.latents_init"].double(),
        )
    finally:
        sampler.backbone.float()
    record("latents of the pipeline, float64", relative_error(latents[-1], expected), EXACT, "relative")


# -------------------------------------------------------------------------------------------- SparseCtrl


def conditions(golden: GoldenFolder, io: Tensors) -> Tensor:
    """Conditions of the chosen frames, [1, C, n, H, W] pixels or [1, 4, n, h, w] latents."""
    for name in ("cond_latents", "cond", "cond_images"):
        if name in io:
            return io[name]
    pixels = io["cond_images_uint8"].float() / 255
    if not golden.args("sparse_controlnet")["use_simplified_condition_embedding"]:
        return pixels
    return condition_latents(official_models.autoencoder(golden), pixels[0].transpose(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_sparse_control_residuals(golden: GoldenFolder, record: Record, dtype: torch.dtype) -> None:
    """Frames without condition are flat, and GroupNorm magnifies the rounding of what is flat some hundred times.

    So errors are taken relative to the residuals, and our float64 result is held closer to the official one.
    """
    io, controlnet = golden.tensors("sparse_controlnet_io"), official_models.sparse_controlnet(golden).to(dtype)
    chosen, sample = conditions(golden, io).to(dtype), io["sample"].to(dtype)
    videos, _, frames = sample.shape[:3]
    index = io["cond_index"].tolist()
    condition = torch.zeros(*chosen.shape[:2], frames, *chosen.shape[-2:], dtype=dtype)
    condition[:, :, index] = chosen
    mask = torch.zeros_like(condition[:, :1])
    mask[:, :, index] = 1
    down, middle = controlnet(
        sample,
        io["timestep"],
        io["text"].to(dtype).repeat_interleave(frames, dim=0),
        condition,
        conditioning_scale=golden.entry("sparse_controlnet_io").get("conditioning_scale", SCALE_IN_SPARSE_CALL),
        conditioning_mask=mask,
        return_dict=False,
    )
    tolerance, suffix = (RESIDUALS, "") if dtype == torch.float32 else (LAYER, ", ours in float64")
    pairs = {f"residual {n}": (down[int(n)], expected) for n, expected in io.under("down.").items()}
    pairs["middle"] = (middle, io["mid"])
    for name, (got, expected) in pairs.items():
        error = relative_error(by_video(got, videos, frames), expected)
        record(f"SparseCtrl {name}{suffix}", error, tolerance, "relative")
    means = torch.stack([residual.abs().mean() for residual in down])
    record(f"SparseCtrl means{suffix}", relative_error(means, io["down_abs_mean"]), tolerance, "relative")


def by_video(residual: Tensor, videos: int, frames: int) -> Tensor:
    """[B·F, C, h, w] → [B, C, F, h, w]; [B, C, F, h, w] stays."""
    return residual if residual.ndim == 5 else residual.unflatten(0, (videos, frames)).transpose(1, 2)


def test_controlled_pipeline(
    golden: GoldenFolder, data: Tensors, sampler: Sampler, backbone: AnimateDiffBackbone, record: Record
) -> None:
    io, args = golden.tensors("sparse_controlnet_io"), golden.args("pipeline")
    expected = io["pipeline.latents_per_step"]
    pipeline = sparse_control_pipeline(backbone, official_models.sparse_controlnet(golden))
    contexts = sampler.guidance_contexts(references(data, "single"), args["prompt"], args["negative_prompt"])
    frames: Any = conditions(golden, io)
    if "cond_images_uint8" in io:
        frames = [Image.fromarray(picture.numpy()) for picture in io["cond_images_uint8"][0].permute(1, 2, 3, 0)]
    latents: list[Tensor] = []
    sampler.denoise(
        *contexts,
        args["seed"],
        settings_of(golden, steps=len(expected)),
        on_step=latents.append,
        pipeline=pipeline,
        conditioning_frames=frames,
        controlnet_frame_indices=io["cond_index"].tolist(),
    )
    for number, (got, wanted) in enumerate(zip(latents, expected, strict=True)):
        record(f"latents of the controlled pipeline, {number}", relative_error(got, wanted), LATENTS, "relative")
