"""The figures of a finished run: loss curve as a picture, first and last values as numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from idanim.files import atomic_path, write_json


def read_curves(output: Path) -> dict[str, list[tuple[int, float]]]:
    """Every figure that a run logged: name → (step, value), over all its resumed parts.

    Where a resumed part logged a step again, the later value counts.

    Args:
        output: the run folder.
    """
    curves: dict[str, dict[int, float]] = {}
    parts = sorted(output.glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.rpartition("_")[2]))
    for part in parts:
        with part.open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row["step"])
                for name, value in row.items():
                    if name not in ("step", "epoch") and value:
                        curves.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def summarise(curves: dict[str, list[tuple[int, float]]]) -> dict[str, float]:
    """Last value of each figure; for the training loss the means of its first and last tenth."""
    summary = {name: points[-1][1] for name, points in curves.items() if np.isfinite(points[-1][1])}
    losses = [value for _, value in curves.get("train/loss", [])]
    if losses:
        tenth = max(1, len(losses) // 10)
        summary.pop("train/loss", None)
        summary["train/loss_first"] = float(np.mean(losses[:tenth]))
        summary["train/loss_last"] = float(np.mean(losses[-tenth:]))
    return summary


def plot_curves(curves: dict[str, list[tuple[int, float]]], names: Iterable[str], path: Path) -> None:
    """One panel for each named figure that was logged, as a PNG."""
    present = [name for name in names if name in curves]
    if not present:
        return
    figure, axes = plt.subplots(1, len(present), figsize=(4.5 * len(present), 3.2), squeeze=False)
    for axis, name in zip(axes[0], present, strict=True):
        steps, values = zip(*curves[name], strict=True)
        axis.plot(steps, values, marker="." if len(steps) < 40 else None)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def write_summary(output: Path, facts: dict[str, Any]) -> dict[str, float]:
    """Write `metrics.json` (facts about the run and a `summary` of its figures) and `curves.png`; give the summary."""
    curves = read_curves(output)
    summary = summarise(curves)
    write_json(output / "metrics.json", {**facts, "summary": summary})
    plot_curves(curves, ("train/loss", "val/loss", "id_token_share", "preview/face_similarity"), output / "curves.png")
    return summary
