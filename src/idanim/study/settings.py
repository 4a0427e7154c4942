"""What a run of a study was made with, beyond what was typed: every setting as it was composed then."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from idanim.config import Run, compose, storable
from idanim.files import read_json
from idanim.study.plan import OWN_KEYS, Cell, Training

DONE = "done.json"
"""In the folder of a training run or an evaluation that is complete: its arguments, settings, seconds."""
OF_PLACE = ("output", "ckpt", "seed", "study")
"""Settings that the folder of a run says, or that are no settings."""
SHOWN = 6
_NOTHING = object()

Settings = dict[str, Any]


def training_run(training: Training) -> Run:
    """The configured run of train.py; its numbers come from conf/study.yaml."""
    return _training_run(training.arguments, training.folder)


def _training_run(arguments: Sequence[str], folder: Path) -> Run:
    run = compose("study", [*arguments, "studies=none", f"output={folder}"], check=False)
    config = {key: value for key, value in run.config.items() if key not in OWN_KEYS}
    return Run(config | {"output": str(folder), "study": {}}, run.output, run.choices, run.git_sha, run.overrides)


def training_settings(training: Training) -> Settings:
    """All settings of a training run but its seed, by dotted key."""
    return _training_settings(tuple(text for text in training.arguments if not text.startswith("seed=")))


def evaluation_settings(cell: Cell) -> Settings:
    """All settings of an evaluation, by dotted key."""
    return _evaluation_settings(cell.arguments)


@cache
def _training_settings(arguments: tuple[str, ...]) -> Settings:
    return _settings(_training_run(arguments, Path("given")))


@cache
def _evaluation_settings(arguments: tuple[str, ...]) -> Settings:
    return _settings(compose("evaluate", [*arguments, "ckpt=given", "output=given"], check=False))


def _settings(run: Run) -> Settings:
    stored = storable(run)
    flat = _flat({**stored["values"], **{f"{group} (option)": name for group, name in stored["choices"].items()}})
    # What a conf file builds is a setting like the others, but no part of what a checkpoint may say.
    flat |= {key: value for key, value in _flat(run.config).items() if key.split(".")[-1] == "_target_"}
    kept = {key: value for key, value in flat.items() if key.split(".")[0] not in OF_PLACE}
    return json.loads(json.dumps(kept, default=str))


def _flat(node: Mapping[str, Any], prefix: str = "") -> Settings:
    flat: Settings = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def recorded(folder: Path) -> Settings | None:
    """The settings that a complete run was made with; None where it says only what was typed, as older ones do."""
    return read_json(folder / DONE).get("settings")


def changes(before: Settings, now: Settings) -> dict[str, str]:
    """What differs: key → "0.1 → 0.2". Keys that one version does not have yet, or no more, make no difference.

    A value in place of a group of keys, or the other way round (a loss switched on), is a difference of the group.
    """
    changed = {}
    for key in sorted(before.keys() | now.keys()):
        then, since = _held(before, key), _held(now, key)
        groups = isinstance(then, dict) and isinstance(since, dict)  # an empty one got keys, or lost them
        if then != since and _NOTHING not in (then, since) and not groups:
            changed[key] = f"{_shown(then)} → {_shown(since)}"
    return changed


def _held(settings: Settings, key: str) -> Any:
    """The value of a key, or all that lies under it; `_NOTHING` where there is neither."""
    if key in settings:
        return settings[key]
    below = {name.removeprefix(f"{key}."): value for name, value in settings.items() if name.startswith(f"{key}.")}
    return below or _NOTHING


def _shown(value: Any) -> str:
    return f"({in_words({name: str(held) for name, held in value.items()})})" if isinstance(value, dict) else str(value)


def in_words(changed: Mapping[str, str]) -> str:
    """The first of some changes."""
    shown = ", ".join(f"{key}: {change}" for key, change in list(changed.items())[:SHOWN])
    return shown + (f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")


def mixed(cells: Sequence[Cell]) -> list[str]:
    """Runs between which more differs than the study says, in words: what was typed, or a default that changed since.

    What a run was made with is compared with what its own arguments mean now. The difference, perhaps none, should
    be the same one for all runs.

    Args:
        cells: of one study, complete.
    """
    found: dict[tuple[str, str], list[str]] = {}  # (kind, what differs) → names
    for cell in cells:
        variant, training = cell.variant, cell.training
        experiment, *_, seed = training.arguments
        own = (experiment, *variant.train, seed)
        runs = [("evaluated", cell.folder / "evaluation", variant.evaluate, _evaluation_settings)]
        if variant.of is None:
            runs.append(("trained", training.folder, own, _training_settings))
        for kind, folder, given, compose_settings in runs:
            if (folder / DONE).is_file():
                found.setdefault((kind, _difference(folder, given, compose_settings)), []).append(cell.name)
    notes = []
    for kind in ("trained", "evaluated"):
        groups = {difference: names for (of, difference), names in found.items() if of == kind}
        if len(groups) > 1:
            listed = "; ".join(f"{', '.join(names)} with {what or 'nothing else'}" for what, names in groups.items())
            notes.append(f"not {kind} alike, so that differences may not be the recipes': {listed}")
    return notes


def _difference(folder: Path, own: Sequence[str], compose_settings: Callable[[tuple[str, ...]], Settings]) -> str:
    """What was typed for a run beside its own arguments, and what changed since in what they mean."""
    arguments = list(read_json(folder / DONE)["arguments"])
    typed = list(arguments)
    for text in own:
        if text in typed:
            typed.remove(text)
    before = recorded(folder)
    without_seed = tuple(text for text in arguments if not text.startswith("seed="))
    since = {} if before is None else changes(before, compose_settings(without_seed))
    return ", ".join([*typed, *([f"then → now {in_words(since)}"] if since else [])])
