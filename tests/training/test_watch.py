"""Each number that may go bad is made to go bad: it is named, and stops the run or is told."""

from __future__ import annotations

import logging
from collections.abc import Callable as Function
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from tiny_training import equal, fit, make_data, make_module

from idanim.config import compose
from idanim.models.checkpoint import read_adapter
from idanim.training.callbacks import IdTokenShare
from idanim.training.module import AdapterTraining
from idanim.training.objective import query_shares
from idanim.training.watch import BadNumberError, FrozenWatch, GradientWatch, IdentityWatch, Watch, digest
from idanim.types import ClipBatch, IdanimError


class At(Callback):
    """Does something before the batch of one step."""

    def __init__(self, step: int, change: Function[[AdapterTraining, ClipBatch], object]) -> None:
        self.step, self.change = step, change

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.change(module, batch)


def spoil(factor: float) -> Function[[AdapterTraining, ClipBatch], object]:
    return lambda module, batch: batch.latents.mul_(factor)


def blow_up(module: AdapterTraining, batch: ClipBatch) -> None:
    for weight in module.adapter.adapter_modules.parameters():
        weight.data *= 1e4


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_take_it_in(
    factor: float, shards: Path, tmp_path: Path
) -> None:
    straight, spoiled = make_module(), make_module()
    fit(straight, make_data(shards), 2, tmp_path / "a")
    with pytest.raises(BadNumberError, match=r"not_finite at step 2: the gradient's norm is (nan|inf).*p00\d__\d"):
        fit(spoiled, make_data(shards), 4, tmp_path / "b", callbacks=[GradientWatch(Watch()), At(2, spoil(factor))])
    assert equal(straight.state_dict(), spoiled.state_dict())
    kept = read_adapter(tmp_path / "b" / "last.ckpt").state
    assert all(tensor.isfinite().all() for tensor in kept.values())


def test_weights_that_explode_by_the_learning_rate_are_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(BadNumberError, match=r"not_finite.*a lower training\.optimizer\.lr needs another output="):
        fit(make_module(lr=1e30), make_data(shards), 5, tmp_path, callbacks=[GradientWatch(Watch())])


