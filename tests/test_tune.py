"""The search for good settings: what is drawn, what is taken up again, and what comes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from drawn_people import make_shards
from optuna.trial import TrialState
from tiny_clip import write_tiny_clip

from idanim import tune
from idanim.config import Run, compose
from idanim.pareto import front, trial_table, write_front
from idanim.tune import FailedTrialError, check_space, open_study, search, trial_folder
from idanim.types import IdanimError, StoppedBySignalError

SPACE = {
    "training.optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "adapter.num_queries": {"low": 1, "high": 16},
    "reference": {"choices": ["random", "first_frame"]},
}


def a_run(output: Path, num_trials: int = 6, **changes: Any) -> Run:
    config = compose("tune", [f"output={output}", f"num_trials={num_trials}", "num_random_trials=3"]).config
    return Run(config | {"space": SPACE, "objectives": ["good", "fair"]} | changes, output, {}, "sha")


def figures_of(values: dict[str, Any]) -> dict[str, float]:
    """Two objectives that pull in opposite directions."""
    share = values["adapter.num_queries"] / 16
    return {"good": share, "fair": 1 - share**2 - (values["reference"] == "first_frame")}


class Programs:
    """In place of train.py and evaluate.py: they write figures of the settings at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dies_at: str | None = None

    def __call__(self, script: str, folder: Path, group: str, *arguments: str) -> None:
        self.calls.append(f"{folder.name} {script}")
        if self.calls[-1] == self.dies_at:
            raise KeyboardInterrupt
        folder.mkdir(parents=True, exist_ok=True)
        if script == "train.py":
            given = dict(argument.split("=", 1) for argument in arguments)
            values = {"adapter.num_queries": int(given["adapter.num_queries"]), "reference": given["reference"]}
            (folder / "metrics.json").write_text(json.dumps({"summary": values}))
        else:
            values = json.loads((folder.parent / "metrics.json").read_text())["summary"]
            summary = {name: {"mean": value} for name, value in figures_of(values).items()}
            (folder / "metrics.json").write_text(json.dumps({"summary": summary}))


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    stand_in = Programs()
    monkeypatch.setattr(tune, "_call", stand_in)
    return stand_in


def drawn(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and list(a) != list(b)


def test_the_front_is_what_nothing_beats(tmp_path: Path, programs: Programs) -> None:
    study = search(a_run(tmp_path, num_trials=12))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 12
    values = [trial.values for trial in study.trials]
    expected = [a for a in values if not any(dominates(b, a) for b in values)]
    best = front(study)
    assert sorted(trial.values for trial in best) == sorted(expected)
    assert [trial.values[0] for trial in best] == sorted((v[0] for v in expected), reverse=True)
    for trial in study.trials:
        assert trial.values == list(figures_of(trial.params).values())
    write_front(tmp_path, study, ["good", "fair"])
    stored = json.loads((tmp_path / "tune.json").read_text())["trials"]
    assert {row["trial"] for row in stored if row["on_front"]} == {trial.number for trial in best}
    assert "data:image/png" in (tmp_path / "tune.html").read_text()
    rows = trial_table(study, ["good", "fair"]).rows
    assert [row[1] for row in rows] == ["yes"] * len(best) + [""] * (12 - len(best))


def test_going_on_draws_what_a_straight_search_draws(tmp_path: Path, programs: Programs) -> None:
    straight = search(a_run(tmp_path / "a"))
    search(a_run(tmp_path / "b", num_trials=4))
    assert drawn(search(a_run(tmp_path / "b"))) == drawn(straight)
    assert len(programs.calls) == 24
    assert drawn(search(a_run(tmp_path / "c", seed=5))) != drawn(straight)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_an_interrupted_trial_is_taken_up_where_it_was(tmp_path: Path, programs: Programs, script: str) -> None:
    programs.dies_at = f"trial_0001 {script}" if script == "train.py" else f"evaluation {script}"
    with pytest.raises(KeyboardInterrupt):
        search(a_run(tmp_path, num_trials=2))
    number = len(list(tmp_path.glob("trial_*"))) - 1
    programs.dies_at = None
    before = len(programs.calls)
    study = search(a_run(tmp_path, num_trials=2))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    again = "trial_0001 train.py" if script == "train.py" else "evaluation evaluate.py"
    assert programs.calls[before] == again  # the drawn values, from where it stopped
    assert study.trials[number].values == list(figures_of(study.trials[number].params).values())


def test_a_trial_that_another_process_is_at_is_left_to_it(tmp_path: Path, programs: Programs) -> None:
    study = open_study(tmp_path, a_run(tmp_path).config)
    trial = study.ask()
    tune.suggest(trial, SPACE)
    with tune._held(trial_folder(tmp_path, trial.number)) as ours:
        assert ours
        search(a_run(tmp_path, num_trials=3))
    assert [t.state for t in study.trials] == [TrialState.RUNNING, TrialState.COMPLETE, TrialState.COMPLETE]
    assert drawn(study)[1] != drawn(study)[2]


HOLDING = """
import sys
from pathlib import Path
from idanim import tune

tune.CONF_DIR = Path(sys.argv[1], "conf")
with tune._held(Path(sys.argv[1], "trial")):
    tune._call("train.py", Path(sys.argv[1], "trial"), "group")
"""


def test_a_training_that_outlives_the_search_keeps_its_folder(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    (tmp_path / "train.py").write_text(
        f"import os, time, pathlib\npathlib.Path({str(started)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", HOLDING, tmp_path])
    while not (started.is_file() and started.read_text()):
        assert running.poll() is None
        time.sleep(0.1)
    running.kill()
    running.wait()
    with tune._held(tmp_path / "trial") as ours:
        assert not ours
    os.kill(int(started.read_text()), signal.SIGKILL)
    time.sleep(0.5)
    with tune._held(tmp_path / "trial") as ours:
        assert ours


def test_a_training_that_was_told_to_end_is_no_failed_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.py").write_text(f"raise SystemExit({StoppedBySignalError.EXIT_STATUS})\n")
    monkeypatch.setattr(tune, "CONF_DIR", tmp_path / "conf")
    monkeypatch.setattr(tune, "check_space", lambda space: None)
    with pytest.raises(StoppedBySignalError, match="the same command goes on"):
        search(a_run(tmp_path / "out"))
    (trial,) = open_study(tmp_path / "out", a_run(tmp_path / "out").config).trials
    assert trial.state is TrialState.RUNNING


def test_other_settings_are_refused(tmp_path: Path, programs: Programs) -> None:
    search(a_run(tmp_path, num_trials=1))
    with pytest.raises(IdanimError, match=r"begun with other settings: seed: 0 → 1"):
        search(a_run(tmp_path, seed=1))
    with pytest.raises(IdanimError, match="expected two figures"):
        search(a_run(tmp_path, objectives=["good"]))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"adapter.scal": {"low": 0, "high": 1}}, "there is no key 'adapter.scal'; did you mean adapter.scale"),
        ({"reference": {"choices": ["randm"]}}, "there is no reference=randm"),
        ({"adapter.scale": {"low": 0}}, r"adapter.scale: expected \{low"),
        ({"adapter.scale": 3}, r"expected \{low: …, high: …\} or \{choices"),
        ({"adapter.scale": {"low": 0, "high": 1, "lgo": True}}, "there is no lgo"),
    ],
)
def test_a_wrong_space_is_named_before_anything_runs(space: dict[str, Any], message: str) -> None:
    with pytest.raises(IdanimError, match=message):
        check_space(space)


