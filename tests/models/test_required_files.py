"""Weights that are not there are named before anything is loaded, with the command that gets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from idanim.config import compose, restore
from idanim.models.required_files import require_ckpt, require_files
from idanim.types import IdanimError


def test_what_is_there_or_part_of_the_package_passes(tmp_path: Path) -> None:
    toy = restore("train", {"choices": {"backbone": "toy"}, "values": {}})
    require_files({"backbone": toy["backbone"], "adapter": toy["adapter"]})
    (tmp_path / "vae").mkdir()
    require_files({"model": {"vae": str(tmp_path / "vae"), "motion": None, "dtype": "float32"}})


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    nodes = {"model": {"base": "/no/base.ckpt", "loras": {"/no/style.safetensors": 1.0}}, "init": f"{tmp_path}/a"}
    with pytest.raises(IdanimError) as error:
        require_files(nodes)
    for words in ("model.base='/no/base.ckpt'", "loras./no/style.safetensors=", f"init='{tmp_path}/a'"):
        assert words in str(error.value)
    assert "pull" not in str(error.value)  # nothing of it is public


def test_public_files_come_with_the_command_that_gets_them(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    config = compose("train", ["experiment=paper", f"weights={folder}"]).config
    (folder / "stable-diffusion-v1-5").mkdir(parents=True)
    with pytest.raises(IdanimError) as error:
        require_files({"backbone": {"model": config["backbone"]["model"]}, "adapter": config["adapter"]})
    assert f"`python -m idanim.weights pull motion-v2 plus-face --folder {folder}`" in str(error.value)
    with pytest.raises(IdanimError, match=r"--folder '/no/my weights'`"):
        require_files({"path": "/no/my weights/IP-Adapter/models/image_encoder"})
    (folder / "stable-diffusion-v1-5").rmdir()
    with pytest.raises(IdanimError, match=r"pull sd15-unet sd15-unet-config .*motion-v2 image-encoder "):
        require_files({"backbone": {"model": config["backbone"]["model"]}, "encoder": config["encoder"]})


def test_a_public_adapter_that_is_not_there_comes_with_its_download(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match=r"no such file.*weights pull animator"):
        require_ckpt(tmp_path / "ID-Animator" / "animator.ckpt")
    with pytest.raises(IdanimError, match=r"no such file; train.py writes"):
        require_ckpt(tmp_path / "mine.safetensors")
