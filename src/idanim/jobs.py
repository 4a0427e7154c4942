"""The jobs of a sweep as they lie on the disk.

A job is a folder with `.hydra/overrides.yaml` and a `metrics.json` whose `summary` maps names to numbers or
to {"mean", "low", "high", "n"}. Figures of `evaluation/metrics.json` inside a job are added as `eval/<name>`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from idanim.files import read_json, read_text
from idanim.generation.settings import sampling_in_words
from idanim.metrics.identity import normalised_position
from idanim.metrics.intervals import Interval
from idanim.types import IdanimError

OVERRIDES = Path(".hydra", "overrides.yaml")
METRICS = Path("metrics.json")
EVALUATION = Path("evaluation", "metrics.json")
SCORING_MODELS = ("face_engine", "text_model", "prompt_reader")
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
        identities: figure → person → value, of its evaluation; {} where there is none.
        trained_judge: why its evaluation's judge is no impartial one, in words; () where it is.
        sampling: how the videos of its evaluation were sampled, in words; "" where that is not known.
    """

    name: str
    overrides: dict[str, str]
    metrics: dict[str, Interval]
    models: dict[str, str] = field(default_factory=dict)
    identities: dict[str, dict[str, float | None]] = field(default_factory=dict)
    trained_judge: tuple[str, ...] = ()
    sampling: str = ""

    @property
    def doubts(self) -> list[str]:
        """What a reader of its figures must know."""
        return [f"{self.name}: the judge is no impartial one, its figures flatter: {why}" for why in self.trained_judge]


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
        refuse_different(kind, jobs)
    return Comparison(jobs, incomplete)


def refuse_different(kind: str, jobs: Sequence[Job]) -> None:
    """Refuse scores of two face engines, packs or CLIP models: they are numbers on different scales.

    Raises:
        IdanimError: names the models and the jobs.
    """
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
    is_evaluated = (folder / EVALUATION).is_file()
    needed = (OVERRIDES,) if is_evaluated else (OVERRIDES, METRICS)  # an adapter may have been trained elsewhere
    missing = [str(file) for file in needed if not (folder / file).is_file()]
    if missing:
        unfinished = " (the job did not finish)" if str(METRICS) in missing else ""
        raise IdanimError(f"no {' and no '.join(missing)}{unfinished}")
    metrics, models = _read_metrics(folder / METRICS) if (folder / METRICS).is_file() else ({}, {})
    if not is_evaluated:
        return Job(name, _read_overrides(folder / OVERRIDES), metrics, models)
    evaluation, scored_with = _read_metrics(folder / EVALUATION)
    metrics |= {f"eval/{key}": figure for key, figure in evaluation.items()}
    identities = read_identities(folder / EVALUATION, evaluation)
    judged = _read_trained_judge(folder / EVALUATION)
    sampling = _read_sampling(folder / EVALUATION)
    return Job(name, _read_overrides(folder / OVERRIDES), metrics, models | scored_with, identities, judged, sampling)


def _read_sampling(path: Path) -> str:
    source = read_json(path).get("source")
    return sampling_in_words(source.get("sampling")) if isinstance(source, dict) else ""


def _read_trained_judge(path: Path) -> tuple[str, ...]:
    found = read_json(path).get("trained_judge", [])
    if not isinstance(found, list):
        raise IdanimError(f"{EVALUATION}: trained_judge is {found!r}, expected a list")
    return tuple(map(str, found))


def read_identities(path: Path, summary: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Figure → person → value of an evaluation's main system, `normalised_similarity` among them.

    Args:
        path: `metrics.json` of the evaluation.
        summary: its figures, for floor and ceiling.

    Raises:
        IdanimError: a row has no system or person, or a value is no number.
    """
    where = f"{EVALUATION}: identities"
    rows = read_json(path).get("identities", [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"system", "identity"} <= row.keys() for row in rows
    ):
        raise IdanimError(f"{where}: expected a list of {{system, identity, …}}")
    main = [row for row in rows if row["system"] == rows[0]["system"]]  # it comes first
    names = [name for name in (main[0] if main else {}) if name not in ("system", "identity", "num_videos")]
    values = {
        name: {str(row["identity"]): _finite(row.get(name), f"{where}: {name}") for row in main} for name in names
    }
    floor, ceiling = (summary.get(f"{kind}_similarity") for kind in ("different_person", "real_pair"))
    if floor and ceiling and floor.mean is not None and ceiling.mean is not None:
        low, high = floor.mean, ceiling.mean
        values["normalised_similarity"] = {
            person: None if value is None else normalised_position(value, low, high)
            for person, value in values.get("face_similarity", {}).items()
        }
    return values


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