@pytest.mark.parametrize("action", ["warn", "off"])
def test_a_bad_number_may_be_told_only(
    action: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = GradientWatch(Watch(not_finite=action))
    trainer = fit(make_module(), make_data(shards), 3, tmp_path, callbacks=[watch, At(1, spoil(float("nan")))])
    assert trainer.global_step == 3
    assert ("not_finite at step 1" in caplog.text) is (action == "warn")


def test_a_gradient_that_explodes_is_told_with_the_clips(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callbacks = [GradientWatch(Watch()), At(22, blow_up)]
    fit(make_module(lr=1e-5), make_data(shards), 24, tmp_path, callbacks=callbacks)
    told = [record.getMessage() for record in caplog.records if "exploding_gradient" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("exploding_gradient at step 2")
    assert "its median over 2" in told[0]
    callbacks = [GradientWatch(Watch(exploding_gradient="stop")), At(22, blow_up)]
    with pytest.raises(BadNumberError, match="exploding_gradient at step 2"):
        fit(make_module(lr=1e-5), make_data(shards), 24, tmp_path / "b", callbacks=callbacks)


def test_dead_queries_are_counted_and_named(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def kill(module: AdapterTraining, batch: ClipBatch) -> None:
        module.adapter.image_proj_model.latents.data[:, 1:3] *= 1e12  # what the face adds to them drowns

    callbacks = [IdentityWatch(Watch()), IdTokenShare(every_n_steps=1), At(1, kill)]
    fit(make_module(lr=1e-6), make_data(shards), 3, tmp_path, callbacks=callbacks)
    told = [record.getMessage() for record in caplog.records if "dead_queries" in record.getMessage()]
    assert len(told) == 1
    assert "at step 2: 2 of 4 id tokens are the same for every person (numbers 1, 2)" in told[0]


def test_share_of_each_query() -> None:
    tokens = torch.zeros(2, 3, 4)
    tokens[:, 0] = 1  # the same for both
    tokens[0, 1], tokens[1, 1] = 1, -1  # opposite
    assert query_shares(tokens).tolist() == pytest.approx([0, 1, 0])


@pytest.mark.parametrize(
    ("loss", "share", "is_told"), [(0.9, 0.01, True), (0.9, 0.08, False), (1.1, 0.01, False), (1.0, 0.029, True)]
)
def test_identity_that_is_lost_while_the_loss_falls(loss: float, share: float, is_told: bool) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, barebones=True)
    watch = IdentityWatch(Watch(lost_identity="stop"))
    watch.losses.append(torch.tensor(1.0))
    watch.observe(trainer, {"id_token_share": 0.05, "train/clips_per_s": 3.0})
    watch.observe(trainer, {"id_token_share": 0.1})
    watch.losses.clear()
    watch.losses.append(torch.tensor(loss))
    watch.stop_together(trainer)
    watch.observe(trainer, {"id_token_share": share})
    if is_told:
        with pytest.raises(BadNumberError, match=rf"lost_identity .*id_token_share is {share}, its best was 0.1"):
            watch.stop_together(trainer)
    else:
        watch.stop_together(trainer)


def test_the_watch_of_identity_sees_what_is_logged(shards: Path, tmp_path: Path) -> None:
    watch = IdentityWatch(Watch())
    fit(make_module(), make_data(shards), 2, tmp_path, callbacks=[watch, IdTokenShare(every_n_steps=1)])
    best, loss = watch.best["id_token_share"]
    assert 0 < best < 1
    assert loss > 0


def test_a_run_that_goes_on_is_watched_as_if_it_had_never_stopped(shards: Path, tmp_path: Path) -> None:
    def watched(steps: int, folder: Path) -> list[dict]:
        watches = [GradientWatch(Watch()), IdentityWatch(Watch())]
        last = folder / "last.ckpt"
        callbacks = [*watches, IdTokenShare(every_n_steps=1)]
        fit(make_module(), make_data(shards), steps, folder, last if last.is_file() else None, callbacks=callbacks)
        return [watch.state_dict() for watch in watches]

    straight = watched(4, tmp_path / "a")
    watched(2, tmp_path / "b")
    assert watched(4, tmp_path / "b") == straight
    assert len(straight[0]["norms"]) == len(straight[1]["losses"]) == 4
    assert straight[1]["best"]["id_token_share"][0] > 0


@pytest.mark.parametrize("state", [{}, {"norms": ["x"], "quiet_until": 0}, {"norms": 3, "quiet_until": None}])
def test_a_damaged_state_is_refused(state: dict) -> None:
    with pytest.raises(IdanimError, match="what the checkpoint has of GradientWatch is damaged"):
        GradientWatch(Watch()).load_state_dict(state)


def test_frozen_weights_that_move_stop_the_run_and_reach_no_checkpoint(shards: Path, tmp_path: Path) -> None:
    def nudge(module: AdapterTraining, batch: ClipBatch) -> None:
        weight = next(module.backbone.unet.parameters()).data.view(-1)
        weight[3] = torch.nextafter(weight[3], torch.tensor(10.0))  # the smallest change there is

    before = make_module()
    with pytest.raises(BadNumberError, match="frozen_drift at step 3: weights of the frozen backbone changed"):
        fit(before, make_data(shards), 4, tmp_path, callbacks=[FrozenWatch(Watch()), At(2, nudge)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_run_whose_frozen_weights_stay_ends_well(shards: Path, tmp_path: Path) -> None:
    callbacks = [FrozenWatch(Watch()), GradientWatch(Watch()), IdentityWatch(Watch())]
    assert fit(make_module(), make_data(shards), 2, tmp_path, callbacks=callbacks).global_step == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_the_digest_sees_every_bit_and_place(dtype: torch.dtype) -> None:
    module = torch.nn.Module()
    module.register_buffer("a", torch.arange(6).to(dtype).view(2, 3))
    seen = {digest(module)}
    module.a = module.a.view(3, 2)
    seen.add(digest(module))
    module.a = module.a.flip(0).clone()
    seen.add(digest(module))
    module.a.view(torch.uint8).view(-1)[0] ^= 1
    seen.add(digest(module))
    assert len(seen) == 4


def test_settings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Watch(**compose("train", []).config["watch"]) == Watch()
    assert Watch(**compose("train", ["watch.not_finite=off"]).config["watch"]).not_finite == "off"
    with pytest.raises(IdanimError, match=r"watch\.not_finite='halt': expected one of stop, warn, off"):
        Watch(not_finite="halt")
