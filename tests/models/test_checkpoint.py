from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from idanim.models.checkpoint import AtomicCheckpointIO, check_resumable, load_strictly, read_adapter, write_adapter
from idanim.types import IdanimError

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}
CONFIG = {"choices": {"backbone": "tiny"}, "values": {"seed": 0}}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, STATE, CONFIG)
    read = read_adapter(path)
    assert read.config == CONFIG
    assert read.state.keys() == STATE.keys()
    assert all(torch.equal(read.state[k], STATE[k]) for k in STATE)


def test_missing_cut_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match="no such file"):
        read_adapter(tmp_path / "nothing.safetensors")
    path = tmp_path / "adapter.safetensors"
    write_adapter(path, STATE, CONFIG)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(IdanimError, match="not a whole safetensors"):
        read_adapter(path)
    page = tmp_path / "page.safetensors"
    page.write_text("<html>404</html>")
    with pytest.raises(IdanimError, match="not a whole safetensors"):
        read_adapter(page)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"weights": STATE}, foreign)
    with pytest.raises(IdanimError, match=r"not a checkpoint of train\.py"):
        read_adapter(foreign)


def test_a_page_named_ckpt_is_no_checkpoint(tmp_path: Path) -> None:
    page = tmp_path / "page.ckpt"
    page.write_text("<html>404</html>")
    with pytest.raises(IdanimError, match="not a checkpoint file at all"):
        read_adapter(page)


def test_what_training_can_not_go_on_from_is_told_before(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter.safetensors", STATE, CONFIG)
    with pytest.raises(IdanimError, match=r"holds only the adapter.*last\.ckpt"):
        check_resumable(tmp_path / "adapter.safetensors")
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": STATE, "idanim_config": CONFIG}, path)
    check_resumable(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(IdanimError, match="not a whole checkpoint"):
        check_resumable(path)


def test_a_failed_save_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    before = path.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError)):
        AtomicCheckpointIO().save_checkpoint({"a": lambda: 0}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return (os.system, ("touch pwned",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, save in (("a.ckpt", torch.save), ("b.ckpt", lambda o, p: p.write_bytes(pickle.dumps(o)))):
        save({"state_dict": Evil()}, tmp_path / name)
        with pytest.raises(IdanimError, match="refused"):
            read_adapter(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_another_architecture_is_named() -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(IdanimError, match=r"unknown key extra; missing key bias; weight has shape \(2, 4\).*\(2, 3\)"):
        load_strictly(module, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}, "the file")
