"""The whole UNet, plain and with the adapter, and one training step."""

from __future__ import annotations

import re

import official_models
import pytest
import torch
from golden_folder import GoldenFolder, Tensors, max_error, relative_error
from parity_table import Record
from timestep import Timestep, find_timestep, named_timesteps
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.training.objective import denoising_loss

UNET, GRADIENT, EXACT = 5e-5, 1e-4, 1e-11
LOW_PRECISION = 2.0  # our largest error in half precision over the official one


@pytest.fixture(scope="module")
def io(golden: GoldenFolder) -> Tensors:
    return golden.tensors("unet3d_io")


@pytest.fixture
def adapter(golden: GoldenFolder, unet_backbone: AnimateDiffBackbone) -> FaceAdapter:
    adapter = official_models.face_adapter(golden, unet_backbone)
    adapter.attach(unet_backbone)
    return adapter


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest, unet_backbone: AnimateDiffBackbone, adapter: FaceAdapter) -> torch.dtype:
    """Models in the wanted type; back in float32 afterwards."""
    unet_backbone.to(request.param)
    adapter.to(request.param)
    yield request.param
    unet_backbone.float()


@pytest.fixture(scope="module")
def found() -> dict[str, Timestep]:
    """Timesteps of `sample<n>` that had to be found, by n."""
    return {}


def twin(io: Tensors, name: str, dtype: torch.dtype) -> tuple[Tensor, float, str]:
    """The expected tensor in the type under test, its tolerance and a suffix for the table."""
    if dtype == torch.float32:
        return io[name], UNET, ""
    head, _, tail = name.partition(".")
    length = re.fullmatch(r"out(\d+)", name)
    return io[f"out64.{length[1]}" if length else f"{head}64.{tail}"], EXACT, ", float64"


def context_of(io: Tensors, dtype: torch.dtype) -> Tensor:
    return torch.cat([io["text"], io["face_tokens"]], dim=1).to(dtype)


@torch.no_grad()
def test_plain_unet(unet_backbone: AnimateDiffBackbone, io: Tensors, record: Record) -> None:
    unet_backbone.set_processors(None)
    prediction = unet_backbone.predict(io["sample"], io["timesteps"], io["text"])
    record("UNet, plain", max_error(prediction, io["out.plain"]), UNET)


@torch.no_grad()
def test_id_tokens(adapter: FaceAdapter, io: Tensors, record: Record) -> None:
    record("id tokens", max_error(adapter.id_tokens(io["clip_hidden"][:, None]), io["face_tokens"]), 1e-5)


@torch.no_grad()
def test_every_scale(
    unet_backbone: AnimateDiffBackbone, adapter: FaceAdapter, io: Tensors, dtype: torch.dtype, record: Record
) -> None:
    prefix = "out.adapter_scale_" if dtype == torch.float32 else "out64.adapter_scale_"
    scales = io.under(prefix)
    if not scales:
        pytest.skip(f"{io.name} has no {prefix}*")
    for scale in scales:
        expected, tolerance, suffix = twin(io, f"out.adapter_scale_{scale}", dtype)
        adapter.scale = float(scale)
        prediction = unet_backbone.predict(io["sample"].to(dtype), io["timesteps"], context_of(io, dtype))
        record(f"UNet with adapter, scale {scale}{suffix}", max_error(prediction, expected), tolerance)


@torch.no_grad()
def test_one_frame(
    unet_backbone: AnimateDiffBackbone, adapter: FaceAdapter, io: Tensors, dtype: torch.dtype, record: Record
) -> None:
    expected, tolerance, suffix = twin(io, "out.one_frame", dtype)
    prediction = unet_backbone.predict(io["sample"][:, :, :1].to(dtype), io["timesteps"], context_of(io, dtype))
    record(f"UNet with adapter, 1 frame{suffix}", max_error(prediction, expected), tolerance)


