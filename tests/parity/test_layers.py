"""Single layers: resampler, face attention, the encoders, preprocessing, tokenizer, scheduler, alignment."""

from __future__ import annotations

import hashlib
import re
from types import SimpleNamespace

import numpy as np
import official_models
import pytest
import torch
from golden_folder import GoldenFolder, Tensors, max_error, pictures, relative_error, stored_part
from parity_table import Record
from torch import Tensor, nn

from idanim.faces.align import ARCFACE_TEMPLATE, TEMPLATE_PX, fit_similarity
from idanim.models.animatediff import animatediff_scheduler
from idanim.models.attention import FaceAttention
from idanim.models.checkpoint import load_strictly
from idanim.pictures import square
from idanim.video import to_float

LAYER, GRADIENT, GREY_LEVELS = 1e-5, 1e-4, 4


def test_the_files_are_those_of_the_manifest(golden: GoldenFolder) -> None:
    for name, entry in golden.manifest["files"].items():
        path = golden.path / name
        assert path.is_file(), f"the manifest lists {name}, which is not there"
        if "sha256" in entry:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"], name


# -------------------------------------------------------------------------------------------- resampler


@torch.no_grad()
def test_resampler(golden: GoldenFolder, record: Record) -> None:
    data, model = golden.tensors("resampler"), official_models.resampler(golden)
    record("resampler", max_error(model(data["input"]), data["output"]), LAYER)


@torch.no_grad()
def test_resampler_of_zeros(golden: GoldenFolder, record: Record) -> None:
    data, model = golden.tensors("resampler"), official_models.resampler(golden)
    zeros = torch.zeros_like(data["input"][:1])
    record("resampler, zero input", max_error(model(zeros), data["output_for_zero_input"]), LAYER)


# --------------------------------------------------------------------------------------- face attention


def face_attention(golden: GoldenFolder) -> tuple[FaceAttention, SimpleNamespace, Tensors]:
    """The layer, the frozen attention it works in, and the data."""
    args, data = golden.args("lora_face_attn"), golden.tensors("lora_face_attn")
    module = FaceAttention(args["hidden"], args["cross_attention_dim"], args["num_tokens"], 1.0, args.get("rank") or 0)
    load_strictly(module, {k: t.float() for k, t in data.under("processor.").items()}, "lora_face_attn")
    linears = {}
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        weight, bias = data[f"attn.{name}.weight"].float(), data.under(f"attn.{name}.").get("bias")
        linears[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).requires_grad_(False)
        linears[name].weight.copy_(weight)
        if bias is not None:
            linears[name].bias.copy_(bias)
    out = nn.ModuleList([linears.pop("to_out.0"), nn.Identity()])
    return module, SimpleNamespace(heads=args["heads"], to_out=out, **linears), data


def test_face_attention_outputs(golden: GoldenFolder, record: Record) -> None:
    module, attn, data = face_attention(golden)
    outputs = data.under("output.")
    assert outputs, "no outputs in lora_face_attn"
    for name, expected in outputs.items():
        scale, _, lora_scale = name.removeprefix("scale_").partition("_lora_scale_")
        module.scale, module.lora_scale = float(scale), float(lora_scale or 1)
        with torch.no_grad():
            result = module(attn, data["hidden_states"], data["encoder_hidden_states"])
        record(f"face attention, {name.replace('_', ' ')}", max_error(result, expected), LAYER)


def test_face_attention_gradients(golden: GoldenFolder, record: Record) -> None:
    module, attn, data = face_attention(golden)
    hidden = data["hidden_states"].clone().requires_grad_()
    context = data["encoder_hidden_states"].clone().requires_grad_()
    (module(attn, hidden, context) * data["cotangent"]).sum().backward()
    got = {f"processor.{name}": p.grad for name, p in module.named_parameters()}
    got |= {"hidden_states": hidden.grad, "encoder_hidden_states": context.grad}
    worst = max(relative_error(got[name], expected) for name, expected in data.under("grad.").items())
    record("face attention, every gradient", worst, GRADIENT, "relative")


