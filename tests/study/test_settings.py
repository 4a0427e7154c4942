"""What changed since a run of a study was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from idanim.study.plan import plan, read_variants
from idanim.study.settings import Settings, changes, training_settings


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"lr": 0.1, "gone": 2}, {"lr": 0.2, "new": 3}, {"lr": "0.1 → 0.2"}),
        ({"loss.loss": None}, {"loss.loss.weight": 0.4}, {"loss.loss": "None → (weight: 0.4)"}),
        ({"loss.a.b": 1, "loss.c": 2}, {"loss": 3}, {"loss": "(a.b: 1, c: 2) → 3"}),
        ({"encoder.size": {}}, {"encoder.size.height": 64}, {}),
        (
            {"encoder._target_": "a.A"},
            {"encoder._target_": "a.B", "encoder.size": 1},
            {"encoder._target_": "a.A → a.B"},
        ),
        ({"loss": 1}, {"loss_weight": 1, "losses.a": 2}, {}),
        ({"loss.a": 1}, {"loss.a": 1, "loss.b": 2}, {}),
    ],
)
def test_a_value_in_place_of_a_group_is_a_change(before: Settings, now: Settings, expected: dict[str, str]) -> None:
    assert changes(before, now) == expected
    assert changes(now, before).keys() == expected.keys()


def test_what_a_conf_file_builds_is_a_setting(tmp_path: Path) -> None:
    def settings(*typed: str) -> Settings:
        cells = plan(read_variants("random_ref"), [0], ["trainer.max_steps=60", *typed], [], tmp_path)
        return training_settings(cells[0].training)

    plain = settings()
    assert plain["encoder.model._target_"] == "idanim.models.encoder.ClipFaceEncoder.from_pretrained"
    # A loss that a changed default would switch on.
    assert "identity_loss.loss" in changes(plain, settings("identity_loss=arcface"))
    signed = settings("data.shards=https://host/a.tar?sig=SECRET")
    assert "SECRET" not in str(signed)
