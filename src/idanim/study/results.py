"""What studies found: a table, a plot and a page for each, and one markdown file over all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from idanim.config import CONF_DIR
from idanim.files import write_text
from idanim.jobs import SCORING_MODELS, Job, read_job, refuse_different
from idanim.metrics.report import number
from idanim.metrics.table import Table
from idanim.study.plan import BASELINE, Cell
from idanim.study.settings import DONE, mixed
from idanim.types import IdanimError
from idanim.variants import PLOT, Variant, compare_variants, variant_tables, write_variants


def write_results(studies: Mapping[str, Sequence[Cell]], root: Path, results: Path | None) -> None:
    """Compare the variants of each study, print the tables and write them.

    Args:
        studies: name → cells; those that are not complete are named and left out.
        root: `<root>/<study>/` gets variants.json, .png and .html.
        results: a markdown file over all studies; None = none. Plots go to a folder of its name.

    Raises:
        IdanimError: no study has a complete cell of the paper's recipe.
    """
    sections = []
    for name, cells in studies.items():
        jobs, missing = _read_jobs(cells)
        notes = [f"left out: {cell}: {why}" for cell, why in missing.items()]
        notes += mixed([cell for cell in cells if cell.seed in jobs.get(cell.variant.name, {})])
        notes += [doubt for by_seed in jobs.values() for job in by_seed.values() for doubt in job.doubts]
        notes += _sampling_notes(jobs)
        if BASELINE not in jobs:
            print(f"\n{name}: nothing to compare yet; {'; '.join(notes[:3])}")
            continue
        against = {cell.variant.name: cell.variant.against for cell in cells}
        variants = compare_variants(jobs, BASELINE, against)
        seconds = _time_table(cells)
        write_variants(root / name, f"Study {name}", variants, notes, [seconds])
        width = shutil.get_terminal_size((160, 40)).columns
        tables = variant_tables(variants, seconds)
        print("\n\n".join([f"\n── {name}", *(table.text(width) for table in tables), *notes]))
        print(f"{root / name}: variants.html, variants.json, {PLOT}")
        sections.append(_section(name, root / name, variants, notes, seconds, results))
    if not sections:
        raise IdanimError(f"no study in {root} has a complete evaluation of the paper's recipe")
    if results is not None:
        write_text(results, "\n".join([_HEAD, *sections]))
        print(f"\n{results}")


def _read_jobs(cells: Sequence[Cell]) -> tuple[dict[str, dict[int, Job]], dict[str, str]]:
    """Jobs by variant and seed, and why others are missing."""
    jobs: dict[str, dict[int, Job]] = {}
    missing: dict[str, str] = {}
    for cell in cells:
        if not (cell.folder / "evaluation" / DONE).is_file():
            missing[cell.name] = "not evaluated yet"
            continue
        try:
            jobs.setdefault(cell.variant.name, {})[cell.seed] = read_job(cell.folder, cell.name)
        except IdanimError as error:
            missing[cell.name] = str(error)
    for kind in SCORING_MODELS:
        refuse_different(kind, [job for by_seed in jobs.values() for job in by_seed.values()])
    return jobs, missing


def _sampling_notes(jobs: Mapping[str, Mapping[int, Job]]) -> list[str]:
    """How videos were sampled: one line where all variants agree."""
    variants: dict[str, list[str]] = {}
    for name, by_seed in jobs.items():
        for words in dict.fromkeys(job.sampling for job in by_seed.values() if job.sampling):
            variants.setdefault(words, []).append(name)
    return [f"{', '.join(names)}: sampled with {words}" for words, names in variants.items()]


def _time_table(cells: Sequence[Cell]) -> Table:
    """Mean seconds of training and of evaluation by variant, those of the processor behind them."""
    rows = []
    for name in dict.fromkeys(cell.variant.name for cell in cells):
        own = [cell for cell in cells if cell.variant.name == name]
        parts = [[cell.training.folder for cell in own if cell.variant.of is None]]
        parts.append([cell.folder / "evaluation" for cell in own])
        rows.append([name, *(_mean_seconds(folders) for folders in parts)])
    return Table(["recipe", "training, s a run (processor s)", "evaluation, s a run (processor s)"], rows)


def _mean_seconds(folders: Sequence[Path]) -> str:
    files = [folder / DONE for folder in folders if (folder / DONE).is_file()]
    done = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not done:
        return "–"
    seconds, processor = (fmean(entry[kind] for entry in done) for kind in ("seconds", "cpu_seconds"))
    return f"{number(seconds)} ({number(processor)})"


_HEAD = """# Results of the studies

Written by `python -m idanim.study studies=all only_report=true results=docs/results.md`; do not edit. How studies are
run, and what the figures mean: [training.md](training.md#studies), [evaluation.md](evaluation.md#what-is-measured).
Means are over people whom no adapter was trained on and over training seeds, with 95 % bootstrap intervals that draw
both. Differences are to the paper's recipe, paired by person and seed; p is of a sign-flip test over people, not
corrected for the number of comparisons.
"""


def _section(
    name: str, folder: Path, variants: Sequence[Variant], notes: Sequence[str], seconds: Table, results: Path | None
) -> str:
    """The study as markdown; its plot is copied beside the file."""
    lines = [f"## {name}", "", *_question(name), ""]
    if results is not None:
        plots = results.parent / results.stem
        plots.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PLOT, plots / f"{name}.png")
        lines += [f"![{name}]({results.stem}/{name}.png)", ""]
    for table in variant_tables(variants, seconds):
        lines += [table.markdown(), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])


def _question(name: str) -> list[str]:
    """The comment at the head of the experiment, without its commands."""
    path = CONF_DIR / "experiment" / f"{name}.yaml"
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return [line.lstrip("# ") for line in head if "@package" not in line and "python " not in line]
