"""What W&B is told of a run, read from a run without network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from idanim.config import build, check_overrides, compose
from idanim.plain_values import plain_arguments
from idanim.training.loggers import csv_logger, finish, log_config, log_summary, no_logger, wandb_logger

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json

from idanim.config import program

@program("train", aliases={"caption": "data.caption"})
def main(run):
    (run.output / "logger.json").write_text(json.dumps(run.config["logger"]))

main()
"""


def test_a_run_has_group_tags_configuration_and_summary(tmp_path: Path) -> None:
    tags = ["adapter.scale=0.5", "x" * 80]
    logger = wandb_logger(tmp_path / "adapter.scale=0.5", "idanim", group="scales", tags=tags, mode="offline")
    loggers = [csv_logger(tmp_path), logger]
    try:
        log_config(loggers, {"adapter": {"scale": 0.5}})
        log_summary(loggers, {"train/loss_last": 0.25})
        run = logger.experiment
        assert (run.name, run.group, run.project) == ("adapter.scale=0.5", "scales", "idanim")
        assert run.tags == ("adapter.scale=0.5", "x" * 64)
        assert run.config["adapter"] == {"scale": 0.5}
        assert run.summary["train/loss_last"] == 0.25
    finally:
        finish(loggers)
    (written,) = tmp_path.rglob("run-*.wandb")
    assert written.stat().st_size > 0
    assert no_logger(tmp_path) is None


def test_the_jobs_of_a_sweep_are_a_group_and_tagged_by_what_varies(tmp_path: Path) -> None:
    script, folder = tmp_path / "note.py", tmp_path / "my sweep"
    script.write_text(PROGRAM)
    arguments = ["-m", f"output={folder}", "reference=random", "adapter.scale=0.5,1.0", "data.null_text_prob=0.1,0.2"]
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True)
    job = folder / "adapter.scale=0.5,data.null_text_prob=0.2"
    values = json.loads((job / "logger.json").read_text())
    assert (values["group"], values["tags"]) == ("my sweep", ["adapter.scale=0.5", "data.null_text_prob=0.2"])
    assert len(list(folder.rglob("logger.json"))) == 4


def test_a_run_alone_has_no_group(tmp_path: Path) -> None:
    values = compose("train", [f"output={tmp_path}"]).config["logger"]
    assert (values["group"], values["tags"]) == (None, [])
    logger = build(values | {"mode": "offline"}, output=tmp_path)
    try:
        assert not logger.experiment.group
        assert not logger.experiment.tags
    finally:
        finish([logger])


def test_the_command_of_the_sweep_file_is_one_of_ours() -> None:
    sweep = yaml.safe_load((ROOT / "data" / "wandb_sweep.yaml").read_text())
    some = {name: {"value": p.get("values", [p.get("min")])[0]} for name, p in sweep["parameters"].items()}
    given = create_sweep_command_args({"args": some})["args_no_hyphens"]
    start = sweep["command"].index("train.py")
    assert (ROOT / "train.py").is_file()
    assert sweep["command"][-1] == "${args_no_hyphens}"
    arguments = plain_arguments([*sweep["command"][start + 1 : -1], *given])
    check_overrides("train", arguments)
    config = compose("train", arguments).config
    assert config["training"]["optimizer"]["lr"] == pytest.approx(1e-5)
    assert (config["adapter"]["scale"], config["trainer"]["max_steps"]) == (0.6, 300)
    assert sweep["metric"]["name"] == "preview/face_similarity"
    assert config["every_n_steps"]["preview"] <= config["trainer"]["max_steps"]
