"""The same samples, losses and weights on any number of processes and loaders; a lost process ends the job."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback
from tiny_training import fit, make_data, make_module

from idanim.models.checkpoint import read_adapter
from idanim.training.callbacks import AdapterFile, Previews
from idanim.training.checkpoints import Checkpoints
from idanim.training.module import AdapterTraining
from idanim.training.sharding import ShardedBackboneStrategy
from idanim.training.watch import BadNumberError, IdentityWatch, Watch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BATCH, STEPS = 4, 3


class Record(Callback):
    """Writes each step's loss over all processes, and the samples that each process saw."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        facts = {"keys": batch.keys, "seeds": batch.seeds.tolist(), "captions": batch.captions}
        facts["loss"] = float(trainer.callback_metrics["train/loss"])
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{trainer.global_step}_{trainer.global_rank}.json").write_text(json.dumps(facts))


def recorded(folder: Path) -> tuple[list[float], list[list[tuple]]]:
    """Losses by step; samples by step, in the order of the processes."""
    losses, samples = [], []
    for step in range(1, STEPS + 1):
        facts = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{step}_*.json"))]
        assert len({fact["loss"] for fact in facts}) == 1  # the figure is the whole batch's, on every process
        losses.append(facts[0]["loss"])
        samples.append([item for f in facts for item in zip(f["keys"], f["seeds"], f["captions"], strict=True)])
    return losses, samples


def train(
    shards: Path, folder: Path, devices: int, workers: int = 0, steps: int = STEPS, strategy: object = "ddp_fork"
) -> dict[str, torch.Tensor]:
    last = folder / "checkpoints" / "last.ckpt"
    own = [Record(folder / "record"), Checkpoints(last.parent, 1), AdapterFile(folder)]
    options = {"devices": devices, "strategy": strategy if devices > 1 else "auto", "own_callbacks": own}
    data = make_data(shards, batch_size=BATCH, num_workers=workers)
    fit(make_module(), data, steps, folder, last if last.is_file() else None, log_every_n_steps=1, **options)
    return read_adapter(folder / "adapter.safetensors").state


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder, train(shards, folder, 1)


def assert_same(folder: Path, state: dict[str, torch.Tensor], alone: tuple[Path, dict[str, torch.Tensor]]) -> None:
    losses, samples = recorded(folder / "record")
    expected_losses, expected_samples = recorded(alone[0] / "record")
    assert samples == expected_samples
    assert losses == pytest.approx(expected_losses, abs=1e-6)
    # Adam divides by the gradient's size, so that rounding shows where a gradient is next to nothing.
    assert max(float((state[k] - alone[1][k]).abs().max()) for k in state) < 1e-3


@pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize(("devices", "workers"), [(1, 2), (1, 4), (2, 0), (2, 2), (4, 0)])
def test_processes_and_loaders_change_nothing(
    devices: int, workers: int, shards: Path, alone: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    state = train(shards, tmp_path, devices, workers)
    assert_same(tmp_path, state, alone)
    if devices == 1:
        assert all(torch.equal(state[k], alone[1][k]) for k in state)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 4), (4, 2)])
