"""The whole program through its real entry points, as a user would run it."""

from __future__ import annotations

import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
SMALL = [
    "experiment=random_ref",
    "backbone=tiny",
    "backbone.video={num_frames: 8, height: 32, width: 32}",
    "logger=csv",
    "every_n_steps.log=1",
    "every_n_steps.checkpoint=1",
    "every_n_steps.validate=2",
    "every_n_steps.preview=100",
    "previews.num_identities=1",
    "previews.prompts=[a smile]",
]
COARSE = ["clip.size=64", "shards.val_fraction=0.4", "sampling.detect_fps=1", "faces.det_size=320", "workers=0"]


def started(*arguments: str) -> list[str]:
    """The command of a program in a process of its own."""
    return [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]


def run(*arguments: str) -> str:
    """Run a program in this process, which has the imports already; returns what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(sys, "argv", list(arguments))
        if arguments[0].endswith(".py"):
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        else:
            import_module(arguments[0]).main()
    return printed.getvalue()


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps without interruption."""
    output = tmp_path_factory.mktemp("straight")
    run("train.py", *SMALL, f"data.shards={shards}", f"output={output}", "trainer.max_steps=6")
    return output


def test_a_run_leaves_what_the_documentation_says(trained: Path) -> None:
    for name in ("adapter.safetensors", "checkpoints/last.ckpt", "metrics.json", "curves.png", ".hydra/config.yaml"):
        assert (trained / name).is_file(), name
    summary = json.loads((trained / "metrics.json").read_text())["summary"]
    expected = {"train/loss_first", "train/loss_last", "val/loss", "train/grad_norm", "train/clips_per_s", "lr-AdamW"}
    assert expected | {"id_token_share"} <= summary.keys()
    assert len(list((trained / "previews").rglob("*.mp4"))) == 1


def test_a_killed_run_goes_on_to_the_same_weights(shards: Path, trained: Path, tmp_path: Path) -> None:
    arguments = ["train.py", *SMALL, f"data.shards={shards}", f"output={tmp_path}", "trainer.max_steps=6"]
    process = subprocess.Popen(
        started(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "adapter.safetensors").exists()
    assert "going on from" in run(*arguments)
    name = "adapter.safetensors"
    assert _without_output(tmp_path / name) == _without_output(trained / name)


def _without_output(path: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {key: tensor.numpy().tobytes() for key, tensor in load_file(path).items()}


def test_a_sweep_has_a_folder_a_job_and_one_comparison(shards: Path, tmp_path: Path) -> None:
    sweep = ["adapter.scale=0.5,1.0", "trainer.max_steps=2", f"data.shards={shards}", f"output={tmp_path}"]
    run("train.py", "--multirun", *SMALL, *sweep)
    jobs = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert jobs == ["adapter.scale=0.5", "adapter.scale=1.0"]
    table = run("idanim.compare", str(tmp_path))
    assert "adapter.scale" in table
    assert "train/loss_last" in table
    assert (tmp_path / "comparison.png").is_file()


def test_another_architecture_is_refused_in_words(shards: Path, trained: Path, tmp_path: Path) -> None:
    changed = ["adapter.num_queries=3", f"ckpt={trained / 'checkpoints' / 'last.ckpt'}"]
    arguments = [*SMALL, *changed, f"data.shards={shards}", f"output={tmp_path}", "trainer.max_steps=7"]
    with pytest.raises(SystemExit, match=r"adapter\.num_queries: 16 → 3"):  # a text, so the exit status is 1
        run("train.py", *arguments)


@pytest.mark.real_input
def test_from_real_videos_to_scores(real_dir: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos (real), of=people"
    videos.mkdir()
    for name in ("person_08__0.mp4", "person_11__0.mp4", "person_12__0.mp4", "several_faces__1.mp4"):
        (videos / name).symlink_to(real_dir / "clips" / name)
    faces = ["faces=insightface", f"faces.root={real_dir / 'models' / 'insightface'}", "faces.pack=yunet_mobilefacenet"]
    dataset, trained, scored = tmp_path / "dataset", tmp_path / "train", tmp_path / "evaluation"
    run("idanim.curate", f"input={videos}", f"output={dataset}", *faces, *COARSE)
    report = json.loads((dataset / "report.json").read_text())
    assert (report["accepted"], report["rejected"]) == (3, {"several_faces": 1})
    run("train.py", *SMALL, *faces, f"data.shards={dataset}", f"output={trained}", "trainer.max_steps=2")
    adapter = trained / "adapter.safetensors"
    prompts = "prompts=[a person is smiling]"
    run("evaluate.py", f"ckpt={adapter}", f"output={scored}", *faces, prompts, "logger=csv", "num_identities=2")
    metrics = json.loads((scored / "metrics.json").read_text())
    assert metrics["summary"]["face_similarity"]["mean"] == 0  # random weights show no face
    assert metrics["summary"]["real_pair_similarity"]["mean"] > 0.5
    assert (scored / "grid.png").is_file()
