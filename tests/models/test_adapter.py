from __future__ import annotations

import copy

import pytest
import torch

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.tiny import tiny_backbone, tiny_encoder

QUERIES = 4


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def encoder() -> ClipFaceEncoder:
    return tiny_encoder()


def make_adapter(backbone: AnimateDiffBackbone, **changes) -> FaceAdapter:
    torch.manual_seed(1)
    options = {"feature_dim": 48, "num_queries": QUERIES, "depth": 2, "dim_head": 8, "heads": 2}
    return FaceAdapter(backbone, **options | changes)


@pytest.fixture
def inputs(backbone: AnimateDiffBackbone) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 8, 8, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    diffused = backbone.diffuse(latents, noise, torch.tensor([0.2, 0.7]))
    text = backbone.encode_text(["a man, smiling", ""])
    tokens = torch.randn(2, QUERIES, text.shape[-1], generator=generator)
    return {"x": diffused.latents, "t": diffused.timesteps, "text": text, "tokens": tokens}


def plain(backbone: AnimateDiffBackbone, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    backbone.set_processors(None)
    return backbone.predict(inputs["x"], inputs["t"], inputs["text"])


def adapted(backbone: AnimateDiffBackbone, inputs: dict[str, torch.Tensor], adapter: FaceAdapter) -> torch.Tensor:
    adapter.attach(backbone)
    return backbone.predict(inputs["x"], inputs["t"], torch.cat([inputs["text"], inputs["tokens"]], dim=1))


def test_scale_0_without_lora_is_the_backbone_bit_for_bit(backbone: AnimateDiffBackbone, inputs: dict) -> None:
    assert torch.equal(adapted(backbone, inputs, make_adapter(backbone, scale=0.0)), plain(backbone, inputs))


def test_scale_1_is_not(backbone: AnimateDiffBackbone, inputs: dict) -> None:
    assert (adapted(backbone, inputs, make_adapter(backbone)) - plain(backbone, inputs)).abs().max() > 1e-3


def test_fresh_lora_changes_nothing_and_a_trained_one_acts_at_scale_0(
    backbone: AnimateDiffBackbone, inputs: dict
) -> None:
    adapter = make_adapter(backbone, scale=0.0, lora_rank=4)
    assert torch.allclose(adapted(backbone, inputs, adapter), plain(backbone, inputs), atol=1e-6)
    torch.nn.init.normal_(adapter.adapter_modules["1"].to_q_lora.up.weight)
    assert (adapted(backbone, inputs, adapter) - plain(backbone, inputs)).abs().max() > 1e-4


def test_decoupled_attention_is_the_sum_of_both(backbone: AnimateDiffBackbone) -> None:
    """Z = Attn(Q, Kt, Vt) + λ Attn(Q, Ki, Vi), computed head by head with plain softmax."""
    adapter = make_adapter(backbone, scale=0.7)
    face_attention = adapter.adapter_modules["1"]
    attn = backbone.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2
    hidden, text, face = torch.randn(6, 9, 32), torch.randn(2, 5, 32), torch.randn(2, QUERIES, 32)

    def one(keys: torch.Tensor, values: torch.Tensor, row: int, head: int) -> torch.Tensor:
        d = 32 // attn.heads
        part = slice(head * d, (head + 1) * d)
        query = attn.to_q(hidden)[row, :, part]
        weights = torch.softmax(query @ keys[row // 3, :, part].T / d**0.5, dim=-1)
        return weights @ values[row // 3, :, part]

    rows = []
    for row in range(6):
        heads = [
            one(attn.to_k(text), attn.to_v(text), row, h)
            + 0.7 * one(face_attention.to_k_face(face), face_attention.to_v_face(face), row, h)
            for h in range(attn.heads)
        ]
        rows.append(attn.to_out[0](torch.cat(heads, dim=-1)))
    result = face_attention(attn, hidden, torch.cat([text, face], dim=1))
    assert torch.allclose(result, torch.stack(rows), atol=1e-5)


def test_context_once_per_video_equals_context_once_per_frame(backbone: AnimateDiffBackbone, inputs: dict) -> None:
    adapter = make_adapter(backbone)
    per_video = adapted(backbone, inputs, adapter)
    frames = inputs["x"].shape[2]
    per_frame = adapted(
        backbone,
        inputs | {k: inputs[k].repeat_interleave(frames, dim=0) for k in ("text", "tokens")},
        adapter,
    )
    assert torch.allclose(per_video, per_frame, atol=1e-5)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_bfloat16_backbone_takes_a_float32_adapter(inputs: dict, lora_rank: int) -> None:
    backbone = tiny_backbone()
    adapter = make_adapter(backbone, lora_rank=lora_rank)
    expected = adapted(backbone, inputs, adapter)
    backbone.to(torch.bfloat16)
    narrow = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    result = adapted(backbone, narrow, adapter)
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.float(), expected, atol=0.1)


def test_only_the_adapter_gets_gradients(backbone: AnimateDiffBackbone, encoder: ClipFaceEncoder, inputs: dict) -> None:
    adapter = make_adapter(backbone, lora_rank=2)
    for module in adapter.adapter_modules.values():
        for name, parameter in module.named_parameters():
            if name.endswith("up.weight"):
                torch.nn.init.normal_(parameter)
    references = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    tokens = adapter.id_tokens(encoder.encode(references))
    adapted(backbone, inputs | {"tokens": tokens}, adapter).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    assert all(p.grad is None for p in [*backbone.parameters(), *encoder.parameters()])


def test_the_backbone_does_not_own_the_adapter(backbone: AnimateDiffBackbone) -> None:
    names = set(backbone.state_dict())
    make_adapter(backbone).attach(backbone)
    assert set(backbone.state_dict()) == names
    assert not any(p.requires_grad for p in backbone.parameters())


def test_starts_from_the_text_projections(backbone: AnimateDiffBackbone) -> None:
    adapter = make_adapter(backbone)
    for layer in backbone.cross_attention_layers():
        key, value = backbone.text_projections(layer)
        module = adapter.adapter_modules[str(layer.number)]
        assert torch.equal(module.to_k_face.weight, key)
        assert torch.equal(module.to_v_face.weight, value)


def test_tokens_of_several_references_are_averaged(backbone: AnimateDiffBackbone) -> None:
    adapter = make_adapter(backbone)
    features = torch.randn(2, 3, 7, 48)
    expected = torch.stack([adapter.id_tokens(features[:, [i]]) for i in range(3)]).mean(dim=0)
    assert torch.allclose(adapter.id_tokens(features), expected, atol=1e-6)


def test_key_layout_is_the_official_one(backbone: AnimateDiffBackbone) -> None:
    keys = set(make_adapter(backbone, lora_rank=2).state_dict())
    assert {k.split(".")[0] for k in keys} == {"image_proj_model", "adapter_modules"}
    assert {k.split(".")[1] for k in keys if k.startswith("adapter_modules")} == {"1", "3", "5", "7"}
    assert {"image_proj_model.latents", "image_proj_model.layers.0.0.to_kv.weight"} <= keys
    parts = {k.split(".", 2)[2] for k in keys if k.startswith("adapter_modules")}
    lora = {f"to_{n}_lora.{d}.weight" for n in ("q", "k", "v", "out") for d in ("down", "up")}
    assert parts == lora | {"to_k_face.weight", "to_v_face.weight"}


def test_video_latents_round_trip_shapes_and_scale(backbone: AnimateDiffBackbone) -> None:
    pixels = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    latents = backbone.encode_video(pixels)
    assert latents.mean.shape == latents.std.shape == (2, 4, 3, 4, 4)
    frame = backbone.vae.encode(pixels[1, 2][None]).latent_dist
    scale = backbone.vae.config.scaling_factor
    assert torch.allclose(latents.mean[1, :, 2], frame.mean[0] * scale, atol=1e-5)
    assert torch.allclose(latents.std[1, :, 2], frame.std[0] * scale, atol=1e-5)
    decoded = backbone.decode_video(latents.mean)
    assert decoded.shape == pixels.shape
    expected = backbone.vae.decode(latents.mean[1, :, 2][None] / scale).sample[0]
    assert torch.allclose(decoded[1, 2], expected, atol=1e-5)


def test_velocity_target(backbone: AnimateDiffBackbone) -> None:
    other = copy.deepcopy(backbone)
    other.scheduler.register_to_config(prediction_type="v_prediction")
    x, noise, u = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 3, 8, 8), torch.tensor([0.0, 0.999])
    alphas = backbone.scheduler.alphas_cumprod[torch.tensor([0, 999])].view(2, 1, 1, 1, 1)
    diffused = other.diffuse(x, noise, u)
    assert diffused.timesteps.tolist() == [0, 999]
    assert torch.allclose(diffused.latents, alphas.sqrt() * x + (1 - alphas).sqrt() * noise, atol=1e-6)
    assert torch.allclose(diffused.target, alphas.sqrt() * noise - (1 - alphas).sqrt() * x, atol=1e-6)
    assert torch.equal(backbone.diffuse(x, noise, u).target, noise)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_right_prediction_amounts_to_the_clean_latents(backbone: AnimateDiffBackbone, prediction_type: str) -> None:
    other = copy.deepcopy(backbone)
    other.scheduler.register_to_config(prediction_type=prediction_type)
    x, noise, u = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 4, 3, 8, 8), torch.tensor([0.1, 0.7])
    diffused = other.diffuse(x, noise, u)
    torch.testing.assert_close(other.clean(diffused, diffused.target), x, atol=1e-4, rtol=1e-4)
    assert torch.equal(diffused.signal_share, other.scheduler.alphas_cumprod[diffused.timesteps])


def test_fingerprint_follows_the_vae_weights() -> None:
    assert tiny_backbone(0).latent_fingerprint == tiny_backbone(0).latent_fingerprint
    assert tiny_backbone(0).latent_fingerprint != tiny_backbone(1).latent_fingerprint


def test_tiny_models_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_backbone(3)
    assert torch.equal(torch.rand(1), expected)


def test_preprocessing_equals_clips_own(encoder: ClipFaceEncoder) -> None:
    import numpy as np
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    from idanim.pictures import square
    from idanim.video import to_float

    picture = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    expected = processor(Image.fromarray(picture), return_tensors="pt").pixel_values
    ours = to_float(square(picture, 64))[None]
    normalised = (ours * 0.5 + 0.5 - encoder.mean) / encoder.std
    assert torch.allclose(normalised, expected, atol=1e-5)
    expected_tokens = encoder.vision_model(expected, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(encoder.encode(ours[None])[0], expected_tokens, atol=1e-4)
