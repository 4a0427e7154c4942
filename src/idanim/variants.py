"""Jobs that differ in their seed alone as one row: means over seeds and people, and differences to one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from idanim.files import atomic_path, write_json
from idanim.jobs import DEFAULT, Job
from idanim.metrics.intervals import Interval
from idanim.metrics.page import data_uri, write_page
from idanim.metrics.paired import Difference
from idanim.metrics.report import number, span
from idanim.metrics.seeds import Values, crossed_difference, crossed_interval
from idanim.metrics.table import Table
from idanim.types import IdanimError

FIGURES = (
    "normalised_similarity",
    "face_similarity",
    "retrieval_rank1",
    "copy_paste",
    "prompt_attributes",
    "prompt_action",
    "text_alignment",
    "motion",
    "temporal_consistency",
    "background_similarity",
    "pose_similarity",
)
"""What is compared, in this order, where it was measured."""
PLOT = "variants.png"
ALONE = ("id_token_share",)
"""Figures of training runs, one a seed."""


@dataclass(frozen=True)
class Variant:
    """What was measured of one recipe.

    Attributes:
        name: of the recipe.
        num_seeds: training runs.
        figures: mean and interval by figure.
        differences: to the baseline by figure; {} for the baseline itself.
        minus: name of that baseline.
    """

    name: str
    num_seeds: int
    figures: dict[str, Interval]
    differences: dict[str, Difference] = field(default_factory=dict)
    minus: str = ""


def group_by_seed(jobs: Sequence[Job], over: str) -> dict[str, dict[int, Job]]:
    """Name of a recipe → seed → job. The name is what the other overrides that vary say.

    Args:
        jobs: all jobs.
        over: the override that tells seeds apart.

    Raises:
        IdanimError: a job does not say its seed, or two of one recipe have the same.
    """
    keys = dict.fromkeys(key for job in jobs for key in job.overrides if key != over)
    varied = [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]
    found: dict[str, dict[int, Job]] = {}
    for job in jobs:
        name = ", ".join(_label(job, key, len(varied)) for key in varied) or "all"
        text = job.overrides.get(over, "")
        if not text.lstrip("-").isdecimal():
            raise IdanimError(f"over={over}: job {job.name} has {over}={text or '(nothing)'}, expected a whole number")
        if int(text) in found.setdefault(name, {}):
            raise IdanimError(
                f"over={over}: {job.name} and {found[name][int(text)].name} are both {name}, {over}={text}"
            )
        found[name][int(text)] = job
    return found


def _label(job: Job, key: str, num_varied: int) -> str:
    value = job.overrides.get(key, DEFAULT)
    return value if num_varied == 1 else f"{key}={value}"


def compare_variants(
    by_name: Mapping[str, Mapping[int, Job]], baseline: str, against: Mapping[str, str] | None = None, seed: int = 0
) -> list[Variant]:
    """Figures of every recipe and differences to the baseline, which comes first.

    Args:
        by_name: recipe → seed → job.
        baseline: a recipe.
        against: recipes that are compared with another one than the baseline, where that is there.
        seed: of the bootstrap.

    Raises:
        IdanimError: there is no such recipe.
    """
    if baseline not in by_name:
        raise IdanimError(f"baseline={baseline!r}: expected one of {', '.join(by_name)}")
    names = [baseline, *(name for name in by_name if name != baseline)]
    present = [figure for figure in FIGURES if any(figure in job.identities for job in _all_jobs(by_name))]
    variants = []
    for name in names:
        figures = {f: crossed_interval(_values(by_name[name], f), np.random.default_rng(seed)) for f in present}
        figures |= {figure: _mean(by_name[name], figure) for figure in ALONE}
        differences = {}
        minus = (against or {}).get(name, baseline)
        if name != baseline and minus in by_name:
            for figure in present:
                pair = _values(by_name[name], figure), _values(by_name[minus], figure)
                differences[figure] = crossed_difference(*pair, np.random.default_rng(seed))
        variants.append(Variant(name, len(by_name[name]), figures, differences, minus))
    return variants


def _all_jobs(by_name: Mapping[str, Mapping[int, Job]]) -> list[Job]:
    return [job for jobs in by_name.values() for job in jobs.values()]


def _values(jobs: Mapping[int, Job], figure: str) -> Values:
    return {seed: job.identities.get(figure, {}) for seed, job in jobs.items()}


def _mean(jobs: Mapping[int, Job], figure: str) -> Interval:
    values = [job.metrics[figure].mean for job in jobs.values() if figure in job.metrics]
    known = [value for value in values if value is not None]
    return Interval(fmean(known) if known else None, None, None, len(known))


# -------------------------------------------------------------------------------------------- output


def figure_table(variants: Sequence[Variant]) -> Table:
    """Means with intervals over seeds and people: one row a recipe."""
    names = _shown(variants)
    rows = []
    for variant in variants:
        people = max((variant.figures[name].n for name in names if name not in ALONE), default=0)
        cells = [_cell(variant.figures[name]) for name in names]
        rows.append([variant.name, str(variant.num_seeds), str(people), *cells])
    return Table(["recipe", "seeds", "people", *names], rows)


def difference_table(variants: Sequence[Variant]) -> Table:
    """Paired differences to the baseline, with interval and p: one row a recipe."""
    names = [name for name in _shown(variants) if name not in ALONE]
    rows = []
    for variant in variants:
        if variant.differences:
            rows.append([f"{variant.name} − {variant.minus}", *(_difference(variant, name) for name in names)])
    return Table(["paired difference", *names], rows)


def _shown(variants: Sequence[Variant]) -> list[str]:
    return [f for f in (*FIGURES, *ALONE) if any(f in v.figures and v.figures[f].mean is not None for v in variants)]


def _cell(figure: Interval) -> str:
    if figure.mean is None:
        return "–"
    return number(figure.mean) if figure.low is None else f"{number(figure.mean)} {span(figure.low, figure.high)}"


def _difference(variant: Variant, figure: str) -> str:
    difference = variant.differences[figure]
    if difference.mean is None:
        return "–"
    p = "" if difference.p is None else f", p {number(difference.p)}"
    return f"{difference.mean:+.3g} {span(difference.low, difference.high)}{p}"


def variant_tables(variants: Sequence[Variant], *more: Table) -> list[Table]:
    """Figures, differences and what else there is; tables without rows left out."""
    return [table for table in (figure_table(variants), difference_table(variants), *more) if table.rows]


def write_variants(
    folder: Path, title: str, variants: Sequence[Variant], notes: Sequence[str] = (), more: Sequence[Table] = ()
) -> None:
    """Write variants.json, variants.png and variants.html into a folder.

    Args:
        folder: of the comparison.
        title: of the page.
        variants: the baseline first.
        notes: what a reader must know.
        more: further tables.
    """
    content = {"title": title, "notes": list(notes), "variants": [asdict(variant) for variant in variants]}
    write_json(folder / "variants.json", content)
    _draw(folder / PLOT, variants)
    plot = data_uri((folder / PLOT).read_bytes(), "image/png")
    tables = variant_tables(variants, *more)
    write_page(folder / "variants.html", "variants.html.j2", title=title, notes=notes, tables=tables, plot=plot)


def _draw(path: Path, variants: Sequence[Variant]) -> None:
    """One panel a figure, recipes from top to bottom with their intervals; a dotted line at the first recipe."""
    names = _shown(variants)
    if not names:
        raise IdanimError("nothing was measured that could be drawn")
    num_columns = min(4, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    with mpl.rc_context({"font.size": 8}):
        size = (1.5 + 2.4 * num_columns, num_rows * (0.7 + 0.2 * len(variants)))
        drawing = Figure(size, layout="constrained")
        grid = drawing.subplots(num_rows, num_columns, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, names, strict=False):
            _draw_panel(axes, name, variants)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        grid[0, 0].set_yticks(range(len(variants)), [variant.name for variant in variants])
        grid[0, 0].set_ylim(len(variants) - 0.5, -0.5)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary, dpi=110)


def _draw_panel(axes: Axes, name: str, variants: Sequence[Variant]) -> None:
    for row, variant in enumerate(variants):
        figure = variant.figures[name]
        if figure.mean is None:
            continue
        if row == 0:
            axes.axvline(figure.mean, color="C1", linestyle=":")
        axes.plot(figure.mean, row, "o", color="C1" if row == 0 else "C0")
        if figure.low is not None and figure.high is not None:
            axes.hlines(row, figure.low, figure.high, color="C1" if row == 0 else "C0")
    axes.set_title(name)
    axes.grid(axis="x", alpha=0.3)
