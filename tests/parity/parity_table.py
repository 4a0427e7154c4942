"""The table of achieved errors, as text and as docs/parity.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

HEAD = """# Parity with the official code

Written by `IDANIM_PARITY_REPORT=docs/parity.md pytest tests/parity`; don't edit.

Golden data were made by the official ID-Animator and AnimateDiff classes with random weights of small width
(tests/parity/golden/manifest.json). `IDANIM_PARITY_DIR=<folder>` runs the same checks on another folder laid out alike.
Absolute errors are the largest difference of any value; relative ones are over the largest expected value.

| check | error | kind | allowed |
|---|---|---|---|
"""

Record = Callable[..., None]
"""What the fixture `record` is: check, error, tolerance, kind."""


class Row(NamedTuple):
    """One check: the error that was reached and the one that is allowed."""

    check: str
    error: float
    tolerance: float
    kind: str


def lines(rows: list[Row]) -> list[str]:
    """Aligned plain text."""
    width = max(len(row.check) for row in rows)
    return [
        f"{row.check:<{width}}  {row.error:8.1e}  of {row.tolerance:.0e}  {row.kind}"
        + ("" if row.error <= row.tolerance else "   TOO LARGE")
        for row in rows
    ]


def markdown(rows: list[Row]) -> str:
    """The whole page."""
    body = [f"| {row.check} | {row.error:.1e} | {row.kind} | {row.tolerance:.0e} |" for row in rows]
    return HEAD + "\n".join(body) + "\n"
