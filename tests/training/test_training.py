"""Training through Lightning: what learns, what is saved, and that resuming is exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import CONFIG, equal, fit, make_data, make_module

from idanim.models.adapter import FaceAdapter
from idanim.models.checkpoint import read_adapter
from idanim.training.callbacks import IdTokenShare
from idanim.training.resume import changed_settings
from idanim.training.watch import GradientWatch, Watch
from idanim.types import ClipBatch, IdanimError


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_steps_then_resumed_to_four_equals_four(shards: Path, tmp_path: Path, accumulate: int) -> None:
    options = {"accumulate_grad_batches": accumulate}
    straight = make_module()
    fit(straight, make_data(shards), 4, tmp_path / "a", **options)
    fit(make_module(), make_data(shards), 2, tmp_path / "b", **options)
    torch.manual_seed(99)  # nothing may hang on the global random state
    resumed = make_module()
    fit(resumed, make_data(shards), 4, tmp_path / "b", tmp_path / "b" / "last.ckpt", **options)
    assert equal(straight.state_dict(), resumed.state_dict())
    assert equal(straight.ema.module.state_dict(), resumed.ema.module.state_dict())
    a, b = (torch.load(tmp_path / n / "last.ckpt", weights_only=True) for n in ("a", "b"))
    assert a["global_step"] == b["global_step"] == 4
    moments = [c["optimizer_states"][0]["state"] for c in (a, b)]
    assert all(equal(moments[0][i], moments[1][i]) for i in moments[0])


def test_the_checkpoint_holds_the_adapter_alone(shards: Path, tmp_path: Path) -> None:
    module = make_module()
    fit(module, make_data(shards), 1, tmp_path)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(content["state_dict"]) == set(module.adapter.state_dict())
    for name in ("last.ckpt", "adapter.safetensors"):
        read = read_adapter(tmp_path / name)
        assert read.config == CONFIG
        assert equal(read.state, dict(module.ema.module.state_dict()))


def test_frozen_parts_do_not_move(shards: Path, tmp_path: Path) -> None:
    module, fresh = make_module(), make_module()
    fit(module, make_data(shards), 3, tmp_path)
    assert equal(module.backbone.state_dict(), fresh.backbone.state_dict())
    assert equal(module.encoder.state_dict(), fresh.encoder.state_dict())
    assert not equal(module.adapter.state_dict(), fresh.adapter.state_dict())
    assert all(p.grad is None for p in [*module.backbone.parameters(), *module.ema.parameters()])
    assert not module.backbone.unet.training


def test_resuming_another_architecture_is_an_error(shards: Path, tmp_path: Path) -> None:
    fit(make_module(), make_data(shards), 1, tmp_path)
    with pytest.raises(IdanimError, match=r"image_proj_model\.latents has shape \(1, 4, 32\), expected \(1, 8, 32\)"):
        fit(make_module(num_queries=8), make_data(shards), 2, tmp_path / "other", tmp_path / "last.ckpt")


def test_going_on_with_other_settings_is_an_error(shards: Path, tmp_path: Path) -> None:
    fit(make_module(), make_data(shards), 1, tmp_path)
    changed = {"choices": {}, "values": {"seed": 1, "trainer": {"max_steps": 9}}}
    with pytest.raises(IdanimError, match="other settings: seed: 0 → 1"):
        fit(make_module(stored_config=changed), make_data(shards), 2, tmp_path / "b", tmp_path / "last.ckpt")


def test_what_may_change_when_a_run_goes_on() -> None:
    stored = {"values": {"trainer": {"max_steps": 1}, "data": {"shards": "a", "batch_size": 2}}}
    now = {"values": {"trainer": {"max_steps": 9}, "data": {"shards": "b", "batch_size": 2}, "output": "x"}}
    assert changed_settings(stored, now) == []
    now["values"]["data"]["batch_size"] = 4
    assert changed_settings(stored, now) == ["data.batch_size: 2 → 4"]


def first_batch(shards: Path, batch_size: int = 4) -> ClipBatch:
    data = make_data(shards, batch_size=batch_size, null_text_prob=0.0)
    data.prepare_data()
    return data.reference_batch("train", batch_size)


def test_overfits_one_batch(shards: Path) -> None:
    """The random backbone leaves the adapter little room, but with the noise fixed the loss must fall."""
    module = make_module(lr=3e-2)
    batch = first_batch(shards, batch_size=1)
    optimizer = module.make_optimizer(module.adapter.parameters())
    losses = []
    for _ in range(60):
        loss = module._losses(module.adapter, batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_loss_of_a_batch_is_the_mean_over_its_samples(shards: Path) -> None:
    module = make_module()
    batch = first_batch(shards)
    alone = []
    for i in range(len(batch.keys)):
        part = [field if field is None else field[i : i + 1] for field in batch]
        alone.append(module._losses(module.adapter, ClipBatch(*part))[0].item())
    assert module._losses(module.adapter, batch)[0].item() == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_dropping_every_face_makes_the_reference_irrelevant(shards: Path) -> None:
    batch = first_batch(shards)
    other = batch._replace(references=-batch.references)
    for null_image_prob, same in ((1.0, True), (0.0, False)):
        module = make_module(null_image_prob=null_image_prob)
        losses = [module._losses(module.adapter, b)[0].item() for b in (batch, other)]
        assert (losses[0] == losses[1]) is same


def test_average_follows_its_formula(shards: Path, tmp_path: Path) -> None:
    module = make_module(ema_decay=0.15)
    weights = [module.adapter.state_dict()["image_proj_model.latents"].clone()]
    trainer_steps = 3
    original = module.ema.update

    def recording(adapter: FaceAdapter) -> None:
        weights.append(adapter.state_dict()["image_proj_model.latents"].clone())
        original(adapter)

    module.ema.update = recording  # type: ignore[method-assign]
    fit(module, make_data(shards), trainer_steps, tmp_path)
    expected = weights[1]  # the first update copies
    for n, current in enumerate(weights[2:], start=1):
        decay = min(0.15, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * current
    assert torch.allclose(module.ema.module.state_dict()["image_proj_model.latents"], expected, atol=1e-7)


def test_token_share_is_logged(shards: Path, tmp_path: Path) -> None:
    module = make_module()
    trainer = fit(module, make_data(shards), 2, tmp_path, callbacks=[IdTokenShare(every_n_steps=1)])
    share = float(trainer.callback_metrics["id_token_share"])
    assert 0 < share < 1


def test_another_way_of_clipping_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match="gradient_clip_algorithm: gradients are clipped by their norm"):
        fit(make_module(), make_data(shards), 1, tmp_path, gradient_clip_algorithm="value")


def test_gradient_norm_is_logged_before_clipping(shards: Path, tmp_path: Path) -> None:
    trainer = fit(make_module(), make_data(shards), 1, tmp_path, callbacks=[GradientWatch(Watch())])
    assert float(trainer.callback_metrics["train/grad_norm"]) > 0
