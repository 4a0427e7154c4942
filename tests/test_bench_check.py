"""The guard over benchmarks: what is below its bar fails it, by more than the interval only."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BARS = json.loads((BENCHMARKS / "bars.json").read_text())


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("run")


def write_ratios(output: Path, share_of_bar: float) -> None:
    for benchmark, bars in BARS.items():
        ratios = {
            name: {"median": bar * share_of_bar, "low": bar * share_of_bar * 0.95, "high": bar * share_of_bar * 1.05}
            for name, bar in bars.items()
        }
        (output / f"{benchmark}.json").write_text(json.dumps({"ratios": ratios}))


@pytest.mark.parametrize(("share_of_bar", "fails"), [(1.2, False), (0.97, False), (0.9, True)])
def test_a_ratio_below_its_bar_by_more_than_its_interval_fails(
    tmp_path: Path, runner: ModuleType, share_of_bar: float, fails: bool
) -> None:
    write_ratios(tmp_path, share_of_bar)
    everything = [f"{benchmark}: {name}" for benchmark, bars in BARS.items() for name in bars]
    assert runner.below_bars(tmp_path) == (everything if fails else [])


def test_what_was_not_measured_fails(tmp_path: Path, runner: ModuleType) -> None:
    write_ratios(tmp_path, 1.2)
    (tmp_path / "loader.json").unlink()
    assert runner.below_bars(tmp_path) == ["loader: latents over decoding"]


def test_failing_is_told_by_the_exit_status(
    tmp_path: Path, runner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ratios(tmp_path, 0.5)
    monkeypatch.setattr("sys.argv", ["run.py", "check", f"--output={tmp_path}"])
    with pytest.raises(SystemExit, match="failed: training_step: eager"):
        runner.main()


def test_every_bar_has_a_benchmark(runner: ModuleType) -> None:
    assert BARS.keys() <= {name for kind in runner.BENCHMARKS.values() for name in kind}
