"""What is wrong with cheap inputs is told before any model is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from idanim import training_run
from idanim.config import compose
from idanim.training_run import prepare, train
from idanim.types import IdanimError


def never(_: Any) -> None:
    raise AssertionError("models were built")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.shards=nowhere"], "data.shards='nowhere': there is no such folder or file"),
        (["data.shards={empty}"], "no .tar file in this folder"),
        (["data.shards={val}"], "no training clip in it"),
        (["data.shards={shards}", "reference.pool_size=0"], "reference.pool_size=0: expected 1 or more"),
        (["data.shards={shards}", "reference=multi", "reference.num_references=0"], "reference.num_references=0"),
        (
            ["data.shards={shards}", "face_weight=box", "faces=insightface", "faces.root=nowhere"],
            "there are no .* models in .*nowhere|insightface needs",
        ),
        (["data.shards={shards}", "ckpt=gone.ckpt"], "'gone.ckpt': there is no such file"),
    ],
)
def test_no_model_is_built_for_a_mistake(
    arguments: list[str], words: str, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"empty": tmp_path / "empty", "val": tmp_path / "val", "shards": shards}
    places["empty"].mkdir()
    places["val"].mkdir()
    (places["val"] / "val-000000.tar").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_run, "build_models", never)
    typed = [text.format(**places) for text in arguments]
    run = compose("train", [*typed, "logger=csv", f"output={tmp_path}"], check=False)
    with pytest.raises(IdanimError, match=words):
        train(run)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(shards: Path, tmp_path: Path) -> None:
    run = compose("train", [f"data.shards={shards}", "trainer=gpu", "logger=csv", f"output={tmp_path}"], check=False)
    with pytest.raises(IdanimError, match="torch finds no GPU here: take trainer=cpu"):
        train(run)


def test_what_is_right_goes_on_to_the_models(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "build_models", never)
    with pytest.raises(AssertionError, match="models were built"):
        prepare(compose("train", [f"data.shards={shards}"], check=False))


def test_paper_without_its_weights_names_the_download(shards: Path, tmp_path: Path) -> None:
    arguments = ["experiment=paper", "logger=csv", f"data.shards={shards}", f"weights={tmp_path / 'w'}"]
    with pytest.raises(IdanimError, match=r"backbone\.model\.base=.*python -m idanim\.weights pull .*plus-face"):
        train(compose("train", [*arguments, f"output={tmp_path}"]))
