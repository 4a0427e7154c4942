"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; the first `num_fixed` columns name the row.

    Attributes:
        header: column titles.
        rows: cells, as many a row as there are titles.
        num_fixed: leading columns that are repeated when the table is folded.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_fixed: int = 1

    def text(self, width: int = 1_000_000) -> str:
        """Aligned text; where it is wider than `width` characters, the columns go on below."""
        widths = [max(len(row[i]) for row in (self.header, *self.rows)) for i in range(len(self.header))]
        fixed = list(range(self.num_fixed))
        return "\n\n".join(self._block(fixed + part, widths) for part in self._fold(widths, width))

    def _fold(self, widths: Sequence[int], width: int) -> list[list[int]]:
        room = width - sum(widths[i] + 2 for i in range(self.num_fixed))
        parts: list[list[int]] = [[]]
        used = 0
        for i in range(self.num_fixed, len(widths)):
            if parts[-1] and used + widths[i] > room:
                parts.append([])
                used = 0
            parts[-1].append(i)
            used += widths[i] + 2
        return parts

    def _block(self, columns: Sequence[int], widths: Sequence[int]) -> str:
        lines = [self.header, ["-" * w for w in widths], *self.rows]
        return "\n".join("  ".join(line[i].ljust(widths[i]) for i in columns).rstrip() for line in lines)

    def markdown(self) -> str:
        """The table in GitHub's markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
