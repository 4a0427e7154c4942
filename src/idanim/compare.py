"""Compare the jobs of a sweep: `python -m idanim.compare <multirun folder>`.

A job is a folder with `.hydra/overrides.yaml` and a `metrics.json` whose `summary` maps names to numbers or
to {"mean", "low", "high", "n"}. Figures of `evaluation/metrics.json` inside a job are added as `eval/<name>`.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idanim.config import Run, program
from idanim.files import atomic_path, read_json, read_text, write_json
from idanim.metrics.intervals import Interval
from idanim.metrics.page import data_uri, write_page
from idanim.metrics.report import number, span
from idanim.metrics.table import Table
from idanim.types import IdanimError

OVERRIDES = Path(".hydra", "overrides.yaml")
METRICS = Path("metrics.json")
EVALUATION = Path("evaluation", "metrics.json")
SCORING_MODELS = ("face_engine", "text_model")
"""What `metrics.json` of an evaluation says of the models that its figures depend on."""
DEFAULT = "(default)"
"""Shown for a job that does not set a value which other jobs set."""


@dataclass(frozen=True)
class Job:
    """One complete job.

    Attributes:
        name: its folder, relative to the compared one.
        overrides: what it was started with, key → text.
        metrics: figures by name; a plain number has no interval and n = 1.
        models: what scored its videos, such as {"face_engine": "insightface/buffalo_l"}; {} where nothing was scored.
    """

    name: str
    overrides: dict[str, str]
    metrics: dict[str, Interval]
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What a multirun folder holds.

    Attributes:
        jobs: complete jobs, by name.
        incomplete: name of each other job → what is missing.
    """

    jobs: list[Job]
    incomplete: dict[str, str]

    @property
    def varied(self) -> list[str]:
        """Keys whose value differs between complete jobs, in the order in which they were typed."""
        keys = dict.fromkeys(key for job in self.jobs for key in job.overrides)
        return [key for key in keys if len({job.overrides.get(key) for job in self.jobs}) > 1]

    @property
    def metrics(self) -> list[str]:
        """Names of all figures, in the order of the files."""
        return list(dict.fromkeys(name for job in self.jobs for name in job.metrics))

    def label(self, job: Job) -> str:
        """What tells a job from the others."""
        return "\n".join(f"{key}={job.overrides.get(key, DEFAULT)}" for key in self.varied) or job.name


def read_comparison(folder: Path) -> Comparison:
    """Read all jobs below a folder.

    Raises:
        IdanimError: no such folder, no job in it, or scores made with different models.
    """
    if not folder.is_dir():
        raise IdanimError(f"input={str(folder)!r}: there is no such folder")
    jobs, incomplete = [], {}
    for path in sorted(_job_folders(folder)):
        name = path.relative_to(folder).as_posix()
        try:
            jobs.append(read_job(path, name))
        except IdanimError as error:
            incomplete[name] = str(error)
    if not jobs and not incomplete:
        raise IdanimError(f"input={str(folder)!r}: no folder below it holds a job ({OVERRIDES})")
    for kind in SCORING_MODELS:
        _refuse_different(kind, jobs)
    return Comparison(jobs, incomplete)


def _refuse_different(kind: str, jobs: Sequence[Job]) -> None:
    """Scores of two face engines, packs or CLIP models are numbers on different scales."""
    by_model: dict[str, list[str]] = {}
    for job in jobs:
        if kind in job.models:
            by_model.setdefault(job.models[kind], []).append(job.name)
    if len(by_model) > 1:
        found = "; ".join(f"{model}: {', '.join(names)}" for model, names in by_model.items())
        raise IdanimError(
            f"scores made with different models don't compare. {kind}: {found}. Score the videos again with one of "
            "them: python evaluate.py videos=<folder> output=<job>/evaluation"
        )


def _job_folders(folder: Path) -> Iterator[Path]:
    """Folders with overrides or metrics, not looking inside of those; and empty leaves of a dead job."""
    for place, subfolders, files in os.walk(folder):
        subfolders.sort()
        path = Path(place)
        if path == folder:
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            continue
        if ".hydra" in subfolders or METRICS.name in files:
            subfolders.clear()
            yield path
        elif not subfolders and path.parent == folder:
            yield path


def read_job(folder: Path, name: str) -> Job:
    """Read one job.

    Raises:
        IdanimError: a file is missing or can't be read; the text says which and what that means.
    """
    missing = [str(file) for file in (OVERRIDES, METRICS) if not (folder / file).is_file()]
    if missing:
        unfinished = " (the job did not finish)" if str(METRICS) in missing else ""
        raise IdanimError(f"no {' and no '.join(missing)}{unfinished}")
    metrics, models = _read_metrics(folder / METRICS)
    if (folder / EVALUATION).is_file():
        evaluation, scored_with = _read_metrics(folder / EVALUATION)
        metrics |= {f"eval/{key}": figure for key, figure in evaluation.items()}
        models |= scored_with
    return Job(name, _read_overrides(folder / OVERRIDES), metrics, models)


def _read_overrides(path: Path) -> dict[str, str]:
    try:
        lines = yaml.safe_load(read_text(path, max_bytes=2**20)) or []
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise IdanimError(f"{OVERRIDES} can't be read: {error}") from error
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise IdanimError(f"{OVERRIDES} can't be read: expected a list of overrides")
    pairs = (line.partition("=") for line in lines)
    return {key.lstrip("+~"): value.strip("\"'") for key, _, value in pairs}


def _read_metrics(path: Path) -> tuple[dict[str, Interval], dict[str, str]]:
    """The figures of a `metrics.json`, and the models that they were scored with."""
    where = path.parent.name + "/" + path.name if path.parent.name == EVALUATION.parent.name else path.name
    try:
        content = read_json(path)
    except IdanimError as error:
        raise IdanimError(f"{where} can't be read: {error}") from error
    summary = content.get("summary") if isinstance(content, dict) else None
    if not isinstance(summary, dict):
        raise IdanimError(f'{where} has no "summary"')
    models = {kind: str(content[kind]) for kind in SCORING_MODELS if content.get(kind)}
    return {name: _figure(value, f"{where}: {name}") for name, value in summary.items()}, models


def _figure(value: Any, where: str) -> Interval:
    if not isinstance(value, dict):
        mean = _finite(value, where)
        return Interval(mean, None, None, 0 if mean is None else 1)
    mean, low, high = (_finite(value.get(part), where) for part in ("mean", "low", "high"))
    return Interval(mean, low, high, int(value.get("n", 0 if mean is None else 1)))


def _finite(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise IdanimError(f"{where} is {value!r}, expected a finite number")
    return float(value)


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
        notes=[f"left out: {name}: {missing}" for name, missing in comparison.incomplete.items()],
        jobs=comparison_table(comparison),
        plot=data_uri((folder / "comparison.png").read_bytes(), "image/png"),
    )


@program("compare", positional="input")
def main(run: Run) -> None:
    """Compare the jobs of a multirun folder."""
    comparison = read_comparison(Path(run.config["input"]).expanduser())
    if comparison.jobs:
        output = Path(run.config["output"] or run.config["input"]).expanduser()
        print(comparison_table(comparison).text(shutil.get_terminal_size((160, 40)).columns))
        write_comparison(output, comparison)
        print(f"\n{output}: comparison.html, comparison.csv, comparison.json, comparison.png")
    for name, missing in comparison.incomplete.items():
        print(f"left out: {name}: {missing}")
    if not comparison.jobs:
        raise IdanimError(f"none of the {len(comparison.incomplete)} jobs is complete")


if __name__ == "__main__":
    main()