# ------------------------------------------------------------------- pictures, text, and their encoders


def preprocessed(golden: GoldenFolder, originals: list[Tensor], size: int) -> Tensor:
    """[H, W, 3] uint8 pictures as the encoder sees them."""
    crops = torch.stack([to_float(square(picture.numpy(), size)[None])[0] for picture in originals])
    return official_models.vision_encoder(golden).normalise(crops)


def check_preprocessing(name: str, pixels: Tensor, data: Tensors, key: str, record: Record) -> None:
    parts = stored_part(pixels, data, key)
    if parts is None:
        pytest.skip(f"{data.name} has no tensor {key}")
    record(name, max_error(*parts), LAYER)


def test_preprocessing(golden: GoldenFolder, record: Record) -> None:
    data = golden.tensors("clip_preprocess")
    size = golden.number("clip_preprocess", "shortest edge") or golden.args("clip_vision")["image_size"]
    pixels = preprocessed(golden, [data["image"]], int(size))
    check_preprocessing("CLIP preprocessing", pixels, data, "pixel_values", record)


def test_preprocessing_of_references(golden: GoldenFolder, record: Record) -> None:
    data, size = golden.tensors("pipeline"), golden.args("clip_vision")["image_size"]
    pixels = preprocessed(golden, pictures(data), size)
    check_preprocessing("CLIP preprocessing of references", pixels, data, "clip_pixel_values", record)


def test_vision_encoder(golden: GoldenFolder, record: Record) -> None:
    data, encoder = golden.tensors("pipeline"), official_models.vision_encoder(golden)
    crops = torch.stack([to_float(square(p.numpy(), encoder.image_size)[None])[0] for p in pictures(data)])
    tokens = encoder.encode(crops[None])[0]
    record("CLIP vision tokens", max_error(tokens, data["vision_hidden_penultimate"]), LAYER)
    null_tokens = encoder.null_features()[0]
    record("CLIP vision tokens of nobody", max_error(null_tokens, data["vision_hidden_penultimate_zero_image"]), LAYER)