def test_a_run_goes_on_with_another_number_of_processes(
    first: int, then: int, shards: Path, alone: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    train(shards, tmp_path, first, steps=2)
    assert_same(tmp_path, train(shards, tmp_path, then), alone)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_backbone_that_is_shared_out_changes_nothing(
    shards: Path, alone: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    def strategy() -> ShardedBackboneStrategy:
        return ShardedBackboneStrategy(min_layer_parameters=1000, start_method="fork", process_group_backend="gloo")

    train(shards, tmp_path, 2, steps=2, strategy=strategy())
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert set(last["state_dict"]) == set(alone[1])  # the adapter alone, whole
    state = train(shards, tmp_path, 2, strategy=strategy())  # goes on, shared out again
    assert_same(tmp_path, state, alone)
    train(shards, tmp_path / "plain", 2, steps=2, strategy=strategy())
    assert_same(tmp_path / "plain", train(shards, tmp_path / "plain", 1), alone)  # or on one device


class Recorded(IdentityWatch):
    """Writes down what ends each process, and waits for the others to do the same."""

    def __init__(self, watch: Watch, folder: Path) -> None:
        super().__init__(watch)
        self.folder = folder

    def stop_together(self, trainer) -> None:
        try:
            super().stop_together(trainer)
        except BadNumberError as error:
            (self.folder / f"{trainer.global_rank}.txt").write_text(str(error))
            trainer.strategy.barrier()
            raise


class Spoil(Callback):
    """Makes the first step's loss a large one, so that it falls from then on."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == 0:
            batch.latents.mul_(30)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_lost_identity_stops_all_processes_together(shards: Path, tmp_path: Path) -> None:
    def preview(module: AdapterTraining, step: int) -> dict[str, float]:
        return {"preview/face_similarity": 0.5 if step < 3 else 0.01}  # of the first process alone

    watches = [Recorded(Watch(lost_identity="stop"), tmp_path), Spoil(), Previews(preview, 1)]
    with pytest.raises(Exception, match="lost_identity at step 3"):
        fit(
            make_module(),
            make_data(shards, batch_size=BATCH),
            50,
            tmp_path,
            own_callbacks=[*watches, Checkpoints(tmp_path, 1)],
            devices=2,
            strategy="ddp_fork",
        )
    texts = [path.read_text() for path in sorted(tmp_path.glob("[01].txt"))]
    assert len(texts) == 2
    assert texts[0] == texts[1]
    assert texts[0].startswith("lost_identity at step 3: preview/face_similarity is 0.01, its best was 0.5")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


SMALL = [
    "backbone=tiny",
    "backbone.video={num_frames: 8, height: 32, width: 32}",
    "logger=csv",
    "data.batch_size=2",
    "every_n_steps.preview=1000000",
    "every_n_steps.validate=1000000",
    "every_n_steps.checkpoint=5",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "IDANIM_DEBUG": "", "PYTHONPATH": str(ROOT / "src")}


def children(process: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:  # ended
        return []
    return [int(child) for child in tasks if "train.py" in Path(f"/proc/{child}/cmdline").read_text()]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_or_silent_process_ends_the_job_with_an_error(sent: int, shards: Path, tmp_path: Path) -> None:
    arguments = [
        *SMALL,
        "trainer.devices=2",
        "trainer.strategy.timeout.minutes=0.5",
        "trainer.max_steps=100000",
        f"data.shards={shards}",
        f"output={tmp_path}",
    ]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
    others = []
    try:
        deadline = time.monotonic() + 240
        while not (tmp_path / "checkpoints" / "last.ckpt").is_file():
            assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        others = children(job.pid)
        assert len(others) == 1
        os.kill(others[0], sent)
        assert job.wait(timeout=60) not in (0, 75)
    finally:
        job.kill()
        for other in others:  # a stopped one outlives its job
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    assert "another process of this job" in text, text[-2000:]
    assert read_adapter(tmp_path / "checkpoints" / "last.ckpt").state


def start_nodes(arguments: list[str], folder: Path) -> list[subprocess.Popen]:
    """Two torchrun of one process each, which meet on this machine as two machines would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in (0, 1):
        launch = ["--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--master-addr=127.0.0.1"]
        launch += [f"--master-port={port}", "train.py", *SMALL, "trainer.num_nodes=2", "trainer.devices=1", *arguments]
        with (folder / f"node_{rank}.log").open("w") as log:
            command = [sys.executable, "-m", "torch.distributed.run", *launch]
            nodes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=ENVIRONMENT))
    return nodes


def logs(folder: Path) -> str:
    return "".join(path.read_text()[-3000:] for path in sorted(folder.glob("node_*.log")))


def test_two_nodes_train_what_one_does(shards: Path, tmp_path: Path) -> None:
    arguments = ["trainer.max_steps=3", f"data.shards={shards}"]
    nodes = start_nodes([*arguments, f"output={tmp_path / 'two'}"], tmp_path)
    try:
        assert [node.wait(timeout=300) for node in nodes] == [0, 0], logs(tmp_path)
    finally:
        for node in nodes:
            node.kill()
    alone = [*SMALL, "trainer=cpu", "trainer.max_steps=3", f"data.shards={shards}", f"output={tmp_path / 'one'}"]
    alone = [argument for argument in alone if argument not in ("trainer=ddp", "trainer.accelerator=cpu")]
    subprocess.run([sys.executable, "train.py", *alone], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)
    one, two = (read_adapter(tmp_path / name / "adapter.safetensors").state for name in ("one", "two"))
    assert max(float((one[k] - two[k]).abs().max()) for k in one) < 1e-4


def test_a_lost_node_ends_the_job_with_an_error(shards: Path, tmp_path: Path) -> None:
    nodes = start_nodes(["trainer.max_steps=100000", f"data.shards={shards}", f"output={tmp_path}"], tmp_path)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "checkpoints" / "last.ckpt").is_file():
            assert all(node.poll() is None for node in nodes), logs(tmp_path)
            assert time.monotonic() < deadline, logs(tmp_path)
            time.sleep(0.1)
        for worker in children(nodes[1].pid):
            os.kill(worker, signal.SIGKILL)
        nodes[1].kill()  # the whole machine at once
        assert nodes[0].wait(timeout=60) not in (0, 75)
    finally:
        for node in nodes:
            for worker in children(node.pid):
                os.kill(worker, signal.SIGKILL)
            node.kill()
            node.wait()
    text = (tmp_path / "node_0.log").read_text()
    assert "another process of this job ended" in text, text[-3000:]
    assert read_adapter(tmp_path / "checkpoints" / "last.ckpt").state
