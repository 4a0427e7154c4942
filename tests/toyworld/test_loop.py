from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from idanim.toyworld.draws import Draws
from idanim.toyworld.stages.loop import Schedule, fit


class CutOffError(Exception):
    """Stands for a power failure."""


def train(folder: Path, cut_off_at: int | None = None) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(step: int, draws: Draws) -> Tensor:
        if step == cut_off_at:
            raise CutOffError
        x = draws.normal(8, 3)
        return (model(x) - x.sum(1, keepdim=True)).pow(2).mean()

    fit("test", model, loss, Schedule(12, 0.1, warmup_steps=2, log_every_steps=4), folder / "state.pt", seed=1)
    return model


def test_a_run_that_was_cut_off_and_resumed_ends_the_same(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(CutOffError):
        train(tmp_path / "parts", cut_off_at=6)
    resumed = train(tmp_path / "parts")
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = train(tmp_path)
    again = train(tmp_path, cut_off_at=0)
    assert torch.equal(first.weight, again.weight)


def test_the_loss_falls(tmp_path: Path) -> None:
    model = train(tmp_path)
    assert (model.weight - 1).abs().max() < 0.9


def train_in_two(rank: int, folder: Path) -> None:
    """One of two processes; each stores the weights that it ends with."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(train(folder).state_dict(), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_one_model_on_different_batches(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(train_in_two, (tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["weight"], train(tmp_path / "alone").weight)


def test_learning_rate() -> None:
    schedule = Schedule(100, 1.0, warmup_steps=10, flat_share=0.5)
    assert schedule.learning_rate(0) == pytest.approx(0.1)
    assert schedule.learning_rate(30) == pytest.approx(1.0)
    assert schedule.learning_rate(99) < 0.05
