"""The golden folder under test (`IDANIM_PARITY_DIR`) and the table of achieved errors."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import official_models
import pytest
from golden_folder import GoldenFolder
from parity_table import Record, Row, lines, markdown

from idanim.models.animatediff import AnimateDiffBackbone

ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.fixture(scope="session")
def golden() -> GoldenFolder:
    return GoldenFolder(Path(os.environ.get("IDANIM_PARITY_DIR", Path(__file__).parent / "golden")).expanduser())


@pytest.fixture
def record(pytestconfig: pytest.Config) -> Record:
    """Notes an achieved error for the table and holds it below its tolerance."""

    def note(check: str, error: float, tolerance: float, kind: str = "absolute") -> None:
        pytestconfig.stash[ROWS].append(Row(check, error, tolerance, kind))
        assert error <= tolerance, f"{check}: {kind} error {error:.2e}, at most {tolerance:.0e} is allowed"

    return note


@pytest.fixture(scope="module")
def unet_backbone(golden: GoldenFolder) -> AnimateDiffBackbone:
    """Only its UNet has the golden weights."""
    with warnings.catch_warnings():
        return official_models.unconditional_backbone(golden)


@pytest.fixture(scope="module")
def backbone(golden: GoldenFolder) -> AnimateDiffBackbone:
    return official_models.backbone(golden)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("parity with the official code")
    for line in lines(rows):
        terminalreporter.write_line(line)
    report = os.environ.get("IDANIM_PARITY_REPORT")
    if report:
        Path(report).write_text(markdown(rows))
