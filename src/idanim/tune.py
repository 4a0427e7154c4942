"""Search for good settings: `python -m idanim.tune output=runs/tune/`. A trial trains an adapter and evaluates it.

Optuna draws the settings and keeps what was measured in `<output>/study.log`; each trial is a folder of its own, with
`train.py`'s files and `evaluation/`. A trial runs in processes of its own, so that one which dies ends no other.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idanim.config import CONF_DIR, Run, check_overrides, program
from idanim.plain_values import plain_arguments
from idanim.types import IdanimError, StoppedBySignalError

try:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.study import StudyDirection
    from optuna.trial import TrialState
except ImportError as error:
    sys.exit(f"error: {error}. The search needs Optuna: pip install 'idanim[sweep]'")

FIXED = ("space", "objectives", "train", "evaluate", "data", "seed", "num_random_trials")
"""What may not change when a search goes on."""
MOST_FAILURES = 3
"""Failed trials in a row that end a search: then it is not the settings that are wrong."""
SHOWN_LINES = 12

log = logging.getLogger(__name__)


class FailedTrialError(Exception):
    """A trial came to nothing; the text says why."""


def open_study(output: Path, config: Mapping[str, Any]) -> optuna.Study:
    """The search in an output folder, new or gone on with.

    Raises:
        IdanimError: it was begun with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    output.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(output / "study.log")))
    directions = [StudyDirection.MAXIMIZE] * len(config["objectives"])
    study = optuna.create_study(storage=storage, study_name="idanim", directions=directions, load_if_exists=True)
    fixed = {key: config[key] for key in FIXED}
    begun_with = study.user_attrs.get("settings", fixed)
    changed = [f"{key}: {begun_with.get(key)} → {fixed[key]}" for key in FIXED if begun_with.get(key) != fixed[key]]
    if changed:
        raise IdanimError(
            f"output={output}: the search there was begun with other settings: {'; '.join(changed)}. "
            "Give the same ones, or another output="
        )
    study.set_user_attr("settings", fixed)
    return study


def suggest(trial: optuna.Trial, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Draw a value for every key of the space."""
    values: dict[str, Any] = {}
    for key, choice in space.items():
        if "choices" in choice:
            values[key] = trial.suggest_categorical(key, choice["choices"])
        elif isinstance(choice["low"], int) and isinstance(choice["high"], int):
            values[key] = trial.suggest_int(key, **choice)
        else:
            values[key] = trial.suggest_float(key, **choice)
    return values


def check_space(space: Mapping[str, Any]) -> None:
    """Refuse a space whose keys `train.py` does not have, or whose values can't be drawn from.

    Raises:
        IdanimError: names the key.
    """
    for key, choice in space.items():
        if not isinstance(choice, dict) or not ({"low", "high"} <= choice.keys() or choice.get("choices")):
            raise IdanimError(f"space: {key}: expected {{low: …, high: …}} or {{choices: […]}}, got {choice}")
        unknown = choice.keys() - {"low", "high", "log", "step", "choices"}
        if unknown:
            raise IdanimError(f"space: {key}: there is no {', '.join(sorted(unknown))}; known: low, high, log, step")
    values = {key: choice.get("choices", [choice.get("low")]) for key, choice in space.items()}
    sweep = [f"{key}={','.join(str(option) for option in options)}" for key, options in values.items()]
    check_overrides("train", plain_arguments(["--multirun", *sweep]))


def trial_folder(output: Path, number: int) -> Path:
    """Where a trial's files are."""
    return output / f"trial_{number:04d}"


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether this process is the only one at work on a trial; if it dies, the system lets go with its last program."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            # The programs hold it too: one that outlives a killed search must not meet a second one in its folder.
            os.set_inheritable(file.fileno(), True)
            yield True


def run_trial(folder: Path, values: Mapping[str, Any], config: Mapping[str, Any]) -> list[float]:
    """Train and evaluate, or go on with it; what is finished is not done again.

    Args:
        folder: of the trial.
        values: drawn for the keys of the space.
        config: of `conf/tune.yaml`.

    Returns:
        The objectives.

    Raises:
        FailedTrialError: a program ended with an error, or an objective has no value.
    """
    drawn = [f"{key}={value}" for key, value in values.items()]
    group = folder.resolve().parent.name
    if not (folder / "metrics.json").is_file():
        # Not output=, which would count among what tells trials apart.
        _call("train.py", folder, group, f"data.shards={config['data']['shards']}", *config["train"], *drawn)
    evaluation = folder / "evaluation"
    if not (evaluation / "metrics.json").is_file():
        _call("evaluate.py", evaluation, group, f"ckpt={folder / 'adapter.safetensors'}", *config["evaluate"])
    summary = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["summary"]
    return [_objective(summary, name) for name in config["objectives"]]


def _objective(summary: Mapping[str, Any], name: str) -> float:
    if name not in summary:
        raise FailedTrialError(f"objectives: the evaluation has no {name!r}; it has {', '.join(summary)}")
    mean = summary[name]["mean"]
    if mean is None or not math.isfinite(mean):
        raise FailedTrialError(f"objectives: {name} has no value; what measures it? See docs/evaluation.md")
    return float(mean)


def _call(script: str, folder: Path, group: str, *arguments: str) -> None:
    """Run one of our programs in a process of its own, its words in `<script>.log`, its W&B run in a group."""
    path = CONF_DIR.parent / script
    if not path.is_file():
        raise IdanimError(f"{path} is not there: the search runs in a checkout of the source")
    folder.mkdir(parents=True, exist_ok=True)
    said = folder / f"{path.stem}.log"
    command = [sys.executable, str(path), *arguments, f"hydra.run.dir={folder.resolve()}"]
    environment = os.environ | {"WANDB_RUN_GROUP": group}
    with said.open("w", encoding="utf-8") as stream:
        status = subprocess.run(  # with what is inheritable: the lock of `_held`
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, close_fds=False, check=False
        )
    if status.returncode == StoppedBySignalError.EXIT_STATUS:  # not the settings' fault: the trial is taken up again
        raise StoppedBySignalError(f"{script} in {folder} was told to end; the same command goes on")
    if status.returncode:
        last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SHOWN_LINES:]
        raise FailedTrialError(f"{script} ended with {status.returncode}: " + "\n".join(last))


