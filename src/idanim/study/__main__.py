"""Run studies: `python -m idanim.study first_frame seeds=[0,1,2] jobs=2`. See docs/training.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idanim.config import Run, program
from idanim.study.plan import (
    Cell,
    as_overrides,
    chosen_variants,
    plan,
    read_variants,
    study_names,
    typed_for_training,
)
from idanim.study.settings import evaluation_settings, training_settings
from idanim.study.work import run_cells
from idanim.types import IdanimError


@program(
    "study", positional="studies", aliases={"experiment": "studies", "caption": "data.caption", "memory": "blocks"}
)
def main(run: Run) -> None:
    """Train, evaluate, compare."""
    config = run.config
    _check(config)
    names = study_names(config["studies"])
    cells = {name: _cells(name, run) for name in names}
    failures: dict[str, str] = {}
    if not config["only_report"]:
        everything = [cell for study in cells.values() for cell in study]
        _compose_once(everything)
        failures = run_cells(everything, config["jobs"], lambda line: print(line, flush=True))
    from idanim.study.results import write_results  # matplotlib, only once there is something to draw

    write_results(cells, run.output, config["results"] and Path(config["results"]).expanduser())
    if failures:
        listed = "".join(f"\n- {name}: {why}" for name, why in failures.items())
        raise IdanimError(f"{len(failures)} failed; the same command tries them again:{listed}")


def _check(config: dict[str, Any]) -> None:
    jobs, seeds = config["jobs"], config["seeds"]
    if not isinstance(jobs, int) or jobs < 1:
        raise IdanimError(f"jobs={jobs}: expected a number of processes")
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise IdanimError(f"seeds={seeds}: expected a [list] of at least one, none twice")


def _cells(name: str, run: Run) -> list[Cell]:
    typed = typed_for_training(run.overrides)
    faces = [text for text in typed if text.startswith("faces")]
    # Without a GPU in training there is none in evaluation: runs must not differ in where they are.
    device = ["device=cpu"] if run.config["trainer"]["accelerator"] == "cpu" else []
    grid = ["logger=csv", *faces, *device, *as_overrides(run.config["evaluation"])]
    variants = chosen_variants(read_variants(name), run.config["variants"])
    return plan(variants, run.config["seeds"], typed, grid, run.output)


def _compose_once(cells: list[Cell]) -> None:
    """Compose everything that differs, before hours are spent on the first."""
    for cell in cells:
        training_settings(cell.training)
        evaluation_settings(cell)


if __name__ == "__main__":
    main()
