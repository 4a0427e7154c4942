"""A logger that keeps figures in a CSV file which is whole at any moment."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from idanim.files import write_text

SAVE_EVERY_N_LOGS = 100


class CsvTable(Logger):
    """Rows of figures in `<folder>/version_<n>/metrics.csv`; each start of a run gets the next n.

    Lightning's own appends, and rewrites the file in place for a new column: a kill would lose what was there.

    Args:
        folder: of all versions.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.rows: dict[int, dict[str, float]] = {}
        self._number: int | None = None
        self._unsaved = 0

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name

    @property
    def version(self) -> int:
        """The first number that no earlier start took."""
        if self._number is None:
            taken = [path.name.rpartition("_")[2] for path in self.folder.glob("version_*")]
            self._number = 1 + max((int(number) for number in taken if number.isdecimal()), default=-1)
        return self._number

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"version_{self.version}" / "metrics.csv"

    @property
    @rank_zero_experiment
    def experiment(self) -> CsvTable:
        """The table itself."""
        return self

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add figures to the row of a step."""
        self.rows.setdefault(step or 0, {}).update({name: float(value) for name, value in metrics.items()})
        self._unsaved += 1
        if self._unsaved >= SAVE_EVERY_N_LOGS:
            self.save()

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is stored elsewhere."""

    @rank_zero_only
    def save(self) -> None:
        """Write the file anew."""
        if not self._unsaved:
            return
        names = sorted({name for row in self.rows.values() for name in row} - {"epoch"})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *names], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({"step": step} | row for step, row in sorted(self.rows.items()))
        write_text(self.path, text.getvalue())
        self._unsaved = 0

    def finalize(self, status: str) -> None:
        """Write what is not written yet."""
        self.save()
