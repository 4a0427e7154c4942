"""What is a part of the shipped weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from idanim.toyworld import shipped


def test_a_package_behind_a_link_knows_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package" / "faces").mkdir(parents=True)
    (tmp_path / "link").symlink_to("package")
    monkeypatch.setattr(shipped, "WEIGHTS_DIR", tmp_path / "link")
    assert shipped.is_shipped(shipped.shipped("faces"))
    assert shipped.is_shipped(str(tmp_path / "package" / "faces"))
    assert not shipped.is_shipped(str(tmp_path / "link" / ".." / "faces"))
