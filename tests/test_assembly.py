from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_people import ADAPTER

from idanim.assembly import chosen_settings, training_config, warn_of_settings_left
from idanim.config import compose
from idanim.models.checkpoint import write_adapter


@pytest.mark.parametrize(
    ("typed", "strength", "warned"),
    [
        (["backbone=toy"], 0, True),
        (["backbone=toy", "sampling.identity_guidance=0"], 0, False),
        ([], 0.1, False),
    ],
)
def test_settings_that_a_backbone_replaces_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, typed: list[str], strength: float, warned: bool
) -> None:
    ckpt = tmp_path / "best.safetensors"
    values = {"backbone": {"sampling": {"identity_guidance": 0.1, "num_inference_steps": 20}}}
    write_adapter(ckpt, {"weight": torch.zeros(1)}, {"choices": {"backbone": "toy"}, "values": values})
    config = compose("generate", typed, check=False).config
    settings = chosen_settings(config, training_config(ckpt, {}, config["backbone"]))
    warn_of_settings_left(ckpt, config, settings)
    assert settings.identity_guidance == strength
    assert [line.partition("in this adapter's recipe: ")[2] for line in caplog.messages] == (
        ["sampling.identity_guidance=0.1"] if warned else []
    )


def test_a_recipe_without_settings_of_its_own_warns_of_none(caplog: pytest.LogCaptureFixture) -> None:
    config = compose("generate", ["backbone=tiny"], check=False).config
    warn_of_settings_left(ADAPTER, config, chosen_settings(config, training_config(ADAPTER, {}, config["backbone"])))
    assert not caplog.messages
