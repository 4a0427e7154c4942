"""Recomputing and compiling blocks changes neither loss nor gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from idanim.models import attention, blocks
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.blocks import BlockPlan, Recompute
from idanim.models.group_norm import normalise_residual_blocks_jointly
from idanim.models.tiny import tiny_backbone
from idanim.types import IdanimError


def make_models() -> tuple[AnimateDiffBackbone, FaceAdapter]:
    backbone = tiny_backbone(channels=(16, 24), context_dim=32)
    torch.manual_seed(0)
    adapter = FaceAdapter(backbone, 48, num_queries=4, depth=1, dim_head=8, heads=2)
    adapter.attach(backbone)
    return backbone, adapter


def step(backbone: AnimateDiffBackbone, adapter: FaceAdapter) -> tuple[float, dict[str, Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass kept."""
    generator = torch.Generator().manual_seed(1)
    noisy, target = torch.randn(2, 2, 4, 4, 16, 16, generator=generator)
    tokens = adapter.id_tokens(torch.randn(2, 1, 5, 48, generator=generator))
    context = torch.cat([backbone.encode_text(["a smile", "a hat"]), tokens], dim=1)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    adapter.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = F.mse_loss(backbone.predict(noisy, torch.tensor([10, 500]), context), target)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in adapter.named_parameters() if p.grad is not None}
    return loss.item(), gradients, sum(kept.values())


