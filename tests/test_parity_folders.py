"""The parity checks on a folder of other sizes, whole and damaged; made by our own models, it proves no parity."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

PARITY = Path(__file__).parent / "parity"


def environment(**more: str) -> dict[str, str]:
    paths = [str(PARITY), str(PARITY.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity") / "variant"
    path.mkdir()
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.syspath_prepend(str(PARITY))
        from golden_folder import GoldenFolder
        from variant import write_variant

        write_variant(path, GoldenFolder(PARITY / "golden"))
    return path


def run_parity(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """What was printed, and names of checks by their outcome."""
    command = [sys.executable, "-m", "pytest", str(PARITY), "-rA", "-p", "no:cacheprovider", "-n0"]
    result = subprocess.run(
        command, env=environment(IDANIM_PARITY_DIR=str(folder)), capture_output=True, text=True, check=False
    )
    outcomes: dict[str, list[str]] = {"PASSED": [], "FAILED": [], "ERROR": []}
    for outcome, name in re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\S+)", result.stdout, re.MULTILINE):
        outcomes[outcome].append(name)
    return result.stdout, outcomes


def test_other_sizes_pass(variant: Path) -> None:
    output, outcomes = run_parity(variant)
    assert not outcomes["FAILED"] + outcomes["ERROR"], output
    assert len(outcomes["PASSED"]) > 25, output
    assert "5 frames (timestep 437, not stored, searched for)" in output


@pytest.mark.slow
def test_damage_is_noticed(variant: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(variant, folder)
    damage = {
        "resampler": "weights.layers.1.0.to_out.weight",
        "lora_face_attn": "processor.to_v_face.weight",
        "unet3d": "down_blocks.0.motion_modules.0.temporal_transformer.proj_out.weight",
        "sparse_controlnet": "controlnet_cond_embedding.weight",
        "vae": "decoder.conv_out.weight",
        "clip_text": "text_model.final_layer_norm.weight",
        "clip_vision": "vision_model.embeddings.class_embedding",
    }
    for name, key in damage.items():
        tensors = safetensors.torch.load_file(folder / f"{name}.safetensors")
        tensors[key] = tensors[key] * 1.01
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors")
    output, outcomes = run_parity(folder)
    expected = {
        "test_the_files_are_those_of_the_manifest",
        "test_resampler",
        "test_face_attention_outputs",
        "test_plain_unet",
        "test_every_scale[float32]",
        "test_text_encoder",
        "test_video",
        "test_sparse_control_residuals[float32]",
        "test_controlled_pipeline",
        "test_training_step",
    }
    assert expected <= set(outcomes["FAILED"]), output
