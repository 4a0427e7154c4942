"""Execute notebooks and store their outputs: python notebooks/execute.py [--output <folder>] <notebook>…

In place unless told otherwise; a cell that fails ends it with that cell's error.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

QUIET = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}
"""Progress bars and advice, which outputs that are kept should not hold."""


def execute(path: Path, output: Path, timeout_s: int = 600) -> None:
    """Run all cells of a notebook in its own folder.

    Args:
        path: the notebook.
        output: where it is written with its outputs.
        timeout_s: of a cell.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    # No times of execution in the file, so that it changes only where outputs do.
    NotebookClient(notebook, timeout=timeout_s, record_timing=False, resources=resources).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, output)


def main() -> None:
    """Execute the notebooks of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, help="folder; without it, in place")
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    for path in arguments.notebooks:
        print(path)
        execute(path, (arguments.output or path.parent) / path.name)


if __name__ == "__main__":
    main()