def test_tokenizer(golden: GoldenFolder, record: Record) -> None:
    args, data = golden.args("pipeline"), golden.tensors("pipeline")
    length = data["prompt_ids"].shape[1]
    encoded = official_models.tokenizer(golden)(
        [args["prompt"]], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    record("tokenizer ids", max_error(encoded.input_ids, data["prompt_ids"]), 0)


# ----------------------------------------------------------------------------- scheduler and alignment


def test_ddim_tables(golden: GoldenFolder, record: Record) -> None:
    data, scheduler = golden.tensors("scheduler"), official_models.scheduler(golden, "scheduler")
    record("DDIM betas", max_error(scheduler.betas, data["betas"]), 1e-7)
    record("DDIM alphas", max_error(scheduler.alphas_cumprod, data["alphas_cumprod"]), 1e-7)
    for steps, expected in data.under("timesteps.").items():
        scheduler.set_timesteps(int(steps))
        record(f"DDIM timesteps, {steps} steps", max_error(scheduler.timesteps, expected), 0)


def inference_steps(golden: GoldenFolder, data: Tensors) -> int:
    """How many steps the single steps are of; the note has it ("step.* with 30 inference steps")."""
    match = re.search(r"step\.\* with (\d+) inference steps", golden.entry("scheduler").get("note", ""))
    if match:
        return int(match[1])
    steps = {int(key) for key in data.under("step.prev_sample.t")}
    fitting = [int(count) for count, of in data.under("timesteps.").items() if steps <= set(of.tolist())]
    if len(fitting) != 1:
        pytest.skip(f"the manifest doesn't say of how many steps {sorted(steps)} are")
    return fitting[0]


def test_ddim_steps(golden: GoldenFolder, record: Record) -> None:
    data, scheduler = golden.tensors("scheduler"), official_models.scheduler(golden, "scheduler")
    scheduler.set_timesteps(inference_steps(golden, data))
    for name, expected in data.under("step.prev_sample.t").items():
        step = scheduler.step(data["step.eps"], int(name), data["step.sample"])
        record(f"DDIM step at {name}", max_error(step.prev_sample, expected), 1e-6)


def test_our_defaults_are_the_official_schedule(golden: GoldenFolder) -> None:
    ours, folder = animatediff_scheduler().config, official_models.scheduler(golden).config
    if folder.beta_schedule != "linear":
        pytest.skip("the folder's schedule is not AnimateDiff's")
    assert {k: v for k, v in ours.items() if not k.startswith("_")} == {
        k: v for k, v in folder.items() if not k.startswith("_")
    }


def test_layers_are_counted_as_in_the_official_files(golden: GoldenFolder) -> None:
    order = golden.entry("animator").get("attn_processor_order")
    if order is None:
        pytest.skip("the manifest gives no attn_processor_order")
    backbone = official_models.unconditional_backbone(golden)
    layers = (*backbone.self_attention_layers(), *backbone.cross_attention_layers())
    assert {layer.number: layer.name for layer in layers} == dict(enumerate(order))


def test_alignment(golden: GoldenFolder, record: Record) -> None:
    data = golden.tensors("face_align")
    for number, points in data.under("kps.").items():
        matrix = torch.from_numpy(fit_similarity(points.numpy(), ARCFACE_TEMPLATE))
        record(f"face alignment matrix {number}", relative_error(matrix, data[f"M.{number}"]), 1e-5, "relative")


def warped(picture: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] → [size, size, 3], bilinear at 1/32 pixel, black outside: what OpenCV's warpAffine does to 4.x."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    rows, columns = np.mgrid[:size, :size]
    points = inverse @ np.stack([columns.ravel(), rows.ravel(), np.ones(size * size)])
    points = np.round(points * 32) / 32 + 1
    framed = np.pad(picture.astype(np.float64), ((1, 2), (1, 2), (0, 0)))
    points = np.clip(points, 0, np.array(framed.shape[1::-1])[:, None] - 2)
    (x, y), (right, down) = np.floor(points).astype(int), points % 1
    top = framed[y, x] * (1 - right)[:, None] + framed[y, x + 1] * right[:, None]
    bottom = framed[y + 1, x] * (1 - right)[:, None] + framed[y + 1, x + 1] * right[:, None]
    result = top * (1 - down)[:, None] + bottom * down[:, None]
    return np.round(result).reshape(size, size, 3)


def test_crops_of_faces(golden: GoldenFolder, record: Record) -> None:
    """Pixels by our matrix (versions of OpenCV differ by up to 4 grey levels), and their resizing."""
    data = golden.tensors("face_align")
    crops = {name: crop for name, crop in data.items() if re.fullmatch(r"crop\d+_bgr\.\d+", name)}
    if not crops:
        pytest.skip("face_align has no crop<size>_bgr.<number>")
    for name, crop in crops.items():
        number, size = name.rpartition(".")[2], crop.shape[0]
        matrix = fit_similarity(data[f"kps.{number}"].numpy(), ARCFACE_TEMPLATE * (size / TEMPLATE_PX))
        ours = torch.from_numpy(warped(data["image_bgr"].numpy(), matrix, size))
        record(f"face crop {number}, grey levels of 255", max_error(ours, crop), GREY_LEVELS)
        for key in data:
            if match := re.fullmatch(rf"face(\d+)_rgb\.{number}(?:_sub(\d+))?", key):
                step = int(match[2] or 1)
                resized = torch.from_numpy(square(np.ascontiguousarray(crop.numpy()[..., ::-1]), int(match[1])))
                record(f"face crop {number} at {match[1]} px", max_error(resized[::step, ::step], data[key]), 0)
