"""Checkpoints are of whole steps; a signal, a full disk or lost permissions lose nothing before the last one."""

from __future__ import annotations

import csv
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback
from safetensors.torch import load_file
from tiny_training import equal, fit, make_data, make_module

from idanim.files import remove_leftovers, write_text
from idanim.models.checkpoint import AtomicCheckpointIO, read_adapter
from idanim.training.callbacks import AdapterFile, IdTokenShare, StepFigures
from idanim.training.checkpoints import Checkpoints, StopSignal
from idanim.training.csv_table import CsvTable
from idanim.training.curves import read_curves
from idanim.types import IdanimError, StoppedBySignalError


class During(Callback):
    """Does something in the middle of one step."""

    def __init__(self, step: int, do) -> None:
        self.step, self.do = step, do

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        if trainer.global_step == self.step:
            self.do()


def send(number: signal.Signals):
    return lambda: os.kill(os.getpid(), number)


def run(shards: Path, folder: Path, steps: int, *callbacks: Callback, stop: StopSignal | None = None, **options):
    module = make_module()
    last = folder / "checkpoints" / "last.ckpt"
    table = CsvTable(folder / "csv")
    own = [StepFigures(1), IdTokenShare(2), *callbacks, Checkpoints(last.parent, 2, stop), AdapterFile(folder)]
    options = {
        "logger": [table],
        "limit_val_batches": 1,
        "val_check_interval": 3,
        "log_every_n_steps": 1,
        "own_callbacks": own,
    } | options
    fit(module, make_data(shards), steps, folder, last if last.is_file() else None, **options)
    return module


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_ends_the_run_after_the_step_and_the_same_command_goes_on(
    number: signal.Signals, step: int, shards: Path, tmp_path: Path
) -> None:
    straight = run(shards, tmp_path / "a", 5)
    before = signal.getsignal(number)
    with StopSignal() as stop, pytest.raises(StoppedBySignalError, match=f"{number.name} after step {step + 1}"):
        run(shards, tmp_path / "b", 5, During(step, send(number)), stop=stop)
    assert signal.getsignal(number) is before
    assert torch.load(tmp_path / "b/checkpoints/last.ckpt", weights_only=True)["global_step"] == step + 1
    assert not (tmp_path / "b" / "adapter.safetensors").exists()
    resumed = run(shards, tmp_path / "b", 5)
    assert equal(straight.state_dict(), resumed.state_dict())
    curves = [read_curves(tmp_path / name) for name in ("a", "b")]
    assert curves[0] == curves[1]


def test_a_signal_before_training_ends_the_run_at_once() -> None:
    with pytest.raises(StoppedBySignalError, match="SIGTERM between steps"), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_loader_leaves_the_first_signal_to_its_parent() -> None:
    with StopSignal():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM


def test_a_full_disk_keeps_the_checkpoint_before(shards: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # as if no room were left

        with pytest.raises(IdanimError, match=r"checkpoint of step 4 can't be written.*that of step 2 is whole"):
            run(shards, tmp_path, 5, During(3, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
    assert equal(run(shards, tmp_path, 5).state_dict(), run(shards, tmp_path / "straight", 5).state_dict())


def test_lost_permission_is_told(shards: Path, tmp_path: Path) -> None:
    def take_away() -> None:
        (tmp_path / "checkpoints").rename(tmp_path / "away")
        (tmp_path / "checkpoints").write_text("in the way")

    with pytest.raises(IdanimError, match=r"step 4 can't be written.*step 2 is whole.*same command again"):
        run(shards, tmp_path, 5, During(3, take_away))
    assert read_adapter(tmp_path / "away" / "last.ckpt").config


def test_killed_between_the_last_checkpoint_and_the_adapter(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path, 3)
    written = load_file(tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.safetensors").unlink()
    run(shards, tmp_path, 3)
    again = load_file(tmp_path / "adapter.safetensors")  # safetensors writes its metadata in any order
    assert again.keys() == written.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())


def test_the_figures_of_a_checkpoint_are_on_disk_before_it(shards: Path, tmp_path: Path) -> None:
    seen = {}

    class Look(AtomicCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
            curves = read_curves(tmp_path)
            seen[checkpoint["global_step"]] = {name: points[-1][0] for name, points in curves.items()}
            super().save_checkpoint(checkpoint, path, storage_options)

    run(shards, tmp_path, 3, plugins=[Look()])
    assert seen[2]["train/loss"] == 2
    assert seen[3]["train/loss"] == 3
    assert seen[3]["val/loss"] == 2  # its validation came first; Lightning counts those steps from 0


def test_the_table_is_whole_and_versions_count_up(tmp_path: Path) -> None:
    for number in range(2):
        table = CsvTable(tmp_path)
        table.log_metrics({"a": 1.0}, 1)
        table.save()
        table.log_metrics({"b": float("nan"), "a": 2.0}, 2)
        table.log_metrics({"a": 3.0}, 2)
        table.finalize("success")
        with (tmp_path / f"version_{number}" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows == [{"step": "1", "a": "1.0", "b": ""}, {"step": "2", "a": "3.0", "b": "nan"}]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    write_text(tmp_path / "last.ckpt", "whole")
    (tmp_path / ".last.x7f.part.ckpt").write_text("half")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