def test_failed_trials_are_named_and_several_in_a_row_end_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Programs
) -> None:
    with pytest.raises(IdanimError, match=r"3 trials in a row failed.*no 'text_alignment'; it has good, fair"):
        search(a_run(tmp_path / "a", objectives=["good", "text_alignment"]))
    assert len(programs.calls) == 6
    assert "no 'text_alignment'" in (tmp_path / "a" / "trial_0000" / "failure.txt").read_text()

    def sometimes(folder: Path, values: dict[str, Any], config: dict[str, Any]) -> list[float]:
        if folder.name in ("trial_0000", "trial_0002", "trial_0003"):
            raise FailedTrialError("out of memory")
        return [1.0, 0.0]

    monkeypatch.setattr(tune, "run_trial", sometimes)
    study = search(a_run(tmp_path / "b", num_trials=5))
    states = [trial.state for trial in study.trials]
    assert [state is TrialState.FAIL for state in states] == [True, False, True, True, False]
    assert [trial.number for trial in front(study)] == [1, 4]


@pytest.mark.slow
def test_two_trials_of_one_step(tmp_path: Path) -> None:
    clip = write_tiny_clip(tmp_path / "clip")
    shards, output = make_shards(tmp_path / "shards"), tmp_path / "my search, 1"
    small = (
        "every_n_steps.preview=9,previews.num_identities=1,previews.prompts=[a smile],logger=csv,trainer.max_steps=1"
    )
    sampled = "sampling.num_frames=1,sampling.num_inference_steps=1"
    scored = f"scoring.clip={clip},logger=csv,num_identities=1,prompts=toy,{sampled}"
    arguments = [f"data.shards={shards}", f"output={output}", "num_trials=2"]
    arguments += [f"train=[{small}]", f"evaluate=[{scored}]"]
    command = [sys.executable, "-m", "idanim.tune", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "on the front" in result.stdout
    trials = json.loads((output / "tune.json").read_text())["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "complete"]
    assert all(-1 <= trial["values"]["face_similarity"] <= 1 for trial in trials)
    compared = subprocess.run(
        [sys.executable, "-m", "idanim.compare", str(output)], capture_output=True, text=True, check=False
    )
    assert "training.optimizer.lr" in compared.stdout, compared.stdout + compared.stderr
    assert "eval/text_alignment" in compared.stdout
