"""Compare the jobs of a sweep: `python -m idanim.compare <multirun folder>`; see `idanim.jobs` for what a job is."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idanim.config import Run, program
from idanim.files import atomic_path, write_json
from idanim.jobs import DEFAULT, Comparison, Job, read_comparison
from idanim.metrics.intervals import Interval
from idanim.metrics.page import data_uri, write_page
from idanim.metrics.report import number, span
from idanim.metrics.table import Table
from idanim.types import IdanimError
from idanim.variants import compare_variants, group_by_seed, variant_tables, write_variants

# -------------------------------------------------------------------------------------------- output


def comparison_table(comparison: Comparison) -> Table:
    """One row a job: its name or what was varied, then every figure with its interval."""
    varied = comparison.varied
    names = varied or ["job"]
    rows = []
    for job in comparison.jobs:
        settings = [job.overrides.get(key, DEFAULT) for key in varied] or [job.name]
        rows.append([*settings, *(_cell(job.metrics.get(metric)) for metric in comparison.metrics)])
    return Table([*names, *comparison.metrics], rows, num_fixed=len(names))


def _cell(figure: Interval | None) -> str:
    if figure is None or figure.mean is None:
        return "–"
    text = number(figure.mean)
    return text if figure.low is None else f"{text} {span(figure.low, figure.high)}"


def write_csv(path: Path, comparison: Comparison) -> None:
    """One row a job; columns: job, each varied key, and four for each figure (mean, low, high, n)."""
    parts = ("mean", "low", "high", "n")
    header = ["job", *comparison.varied]
    header += [metric if part == "mean" else f"{metric}_{part}" for metric in comparison.metrics for part in parts]
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for job in comparison.jobs:
            figures = [asdict(job.metrics.get(m, Interval(None, None, None, 0))) for m in comparison.metrics]
            settings = [job.overrides.get(key, DEFAULT) for key in comparison.varied]
            writer.writerow([job.name, *settings, *(figure[part] for figure in figures for part in parts)])


def write_plot(path: Path, comparison: Comparison) -> None:
    """One panel a figure, jobs from top to bottom, intervals as bars."""
    metrics = [m for m in comparison.metrics if any(_has_mean(job, m) for job in comparison.jobs)]
    if not metrics:
        raise IdanimError("no job has a figure to plot")
    labels = [comparison.label(job) for job in comparison.jobs]
    lines = sum(label.count("\n") + 1 for label in labels)
    num_columns = min(3, len(metrics))
    num_rows = math.ceil(len(metrics) / num_columns)
    with mpl.rc_context({"font.size": 8}):
        figure = Figure((2 + 3 * num_columns, num_rows * (0.8 + 0.17 * lines)), layout="constrained")
        grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
        for axes, metric in zip(grid.flat, metrics, strict=False):
            _draw_panel(axes, metric, comparison.jobs)
        for axes in grid.flat[len(metrics) :]:
            axes.set_visible(False)
        grid[0, 0].set_yticks(range(len(labels)), labels)
        grid[0, 0].set_ylim(len(labels) - 0.5, -0.5)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)


def _has_mean(job: Job, metric: str) -> bool:
    return metric in job.metrics and job.metrics[metric].mean is not None


def _draw_panel(axes: Axes, metric: str, jobs: Sequence[Job]) -> None:
    for row, job in enumerate(jobs):
        figure = job.metrics.get(metric)
        if figure is None or figure.mean is None:
            continue
        axes.plot(figure.mean, row, "o", color="C0")
        if figure.low is not None and figure.high is not None:
            axes.hlines(row, figure.low, figure.high, color="C0")
    axes.set_title(metric)
    axes.grid(axis="x", alpha=0.3)


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write comparison.csv, comparison.json, comparison.png and comparison.html into a folder."""
    write_csv(folder / "comparison.csv", comparison)
    write_json(folder / "comparison.json", {"varied": comparison.varied, **asdict(comparison)})
    write_plot(folder / "comparison.png", comparison)
    write_page(
        folder / "comparison.html",
        "comparison.html.j2",
        title=f"Comparison of {folder.name}",
        notes=[*doubts(comparison), *left_out(comparison)],
        jobs=comparison_table(comparison),
        plot=data_uri((folder / "comparison.png").read_bytes(), "image/png"),
    )


def doubts(comparison: Comparison) -> list[str]:
    """What a reader of the jobs' figures must know."""
    return [doubt for job in comparison.jobs for doubt in job.doubts]


def left_out(comparison: Comparison) -> list[str]:
    """Jobs that are not complete, in words."""
    return [f"left out: {name}: {missing}" for name, missing in comparison.incomplete.items()]


def _compare_recipes(comparison: Comparison, output: Path, config: dict[str, Any], width: int) -> None:
    """Jobs that differ in their seed alone as one row, with differences to the baseline."""
    by_name = group_by_seed(comparison.jobs, config["over"])
    variants = compare_variants(by_name, config["baseline"] or next(iter(by_name)))
    print("\n" + "\n\n".join(table.text(width) for table in variant_tables(variants)))
    write_variants(output, f"Recipes of {output.name}", variants, doubts(comparison))


@program("compare", positional="input")
def main(run: Run) -> None:
    """Compare the jobs of a multirun folder."""
    comparison = read_comparison(Path(run.config["input"]).expanduser())
    if comparison.jobs:
        output = Path(run.config["output"] or run.config["input"]).expanduser()
        width = shutil.get_terminal_size((160, 40)).columns
        print(comparison_table(comparison).text(width))
        write_comparison(output, comparison)
        if run.config["over"] is not None:
            _compare_recipes(comparison, output, run.config, width)
        print(f"\n{output}: comparison.html, comparison.csv, comparison.json, comparison.png")
    for note in (*doubts(comparison), *left_out(comparison)):
        print(note)
    if not comparison.jobs:
        raise IdanimError(f"none of the {len(comparison.incomplete)} jobs is complete")


if __name__ == "__main__":
    main()
