"""The notebooks run from top to bottom, and are stored as they ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST_BYTES = 300 * 1024


def num_pictures(cell: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


def test_there_are_three() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_whole_and_small(path: Path) -> None:
    assert path.stat().st_size <= LARGEST_BYTES
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum(map(num_pictures, cells)) > 0


def run_in_tests(path: Path) -> object:
    """Evaluating a sweep, and recording attention, take more than half a minute."""
    is_slow = path.stem.startswith(("02", "03"))
    return pytest.param(path, marks=pytest.mark.slow if is_slow else (), id=path.stem)


@pytest.mark.parametrize("path", [run_in_tests(path) for path in NOTEBOOKS])
def test_it_runs(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "execute.py"), "--output", str(tmp_path), str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    stored, again = (nbformat.read(place, as_version=4).cells for place in (path, tmp_path / path.name))
    assert [cell.source for cell in stored] == [cell.source for cell in again]
    assert [num_pictures(cell) for cell in stored] == [num_pictures(cell) for cell in again]
