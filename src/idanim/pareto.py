"""What came of a search: the trials that none beats in both objectives, as numbers, a picture and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from idanim.files import atomic_path, write_json
from idanim.metrics.page import data_uri, write_page
from idanim.metrics.report import number
from idanim.metrics.table import Table
from idanim.types import IdanimError


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The trials than which no other is better in one objective and as good in the other, by the first objective.

    Raises:
        IdanimError: no trial came to figures.
    """
    best = study.best_trials
    if not best:
        raise IdanimError("no trial came to figures; trial_*/failure.txt says why")
    return sorted(best, key=lambda trial: trial.values, reverse=True)


def trial_table(study: optuna.Study, objectives: Sequence[str]) -> Table:
    """One row a finished trial, those of the front first."""
    best = {trial.number for trial in front(study)}
    finished = study.get_trials(states=[TrialState.COMPLETE])
    keys = list(dict.fromkeys(key for trial in finished for key in trial.params))
    ranked = sorted(finished, key=lambda trial: (trial.number not in best, [-value for value in trial.values]))
    rows = []
    for trial in ranked:
        figures = [number(value) for value in trial.values]
        settings = [_short(trial.params.get(key)) for key in keys]
        rows.append([str(trial.number), "yes" if trial.number in best else "", *figures, *settings])
    return Table(["trial", "on the front", *objectives, *keys], rows)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_plot(path: Path, study: optuna.Study, objectives: Sequence[str]) -> None:
    """Every trial as a point, those of the front joined and numbered."""
    best = front(study)
    others = [trial for trial in study.get_trials(states=[TrialState.COMPLETE]) if trial not in best]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure((5, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([t.values[0] for t in others], [t.values[1] for t in others], "o", color="0.7", label="other trials")
        # Steps, no line: between two of the front, only the worse of each figure is known to be reachable.
        axes.step([t.values[0] for t in best], [t.values[1] for t in best], "o-", where="post", label="front")
        for trial in best:
            axes.annotate(str(trial.number), trial.values, xytext=(4, 4), textcoords="offset points")
        axes.set(xlabel=objectives[0], ylabel=objectives[1])
        axes.grid(alpha=0.3)
        axes.legend()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120)


def write_front(folder: Path, study: optuna.Study, objectives: Sequence[str]) -> None:
    """Write tune.json, tune.png and tune.html into a folder."""
    best = {trial.number for trial in front(study)}
    trials = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "values": dict(zip(objectives, trial.values, strict=True)) if trial.values else None,
            "settings": trial.params,
            "on_front": trial.number in best,
        }
        for trial in study.trials
    ]
    write_json(folder / "tune.json", {"objectives": list(objectives), "trials": trials})
    write_plot(folder / "tune.png", study, objectives)
    failed = [str(trial.number) for trial in study.get_trials(states=[TrialState.FAIL])]
    write_page(
        folder / "tune.html",
        "tune.html.j2",
        title=f"Search in {folder.name}",
        notes=[f"failed trials, see failure.txt in their folders: {', '.join(failed)}"] if failed else [],
        trials=trial_table(study, objectives),
        plot=data_uri((folder / "tune.png").read_bytes(), "image/png"),
    )


def print_front(study: optuna.Study, objectives: Sequence[str]) -> None:
    """Print the table of trials."""
    print("\n" + trial_table(study, objectives).text())
