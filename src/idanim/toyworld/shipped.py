"""Where the shipped weights lie. Imports nothing heavy, so that programs that need no backbone start at once."""

from __future__ import annotations

from pathlib import Path

WEIGHTS_DIR = Path(__file__).parent / "weights"


def shipped(name: str) -> str:
    """Give the path of a part of the shipped weights, for configurations; the parts are in `weights.py`."""
    return str(WEIGHTS_DIR / name)


def is_shipped(path: str) -> bool:
    """Whether a path leads to a part of the shipped weights, over links or not."""
    return Path(path).expanduser().resolve().is_relative_to(WEIGHTS_DIR.resolve())
