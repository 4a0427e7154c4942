"""The real layout at its true sizes, with random weights: everything builds, trains a step and generates."""

from __future__ import annotations

import csv
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from toy_people import take_photos

from idanim.metrics.videos import read_record
from idanim.models.adapter_file import read_adapter_file
from idanim.video import read_frames

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
TIMEOUT_S = 1800
LIMIT_GIB = 20
SMALL = [
    "backbone.video.num_frames=2",
    "backbone.video.height=64",
    "backbone.video.width=64",
    "backbone.sampling.num_inference_steps=1",
]
# Few CPUs are quick at bfloat16.
FLOAT32 = ["backbone.model.dtype=float32", "backbone.image_encoder.dtype=float32"]


def run(*command: str) -> None:
    result = subprocess.run([sys.executable, *command], env=ENVIRONMENT, check=False, timeout=TIMEOUT_S)
    assert result.returncode == 0, command


@pytest.mark.slow
def test_true_sizes_train_and_generate_within_20_gib(shards: Path, tmp_path: Path) -> None:
    weights, trained, made = tmp_path / "fake", tmp_path / "train", tmp_path / "made"
    run("-m", "idanim.weights", "fake", str(weights))
    models = [f"weights={weights}", "faces=toy", *SMALL, *FLOAT32]
    steps = ["trainer.max_steps=1", "previews.num_identities=1", "previews.prompts=[a smile]"]
    data = [f"data.shards={shards}", "data.batch_size=1", f"output={trained}", "logger=csv"]
    run(str(ROOT / "train.py"), "experiment=paper", *models, *steps, *data)
    (log,) = trained.rglob("metrics.csv")
    losses = [float(row["train/loss"]) for row in csv.DictReader(log.read_text().splitlines()) if row["train/loss"]]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)
    state = read_adapter_file(trained / "adapter.safetensors").state
    start = read_adapter_file(weights / "IP-Adapter" / "models" / "ip-adapter-plus-face_sd15.safetensors").state
    assert state.keys() == start.keys()
    assert any(not state[key].equal(start[key].float()) for key in state)

    (photo,) = take_photos(tmp_path / "photos", ["ada.png"])
    animator = weights / "ID-Animator" / "animator.ckpt"
    inputs = [f"ckpt={animator}", "backbone=public", f"reference={photo}", "prompt=a man on a beach", f"output={made}"]
    run("-m", "idanim.generate", *models, *inputs, "device=cpu")
    (video,) = made.rglob("*.mp4")
    assert read_frames(video).shape == (2, 64, 64, 3)
    assert read_record(video).made_with["backbone"]["model"]["base"] == str(weights / "stable-diffusion-v1-5")
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory {peak_gib:.1f} GiB")
    assert peak_gib < LIMIT_GIB