@torch.no_grad()
def test_other_lengths(
    golden: GoldenFolder,
    unet_backbone: AnimateDiffBackbone,
    adapter: FaceAdapter,
    io: Tensors,
    dtype: torch.dtype,
    found: dict[str, Timestep],
    record: Record,
) -> None:
    """`sample<n>`: n frames of the first persons."""
    lengths = [match[1] for key in io if (match := re.fullmatch(r"sample(\d+)", key))]
    if not lengths:
        pytest.skip(f"{io.name} has no sample<frames>")
    for length in lengths:
        expected, tolerance, suffix = twin(io, f"out{length}", dtype)
        sample = io[f"sample{length}"].to(dtype)
        context = context_of(io, dtype)[: len(sample)]

        def predict(timesteps: Tensor, sample: Tensor = sample, context: Tensor = context) -> Tensor:
            return unet_backbone.predict(sample, timesteps, context)

        def error_at(timestep: int, expected: Tensor = expected, count: int = len(sample)) -> float:
            return max_error(predict(torch.full((count,), timestep)), expected)

        timesteps, origin = io.under(f"timesteps{length}").get(""), ""
        if timesteps is None:
            stored = golden.number(io.name, f"timestep{length}")
            if stored is not None:
                found[length] = Timestep(int(stored), "")
            elif length not in found:
                steps = unet_backbone.scheduler.config.num_train_timesteps
                found[length] = find_timestep(error_at, named_timesteps(golden), tolerance, steps)
            timesteps = torch.full((len(sample),), found[length].value)
            origin = f" (timestep {found[length].value}, {found[length].origin})" if found[length].origin else ""
        error = max_error(predict(timesteps), expected)
        record(f"UNet with adapter, {sample.shape[2]} frames{suffix}{origin}", error, tolerance)


@torch.no_grad()
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision(name: str, golden: GoldenFolder, io: Tensors, record: Record) -> None:
    """The official network itself is off by as much as the manifest says; ours may not be much worse."""
    official = golden.manifest.get("official_unet_deviation_from_float64", {}).get(name)
    if official is None:
        pytest.skip(f"the manifest says nothing of the official error in {name}")
    expected, dtype = io["out64.adapter_scale_1.0"], getattr(torch, name)
    backbone = official_models.unconditional_backbone(golden)
    adapter = official_models.face_adapter(golden, backbone)
    adapter.attach(backbone)
    backbone.to(dtype)
    adapter.to(dtype)
    prediction = backbone.predict(io["sample"].to(dtype), io["timesteps"], context_of(io, dtype))
    record(f"UNet with adapter, {name}", max_error(prediction, expected), LOW_PRECISION * official["max_abs"])


# ---------------------------------------------------------------------------------------- training step


def test_training_step(
    golden: GoldenFolder, unet_backbone: AnimateDiffBackbone, adapter: FaceAdapter, io: Tensors, record: Record
) -> None:
    steps = unet_backbone.scheduler.config.num_train_timesteps
    diffused = unet_backbone.diffuse(io["train.x0"], io["train.noise"], (io["train.timesteps"] + 0.5) / steps)
    assert torch.equal(diffused.timesteps, io["train.timesteps"])
    record("noised latents", max_error(diffused.latents, io["train.noisy"]), 1e-6)
    tokens = adapter.id_tokens(io["clip_hidden"][:, None])
    prediction = unet_backbone.predict(diffused.latents, diffused.timesteps, torch.cat([io["text"], tokens], dim=1))
    record("prediction in training", max_error(prediction, io["train.pred"]), UNET)
    loss = denoising_loss(prediction, diffused.target)
    record("training loss", relative_error(loss.view(1), io["train.loss"]), 1e-5, "relative")
    loss.backward()
    check_gradients(adapter, io, "train", GRADIENT, record)


def test_training_step_in_float64(
    golden: GoldenFolder, unet_backbone: AnimateDiffBackbone, adapter: FaceAdapter, io: Tensors, record: Record
) -> None:
    """The stored id tokens come in as constants, so the resampler is not in the graph."""
    expected = io["train64.loss"]
    unet_backbone.double()
    adapter.double()
    try:
        prediction = unet_backbone.predict(
            io["train.noisy"].double(), io["train.timesteps"], context_of(io, torch.float64)
        )
        loss = denoising_loss(prediction, io["train.noise"].double())
        record("training loss, float64", relative_error(loss.view(1), expected), EXACT, "relative")
        loss.backward()
    finally:
        unet_backbone.float()
    check_gradients(adapter, io, "train64", EXACT, record)


def check_gradients(adapter: FaceAdapter, io: Tensors, prefix: str, tolerance: float, record: Record) -> None:
    gradients = {name: p.grad for name, p in adapter.named_parameters() if p.grad is not None}
    norms, full = io.under(f"{prefix}.gradnorm."), io.under(f"{prefix}.grad.")
    if not norms:
        pytest.skip(f"{io.name} has no {prefix}.gradnorm.*")
    suffix = ", float64" if prefix.endswith("64") else ""
    assert norms.keys() == gradients.keys()
    worst = max(relative_error(gradients[name].norm().view(-1), norm.view(-1)) for name, norm in norms.items())
    record(f"{len(norms)} gradient norms{suffix}", worst, tolerance, "relative")
    if full:
        worst = max(relative_error(gradients[name], expected) for name, expected in full.items())
        record(f"{len(full)} whole gradients{suffix}", worst, tolerance, "relative")
