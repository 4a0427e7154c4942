"""Keys and values of a context, kept over the steps of a video."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.attention import ContextCache, FaceAttention
from idanim.models.tiny import tiny_backbone


@pytest.fixture(scope="module")
def backbone() -> AnimateDiffBackbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def adapter(backbone: AnimateDiffBackbone) -> FaceAdapter:
    return FaceAdapter(backbone, 48, num_queries=4, depth=1, dim_head=8, heads=2, lora_rank=2).requires_grad_(False)


def inputs(rows_of_context: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 8, 8, generator=generator)
    context = torch.randn(2, 20, 32, generator=generator).repeat_interleave(rows_of_context, dim=0)
    return latents, torch.tensor([500, 500]), context


@pytest.mark.parametrize("rows_of_context", [1, 3], ids=["per video", "per frame"])
@pytest.mark.parametrize("with_adapter", [True, False])
def test_the_answer_is_the_same(
    rows_of_context: int, with_adapter: bool, backbone: AnimateDiffBackbone, adapter: FaceAdapter
) -> None:
    cache = ContextCache()
    latents, time, context = inputs(rows_of_context)
    answers = []
    for kept in (None, cache):
        if with_adapter:
            adapter.attach(backbone, kept)
        else:
            backbone.set_processors(None if kept is None else backbone.text_processors(kept))
        with cache.video(num_frames=3):
            answers.append(backbone.predict(latents, time, context))
            answers.append(backbone.predict(latents * 0.9, time, context))
    assert torch.allclose(answers[0], answers[2], atol=1e-5)
    assert torch.allclose(answers[1], answers[3], atol=1e-5)


def test_each_layer_projects_one_row_a_video_once(
    backbone: AnimateDiffBackbone, adapter: FaceAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []

    def counted(layer: nn.Linear, x: Tensor) -> Tensor:
        shapes.append(x.shape)
        return nn.functional.linear(x, layer.weight)

    faces = [module for module in adapter.adapter_modules.values() if isinstance(module, FaceAttention)]
    for face in faces:
        monkeypatch.setattr(face.to_k_face, "forward", lambda x, layer=face.to_k_face: counted(layer, x))
    cache = ContextCache()
    adapter.attach(backbone, cache)
    latents, time, context = inputs(3)
    with cache.video(num_frames=3):
        for _step in range(4):
            backbone.predict(latents, time, context)
        assert shapes == [torch.Size([2, 4, 32])] * len(faces)
        backbone.predict(latents, time, context.clone())  # another video's context
        assert len(shapes) == 2 * len(faces)
    backbone.predict(latents, time, context)  # outside nothing is kept
    assert shapes[-1] == torch.Size([6, 4, 32])