def _finish_trial(study: optuna.Study, number: int, values: Mapping[str, Any], run: Run) -> bool:
    """Run a trial and tell the study; whether it came to figures. One that another process is at is left to it."""
    folder = trial_folder(run.output, number)
    with _held(folder) as ours:
        if not ours or study.trials[number].state.is_finished():
            return True
        log.info("trial %d: %s", number, ", ".join(f"{key}={value}" for key, value in values.items()))
        try:
            objectives = run_trial(folder, values, run.config)
        except FailedTrialError as error:
            log.warning("trial %d failed: %s", number, error)
            (folder / "failure.txt").write_text(f"{error}\n", encoding="utf-8")
            study.tell(number, state=TrialState.FAIL)
            return False
        study.tell(number, objectives)
        figures = (f"{name} {value:.3f}" for name, value in zip(run.config["objectives"], objectives, strict=True))
        log.info("trial %d: %s", number, ", ".join(figures))
        return True


def next_trial(study: optuna.Study, config: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """A new trial, unless there are as many as wanted; the same seed and results so far draw the same values."""
    space = config["space"]
    # A trial of a process that died while it drew counts for nothing.
    begun = [trial for trial in study.trials if trial.state.is_finished() or trial.params.keys() == space.keys()]
    if len(begun) >= config["num_trials"]:
        return None
    trial = study.ask()
    # By the trial's number, so that neither going on nor a second process draws what was drawn already.
    study.sampler = optuna.samplers.TPESampler(
        seed=config["seed"] + trial.number, n_startup_trials=config["num_random_trials"]
    )
    return trial.number, suggest(trial, space)


def search(run: Run) -> optuna.Study:
    """Take up interrupted trials, then run new ones until there are as many as wanted.

    Raises:
        IdanimError: wrong settings, or several failed trials in a row.
    """
    config = run.config
    if len(config["objectives"]) != 2:
        raise IdanimError(f"objectives={config['objectives']}: expected two figures of evaluation/metrics.json")
    check_space(config["space"])
    study = open_study(run.output, config)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if trial.params.keys() == config["space"].keys():
            _finish_trial(study, trial.number, trial.params, run)
    failures = 0
    while (drawn := next_trial(study, config)) is not None:
        failures = 0 if _finish_trial(study, *drawn, run) else failures + 1
        if failures == MOST_FAILURES:
            where = trial_folder(run.output, drawn[0]) / "failure.txt"
            raise IdanimError(f"{failures} trials in a row failed. The last one: {where.read_text(encoding='utf-8')}")
    return study


@program("tune")
def main(run: Run) -> None:
    """Search, and write what came of it."""
    from idanim.pareto import print_front, write_front

    study = search(run)
    write_front(run.output, study, run.config["objectives"])
    print_front(study, run.config["objectives"])
    print(f"\n{run.output}: tune.json, tune.png, tune.html; all trials: python -m idanim.compare {run.output}")


if __name__ == "__main__":
    main()
