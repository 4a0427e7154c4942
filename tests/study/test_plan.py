from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from idanim.config import CONF_DIR, Run, compose
from idanim.study.__main__ import _check
from idanim.study.plan import (
    BASELINE,
    Variant,
    _variant,
    as_overrides,
    chosen_variants,
    plan,
    read_variants,
    study_names,
    typed_for_training,
)
from idanim.study.work import training_run
from idanim.types import IdanimError


def test_paper_comes_first_and_all_are_the_toys() -> None:
    names = study_names("all")
    assert names[0] == "random_ref"
    assert "paper" not in names  # the experiment on public weights
    assert {"first_frame", "scale_sweep", "query_sweep", "best"} <= set(names)


@pytest.mark.parametrize("given", ["nothing", ["random_ref", "nothing"], []])
def test_an_unknown_study_is_refused(given) -> None:
    with pytest.raises(IdanimError, match=r"no study .*There is all, or any of best, "):
        study_names(given)


EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS if name != "encoder"]


@pytest.mark.parametrize("name", ["encoder", *SLOW])
def test_every_variant_of_every_experiment_composes_and_differs_from_the_paper(name: str, tmp_path: Path) -> None:
    cells = plan(read_variants(name), [0], [], [], tmp_path)
    assert cells[0].variant.name == BASELINE
    paper = training_run(cells[0].training).config
    for cell in cells[1:]:
        config = training_run(cell.training).config
        if cell.variant.of is None:
            changed = {k for k in config if config[k] != paper[k]} - {"output"}
            assert changed, cell.name
            assert changed.isdisjoint({"seed", "trainer", "every_n_steps"})
        compose("evaluate", [*cell.arguments, "ckpt=x", "output=y"])


def test_without_a_study_section_the_experiment_is_the_only_variant() -> None:
    assert read_variants("first_frame")[1:] == [Variant("first_frame", "first_frame")]


def test_adapters_are_trained_once_and_evaluated_in_several_ways(tmp_path: Path) -> None:
    cells = plan(read_variants("scale_sweep"), [0, 1], ["trainer.max_steps=3"], ["num_identities=2"], tmp_path)
    folders = {cell.training.folder for cell in cells}
    assert folders == {tmp_path / "random_ref" / "paper" / f"seed_{seed}" for seed in (0, 1)}
    assert len({cell.folder for cell in cells}) == len(cells)
    scaled = next(cell for cell in cells if cell.variant.name == "scale_2")
    assert scaled.arguments == ("num_identities=2", "scale=2")
    assert scaled.training.arguments == ("experiment=random_ref", "trainer.max_steps=3", "seed=0")


def test_runs_have_the_size_of_studies_and_none_of_their_keys(tmp_path: Path) -> None:
    (cell, *_) = plan(
        read_variants("random_ref"), [5], ["trainer.max_steps=7", "trainer.precision=64-true"], [], tmp_path
    )
    run = training_run(cell.training)
    assert (run.config["seed"], run.config["trainer"]["max_steps"]) == (5, 7)
    assert run.config["every_n_steps"]["preview"] is None
    assert run.config["output"] == str(run.output) == str(cell.folder)
    assert not {"studies", "jobs", "evaluation"} & run.config.keys()


def test_own_keys_are_not_passed_on() -> None:
    typed = ["studies=all", "trainer=gpu", "+trainer.fast_dev_run=true", "evaluation.seeds=[1]", "jobs=3", "seeds=[1]"]
    assert typed_for_training(typed) == ["trainer=gpu", "+trainer.fast_dev_run=true"]


def test_mappings_as_overrides() -> None:
    assert as_overrides({"a": {"b": [0], "c": None}, "d": "x"}) == ["a.b=[0]", "a.c=null", "d=x"]


def test_a_variant_may_be_compared_with_another_than_the_papers() -> None:
    variants = {variant.name: variant for variant in read_variants("null_text_sweep")}
    assert variants["null_0_guidance_7"].against == "paper_guidance_7"
    assert variants["null_0"].against == BASELINE


@pytest.mark.parametrize("value", ["reference=first_frame", {"trains": []}, {"of": "paper", "train": ["a=1"]}])
def test_a_variant_written_in_another_way_is_refused(value: object) -> None:
    with pytest.raises(IdanimError, match="study s: v is"):
        _variant("s", "v", value)


def test_some_variants_come_with_those_that_they_refer_to() -> None:
    variants = read_variants("null_text_sweep")
    chosen = chosen_variants(variants, ["null_0_guidance_7"])
    assert [variant.name for variant in chosen] == ["paper", "null_0", "paper_guidance_7", "null_0_guidance_7"]
    assert chosen_variants(variants, None) == variants
    with pytest.raises(IdanimError, match="variants=null_2: there is paper, null_0"):
        chosen_variants(variants, ["null_2"])
    assert chosen_variants(variants, "null_1") == chosen_variants(variants, ["null_1"])
    chain = [Variant("s", BASELINE), Variant("s", "a"), Variant("s", "b", of="a"), Variant("s", "c", against="b")]
    assert chosen_variants(chain, ["c"]) == chain


def test_an_adapter_that_nobody_trains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"a": {"of": "paper"}, "b": {"of": "a"}}
    monkeypatch.setattr("idanim.study.plan._composed", lambda name: Run({"study": described}, Path(), {}, "sha"))
    with pytest.raises(IdanimError, match="study s: b is of a, which trains no adapter of its own"):
        read_variants("s")


@pytest.mark.parametrize("changes", [{"seeds": 3}, {"seeds": []}, {"seeds": [1, 1]}, {"jobs": 0}, {"jobs": "two"}])
def test_wrong_numbers_of_seeds_and_jobs_are_told(changes: dict[str, Any]) -> None:
    with pytest.raises(IdanimError, match=f"{next(iter(changes))}=.*: expected a"):
        _check({"jobs": 1, "seeds": [0]} | changes)