def close(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all((a[k] - b[k]).norm() <= 1e-5 * b[k].norm() for k in a)


@pytest.mark.parametrize("plan", [*(BlockPlan(kind) for kind in Recompute), BlockPlan(channels_last=True)], ids=str)
def test_loss_and_gradients_stay(plan: BlockPlan) -> None:
    backbone, adapter = make_models()
    loss, gradients, _ = step(backbone, adapter)
    backbone.run_blocks_by(plan)
    found = step(backbone, adapter)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert close(found[1], gradients)


def test_recomputing_keeps_less() -> None:
    backbone, adapter = make_models()
    kept = {}
    for kind in Recompute:
        backbone.run_blocks_by(BlockPlan(kind))
        kept[kind] = step(backbone, adapter)[2]
    assert kept[Recompute.ALL] < 0.5 * kept[Recompute.NOTHING]
    assert kept[Recompute.CHEAP] < 0.6 * kept[Recompute.NOTHING]


@pytest.mark.parametrize("kind", list(Recompute))
def test_motion_modules_v1_normalise_over_the_video(kind: Recompute) -> None:
    backbone, adapter = make_models()
    normalise_residual_blocks_jointly(backbone.unet)
    loss, gradients, _ = step(backbone, adapter)
    backbone.run_blocks_by(BlockPlan(kind))
    found = step(backbone, adapter)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert close(found[1], gradients)


@pytest.mark.parametrize("kind", list(Recompute))
def test_a_wide_backbone_under_autocast(kind: Recompute) -> None:
    """Layers compute in another type than that of their weights, and keep what torch keeps."""
    backbone, adapter = make_models()
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients, _ = step(backbone, adapter)
        backbone.run_blocks_by(BlockPlan(kind))
        found = step(backbone, adapter)
    assert found[0] == loss
    assert close(found[1], gradients)


def test_sharded_blocks_are_planned_too() -> None:
    """Sharding gives each module a class derived from its own."""
    backbone, adapter = make_models()
    kept = step(backbone, adapter)[2]
    for module in backbone.unet.modules():
        if isinstance(module, blocks.BLOCKS):
            module.__class__ = type(f"Sharded{type(module).__name__}", (type(module),), {})
    backbone.run_blocks_by(BlockPlan(Recompute.ALL))
    assert step(backbone, adapter)[2] < 0.5 * kept


def test_a_convolution_that_learns_gets_its_gradient() -> None:
    backbone, adapter = make_models()
    weight = backbone.unet.conv_out.weight.requires_grad_()
    step(backbone, adapter)
    assert weight.grad is not None
    expected, weight.grad = weight.grad, None
    backbone.run_blocks_by(BlockPlan())
    step(backbone, adapter)
    assert torch.equal(weight.grad, expected)


def test_residual_blocks_of_other_models_are_recomputed_whole() -> None:
    backbone, adapter = make_models()
    for module in backbone.unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.skip_time_act = True
    loss, gradients, _ = step(backbone, adapter)
    backbone.run_blocks_by(BlockPlan(Recompute.CHEAP))
    found = step(backbone, adapter)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert close(found[1], gradients)


def test_another_plan_leaves_nothing_of_the_first() -> None:
    backbone, adapter = make_models()
    kept = step(backbone, adapter)[2]
    backbone.run_blocks_by(BlockPlan(Recompute.CHEAP))
    backbone.run_blocks_by(BlockPlan(Recompute.NOTHING))
    lean = step(backbone, adapter)[2]
    assert lean < kept
    backbone.run_blocks_by(BlockPlan(Recompute.ALL))
    backbone.run_blocks_by(BlockPlan(Recompute.NOTHING))
    assert step(backbone, adapter)[2] == lean


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside the compiler
@pytest.mark.filterwarnings("ignore:.*Detected that context_fn is passed")
@pytest.mark.parametrize("recompute", list(Recompute))
def test_compiled_without_a_break(recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a backend that needs no compiler; `fullgraph` would raise where Python is left."""
    compile_graph = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **o: compile_graph(run, backend="aot_eager", fullgraph=True, **o))
    backbone, adapter = make_models()
    loss, gradients, _ = step(backbone, adapter)
    backbone.run_blocks_by(BlockPlan(recompute, compiled=True))
    with monkeypatch.context() as patch:
        patch.setattr(blocks.log, "warning", lambda text, *args: pytest.fail(text % args))  # no block may fall back
        found = step(backbone, adapter)
    assert found[0] == pytest.approx(loss, rel=1e-6)
    assert close(found[1], gradients)


def test_a_block_that_cannot_be_compiled_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(run: object, **options: object) -> object:
        def fail(*args: object, **kwargs: object) -> None:
            raise TorchDynamoException("no compiler on this machine")

        return fail

    backbone, adapter = make_models()
    loss, gradients, _ = step(backbone, adapter)
    monkeypatch.setattr(torch, "compile", broken)
    backbone.run_blocks_by(BlockPlan(compiled=True))
    found = step(backbone, adapter)
    assert found[0] == loss
    assert close(found[1], gradients)
    assert "ResnetBlock2D can't be compiled and runs as it is" in caplog.text
    assert len(caplog.records) == len(blocks.BLOCKS)  # said once a kind


def test_without_gradients_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda run, **options: pytest.fail)
    backbone, _ = make_models()
    backbone.set_processors(None)
    inputs = torch.randn(1, 4, 4, 16, 16), torch.tensor([10]), backbone.encode_text(["a smile"])
    with torch.no_grad():
        before = backbone.predict(*inputs)
        backbone.run_blocks_by(BlockPlan(compiled=True))
        assert torch.equal(before, backbone.predict(*inputs))


def test_half_precision_is_not_widened_by_autocast() -> None:
    backbone, _ = make_models()
    backbone.set_processors(None)
    context = backbone.encode_text(["a smile"])
    backbone.to(torch.bfloat16)
    inputs = torch.randn(1, 4, 4, 16, 16), torch.tensor([10]), context
    with torch.no_grad():
        before = backbone.predict(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(before, backbone.predict(*inputs))


def test_an_unknown_way_is_an_error() -> None:
    with pytest.raises(IdanimError, match=r"blocks\.recompute='some': expected one of nothing, cheap, all"):
        BlockPlan("some")


@pytest.mark.parametrize(("queries", "keys"), [(8, 8), (16, 16), (64, 77), (300, 300)])
def test_both_kernels_give_the_same(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, queries, 8), torch.randn(2, 3, keys, 8), torch.randn(2, 3, keys, 8)
    expected = F.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(attention.softmax_attention(query, key, value), expected, atol=1e-6)
