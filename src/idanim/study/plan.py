"""What a study consists of: variants × seeds, each a training run and an evaluation. Pure; nothing is run here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from idanim.config import CONF_DIR, Run, compose
from idanim.types import IdanimError

BASELINE_STUDY, BASELINE = "random_ref", "paper"
"""The experiment that all variants are compared with, and its name as a variant."""
OWN_KEYS = ("studies", "variants", "seeds", "jobs", "output", "only_report", "results", "evaluation")
"""Keys of conf/study.yaml that are none of train.py."""


@dataclass(frozen=True)
class Variant:
    """One row of a study's table.

    Attributes:
        study: the experiment it belongs to.
        name: unique in the study.
        train: overrides of train.py, on top of the experiment.
        evaluate: overrides of evaluate.py.
        of: variant whose adapter it evaluates in another way, instead of training one.
        against: variant that it is compared with.
    """

    study: str
    name: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    of: str | None = None
    against: str = BASELINE


@dataclass(frozen=True)
class Training:
    """One adapter to train: its folder, and the arguments that decide the weights."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def ckpt(self) -> Path:
        """The adapter file."""
        return self.folder / "adapter.safetensors"


@dataclass(frozen=True)
class Cell:
    """One variant with one seed: an adapter, and how it is evaluated.

    Attributes:
        variant: what it is an instance of.
        seed: of training.
        folder: gets `evaluation/`.
        training: makes the adapter.
        arguments: of evaluate.py, but for the adapter and the folder.
    """

    variant: Variant
    seed: int
    folder: Path
    training: Training
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.variant.study}/{self.variant.name}/seed_{self.seed}"


def study_names(given: str | Sequence[str]) -> list[str]:
    """The studies that `studies=` means; "all" is every experiment on the default backbone.

    Raises:
        IdanimError: there is no such experiment.
    """
    known = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
    names = [given] if isinstance(given, str) else list(given)
    if names == ["all"]:
        toy = [name for name in known if _composed(name).choices["backbone"] == "toy"]
        return sorted(toy, key=lambda name: name != BASELINE_STUDY)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = difflib.get_close_matches(str(unknown[0]), known, n=1) if unknown else []
        guess = f"did you mean {near[0]}? " if near else ""
        raise IdanimError(f"no study {', '.join(map(str, unknown))}: {guess}There is all, or any of {', '.join(known)}")
    return list(dict.fromkeys(names))


@cache
def _composed(name: str) -> Run:
    return compose("train", [f"experiment={name}"], check=False)


def read_variants(name: str) -> list[Variant]:
    """The variants of an experiment, the paper's recipe first.

    `study:` of the experiment maps names to overrides of train.py, or to {train: […], evaluate: […], of: <variant>,
    against: <variant>}; without it, the experiment itself is the only variant.

    Raises:
        IdanimError: a variant is written in another way, or refers to one that does not exist.
    """
    described: Mapping[str, Any] = _composed(name).config["study"]
    variants = [Variant(BASELINE_STUDY, BASELINE)]
    variants += [_variant(name, key, value) for key, value in described.items()]
    if not described and name != BASELINE_STUDY:
        variants.append(Variant(name, name))
    by_name = {variant.name: variant for variant in variants}
    for variant in variants:
        if not {variant.of or BASELINE, variant.against} <= by_name.keys():
            named = f"of {variant.of} against {variant.against}"
            raise IdanimError(f"study {name}: {variant.name} is {named}; there is {', '.join(by_name)}")
        if variant.of and by_name[variant.of].of:
            raise IdanimError(f"study {name}: {variant.name} is of {variant.of}, which trains no adapter of its own")
    return variants


def chosen_variants(variants: Sequence[Variant], given: str | Sequence[str] | None) -> list[Variant]:
    """The variants that `variants=` means and those that they refer to, the paper's recipe among them; None = all.

    Raises:
        IdanimError: there is no such variant.
    """
    by_name = {variant.name: variant for variant in variants}
    names = [given] if isinstance(given, str) else given
    unknown = sorted(set(names or ()) - by_name.keys())
    if unknown:
        raise IdanimError(f"variants={','.join(unknown)}: there is {', '.join(by_name)}")
    wanted: set[str] = set()
    new = {BASELINE, *(by_name if names is None else names)}
    while new:
        wanted |= new
        new = {other for name in new for other in (by_name[name].of or BASELINE, by_name[name].against)} - wanted
    return [variant for variant in variants if variant.name in wanted]


def _variant(study: str, name: str, value: Any) -> Variant:
    fields = {"train": value} if isinstance(value, list) else value
    if not isinstance(fields, dict) or not fields.keys() <= {"train", "evaluate", "of", "against"}:
        expected = "a list of overrides, or some of train, evaluate, of, against"
        raise IdanimError(f"study {study}: {name} is {value!r}, expected {expected}")
    if "of" in fields and "train" in fields:
        raise IdanimError(f"study {study}: {name} is of {fields['of']}, so it can't train anything")
    lists = {key: tuple(map(str, fields[key])) for key in ("train", "evaluate") if key in fields}
    return Variant(study, str(name), **{**fields, **lists})


def plan(
    variants: Sequence[Variant], seeds: Sequence[int], typed: Sequence[str], grid: Sequence[str], root: Path
) -> list[Cell]:
    """Everything to train and to evaluate, seed by seed, each once.

    Args:
        variants: of one study, the paper's recipe among them.
        seeds: of training.
        typed: overrides of train.py for all runs.
        grid: overrides of evaluate.py for all evaluations.
        root: `<root>/<study>/<variant>/seed_<n>/` is a cell's folder.
    """
    by_name = {variant.name: variant for variant in variants}
    cells = []
    for seed in seeds:
        for variant in variants:
            trained = by_name[variant.of] if variant.of else variant
            arguments = (f"experiment={trained.study}", *typed, *trained.train, f"seed={seed}")
            training = Training(_folder(root, trained, seed), arguments)
            evaluation = (*grid, *variant.evaluate)
            cells.append(Cell(variant, seed, _folder(root, variant, seed), training, evaluation))
    return cells


def _folder(root: Path, variant: Variant, seed: int) -> Path:
    return root / variant.study / variant.name / f"seed_{seed}"


def typed_for_training(overrides: Iterable[str]) -> list[str]:
    """Those of the typed overrides that every training run gets."""
    return [text for text in overrides if text.lstrip("+~").split("=")[0].split(".")[0] not in OWN_KEYS]


def as_overrides(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A mapping as overrides: {"a": {"b": [0]}} → ["a.b=[0]"]."""
    result = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            result += as_overrides(value, f"{prefix}{key}.")
        else:
            result.append(f"{prefix}{key}={'null' if value is None else value}")
    return result
