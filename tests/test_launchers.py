"""Jobs of a sweep side by side: on this machine, and as Slurm runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import submitit
from omegaconf import OmegaConf

from idanim.config import CONF_DIR, check_overrides
from idanim.plain_values import plain_arguments
from idanim.types import IdanimError

PROGRAM = """
import json
import os

from idanim.config import program

@program("train")
def main(run):
    facts = {"threads": os.environ.get("OMP_NUM_THREADS"), "scale": run.config["adapter"]["scale"]}
    facts["process"] = os.getpid()
    facts["tags"] = run.config["logger"].get("tags")
    (run.output / "facts.json").write_text(json.dumps(facts))

main()
"""


def sweep(folder: Path, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """Run a program that notes how many threads it has, as a sweep of two jobs."""
    script = folder / "note.py"
    script.write_text(PROGRAM)
    without = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    command = [sys.executable, str(script), "-m", f"output={folder}", "adapter.scale=0.5,1.0", *arguments]
    result = subprocess.run(command, env=without | environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Warning" not in result.stderr
    return [json.loads((folder / f"adapter.scale={scale}" / "facts.json").read_text()) for scale in ("0.5", "1.0")]


def test_jobs_on_this_machine_share_its_cores(tmp_path: Path) -> None:
    jobs = sweep(tmp_path, "launcher=joblib", "hydra.launcher.n_jobs=2")
    share = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert [(job["scale"], job["threads"]) for job in jobs] == [(0.5, share), (1.0, share)]


@pytest.mark.slow
def test_a_sweep_over_signed_urls_shows_no_signature(tmp_path: Path) -> None:
    script = tmp_path / "note.py"
    script.write_text(PROGRAM)
    values = ",".join(f'["https://host/a.tar?sig=SECRET{i}"]' for i in range(2))
    command = [sys.executable, str(script), "-m", f"output={tmp_path / 'sweep'}", "logger=wandb", "+trainer.x=1"]
    result = subprocess.run([*command, f"data.shards={values}"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "SECRET" not in result.stdout + result.stderr
    jobs = sorted((tmp_path / "sweep").rglob("facts.json"))
    assert len(jobs) == 2  # one folder each
    assert not any("SECRET" in str(path) for path in jobs)
    assert [json.loads(path.read_text())["tags"] for path in jobs] == [['data.shards=["https://host/a.tar?…"]']] * 2


@pytest.mark.slow
def test_jobs_in_a_queue_of_submitit(tmp_path: Path) -> None:
    jobs = sweep(tmp_path, "launcher=submitit_local", "hydra.launcher.timeout_min=2")
    assert [job["scale"] for job in jobs] == [0.5, 1.0]
    assert jobs[0]["process"] != jobs[1]["process"]


def test_the_batch_script_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")  # submitit asks whether this is a cluster
    arguments = ["launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.cpus_per_task=6", "output=x"]
    with hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = hydra.compose("train", overrides=plain_arguments(arguments), return_hydra_config=True)
    cfg.hydra.job.name = "train"
    values = OmegaConf.to_container(cfg.hydra.launcher, resolve=True)
    del values["_target_"], values["submitit_folder"]
    retries = values.pop("max_num_timeout")
    executor = submitit.SlurmExecutor(tmp_path, max_num_timeout=retries)
    executor._internal_update_parameters(**executor._convert_parameters(values))
    script = executor._make_submission_file_text("python job.py", "1")
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=6",
        "#SBATCH --mem=48GB",
        "export OMP_NUM_THREADS=6",
    ):
        assert line in script, script
    assert retries == 4


def test_a_launcher_that_is_not_there() -> None:
    with pytest.raises(IdanimError, match="there is no hydra/launcher=slrm; did you mean slurm"):
        check_overrides("train", plain_arguments(["launcher=slrm"]))
