"""From pictures and a prompt to a video through our `Sampler`; the same with SparseCtrl."""

from __future__ import annotations

from typing import Any

import official_models
import pytest
import torch
from golden_folder import GoldenFolder, Tensors, max_error, pictures, relative_error, stored_part
from parity_table import Record
from PIL import Image
from torch import Tensor

from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.sparse_control import condition_latents, sparse_control_pipeline

LAYER, LATENTS, RESIDUALS, VIDEO, EXACT = 1e-5, 2e-5, 5e-5, 5e-5, 1e-11
REFERENCES = {"single": 1, "two": 2, "three": 3, "four": 4}


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
    """The first so many pictures as the case says; all of them for another name."""
    return [picture.numpy() for picture in pictures(data)[: REFERENCES.get(case)]]


def cases(data: Tensors) -> list[str]:
    return sorted(key.removesuffix(".latents_init") for key in data if key.endswith(".latents_init"))


def test_text_encoder(golden: GoldenFolder, backbone: AnimateDiffBackbone, data: Tensors, record: Record) -> None:
    args = golden.args("pipeline")
    text, negative = backbone.encode_text([args["prompt"], args["negative_prompt"]]).split(1)
    record("CLIP text", max_error(text, data["prompt_embeds"]), LAYER)
    record("CLIP text, negative", max_error(negative, data["negative_prompt_embeds"]), LAYER)


def test_id_tokens_of_pictures(golden: GoldenFolder, sampler: Sampler, data: Tensors, record: Record) -> None:
    args = golden.args("pipeline")
    length = data["prompt_embeds"].shape[1]
    originals = [picture.numpy() for picture in pictures(data)]
    stored = {f"face_tokens.ref{n}": [original] for n, original in enumerate(originals)}
    stored |= {"face_tokens.mean": originals} if len(originals) > 1 else {}
    for case, chosen in stored.items():
        expected = data[case]
        context, negative = sampler.guidance_contexts(chosen, args["prompt"], args["negative_prompt"])
        record(f"id tokens, {case}", max_error(context[:, length:], expected), LAYER)
        record(f"id tokens of nobody, {case}", max_error(negative[:, length:], data["face_tokens.uncond"]), LAYER)


def test_video(golden: GoldenFolder, sampler: Sampler, data: Tensors, record: Record) -> None:
    for case in cases(data):
        check_case(case, golden, sampler, data, record)


def check_case(case: str, golden: GoldenFolder, sampler: Sampler, data: Tensors, record: Record) -> None:
    args, settings = golden.args("pipeline"), settings_of(golden)
    expected = data[f"{case}.latents_per_step"]
    initial = torch.randn(data[f"{case}.latents_init"].shape, generator=torch.Generator().manual_seed(args["seed"]))
    record(f"initial noise, {case}", max_error(initial, data[f"{case}.latents_init"]), 0)
    contexts = sampler.guidance_contexts(references(data, case), args["prompt"], args["negative_prompt"])
    latents: list[Tensor] = []
    video = sampler.denoise(*contexts, args["seed"], settings, on_step=latents.append)
    if f"{case}.timesteps" in data:
        assert torch.equal(sampler._pipeline.scheduler.timesteps, data[f"{case}.timesteps"])
    kept = latents if len(expected) == len(latents) else [latents[0], latents[-1]]
    for number, (got, wanted) in enumerate(zip(kept, expected, strict=True)):
        record(f"latents of the pipeline, {case}, {number}", relative_error(got, wanted), LATENTS, "relative")
    parts = stored_part(video.transpose(0, 1)[None], data, f"{case}.video")
    if parts is not None:
        record(f"video, {case}", max_error(*parts), VIDEO)


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


def has_latents(io: Tensors) -> bool:
    """Whether conditions are stored as latents, perhaps beside the pictures they were drawn from."""
    return any(key.startswith("cond") and io[key].ndim == 5 and io[key].shape[1] > 3 for key in io)


def conditions(golden: GoldenFolder, io: Tensors) -> Tensor:
    """Conditions of the chosen frames, [1, C, n, H, W] pixels or [1, 4, n, h, w] latents."""
    stored = [io[key] for key in io if key.startswith("cond") and io[key].ndim == 5]
    if not stored:
        pytest.skip(f"{io.name} has no conditions [1, C, n, H, W]")
    given = max(stored, key=lambda tensor: (tensor.shape[1], tensor.is_floating_point()))
    given = given if given.is_floating_point() else given.float() / 255
    if given.shape[1] == golden.args("sparse_controlnet")["conditioning_channels"]:
        return given
    assert given.shape[1] == 3, given.shape
    return condition_latents(official_models.autoencoder(golden), given[0].transpose(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_sparse_control_residuals(golden: GoldenFolder, record: Record, dtype: torch.dtype) -> None:
    """Frames without condition are flat, and GroupNorm magnifies the rounding of what is flat some hundred times.

    So errors are taken relative to the residuals. The official float32 result is itself off as much as our float64
    one, which has no rounding to speak of, differs from it.
    """
    io, controlnet = golden.tensors("sparse_controlnet_io"), official_models.sparse_controlnet(golden).to(dtype)
    chosen, sample = conditions(golden, io).to(dtype), io["sample"].to(dtype)
    videos, _, frames = sample.shape[:3]
    index = io["cond_index"].tolist()
    condition = torch.zeros(*chosen.shape[:2], frames, *chosen.shape[-2:], dtype=dtype)
    condition[:, :, index] = chosen
    mask = torch.zeros_like(condition[:, :1])
    mask[:, :, index] = 1
    scale = golden.number(io.name, "conditioning_scale")
    if scale is None:
        pytest.skip("the manifest gives no conditioning_scale")
    down, middle = controlnet(
        sample,
        io["timestep"],
        io["text"].to(dtype).repeat_interleave(frames, dim=0),
        condition,
        conditioning_scale=scale,
        conditioning_mask=mask,
        return_dict=False,
    )
    suffix = "" if dtype == torch.float32 else ", ours in float64"
    pairs = {f"residual {n}": (down[int(n)], expected) for n, expected in io.under("down.").items()}
    pairs["middle"] = (middle, io["mid"])
    for name, (got, expected) in pairs.items():
        error = relative_error(by_video(got, videos, frames), expected)
        record(f"SparseCtrl {name}{suffix}", error, RESIDUALS, "relative")
    means = torch.stack([residual.abs().mean() for residual in down])
    record(f"SparseCtrl means{suffix}", relative_error(means, io["down_abs_mean"]), RESIDUALS, "relative")


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
    if "cond_images_uint8" in io and not has_latents(io):  # as a user gives them
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
