from __future__ import annotations

import json
from pathlib import Path

import pytest

from idanim.jobs import Job, read_comparison
from idanim.metrics.intervals import Interval
from idanim.types import IdanimError
from idanim.variants import compare_variants, difference_table, figure_table, group_by_seed, write_variants

PEOPLE = ("ann", "bob", "cyd")


def job(recipe: str, seed: int, lift: float) -> Job:
    similarity = {name: 0.1 * i + 0.01 * seed + lift for i, name in enumerate(PEOPLE)}
    metrics = {"id_token_share": Interval(0.2 + lift, None, None, 1)}
    overrides = {"variant": recipe, "seed": str(seed), "output": "x"}
    return Job(f"{recipe}/{seed}", overrides, metrics, {}, {"face_similarity": similarity, "motion": {}})


JOBS = [job(recipe, seed, lift) for recipe, lift in (("new", 0.05), ("paper", 0.0)) for seed in (0, 1)]


def test_jobs_of_one_recipe_are_one_row_and_the_baseline_comes_first() -> None:
    variants = compare_variants(group_by_seed(JOBS, "seed"), "paper")
    assert [(v.name, v.num_seeds) for v in variants] == [("paper", 2), ("new", 2)]
    assert variants[0].figures["face_similarity"].mean == pytest.approx(0.105)
    assert variants[1].differences["face_similarity"].mean == pytest.approx(0.05)
    assert variants[1].figures["id_token_share"].mean == pytest.approx(0.25)
    assert figure_table(variants).header == ["recipe", "seeds", "people", "face_similarity", "id_token_share"]
    (row,) = difference_table(variants).rows
    assert row[0] == "new − paper"
    assert row[1].startswith("+0.05 [0.05, 0.05], p 0.25")


def test_a_recipe_may_be_compared_with_another() -> None:
    jobs = [*JOBS, job("newer", 0, 0.15)]
    variants = compare_variants(group_by_seed(jobs, "seed"), "paper", {"newer": "new"})
    assert variants[-1].minus == "new"
    assert variants[-1].differences["face_similarity"].mean == pytest.approx(0.1)
    assert difference_table(variants).rows[-1][0] == "newer − new"


def test_several_keys_name_a_recipe() -> None:
    jobs = [Job(str(i), {"a": a, "b": b, "seed": "0"}, {}) for i, (a, b) in enumerate([("1", "x"), ("2", "y")])]
    assert list(group_by_seed(jobs, "seed")) == ["a=1, b=x", "a=2, b=y"]


def test_what_does_not_compare_is_told() -> None:
    with pytest.raises(IdanimError, match="expected one of new, paper"):
        compare_variants(group_by_seed(JOBS, "seed"), "nothing")
    with pytest.raises(IdanimError, match="are both all, seed=0"):
        group_by_seed([Job(j.name, {"seed": j.overrides["seed"]}, {}) for j in JOBS], "seed")
    with pytest.raises(IdanimError, match=r"has seed=.*nothing.*, expected a whole number"):
        group_by_seed([Job("x", {}, {})], "seed")


def test_files(tmp_path: Path) -> None:
    variants = compare_variants(group_by_seed(JOBS, "seed"), "paper")
    write_variants(tmp_path, "A <study>", variants, ["left out: x"])
    assert json.loads((tmp_path / "variants.json").read_text())["variants"][1]["name"] == "new"
    page = (tmp_path / "variants.html").read_text()
    assert "A &lt;study&gt;" in page
    assert "new − paper" in page
    assert (tmp_path / "variants.png").stat().st_size > 5000


def test_an_evaluation_alone_is_a_job_and_knows_its_people(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "job"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- variant=paper\n- seed=0\n")
    rows = [
        {"system": system, "identity": name, "num_videos": 2, "face_similarity": value}
        for system, value in (("adapter", 0.4), ("other", 0.0))
        for name in ("ann", "bob")
    ]
    ends = {"real_pair_similarity": 0.7, "different_person_similarity": 0.1}
    summary = {name: {"mean": mean, "low": None, "high": None, "n": 2} for name, mean in ends.items()}
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps({"summary": summary, "identities": rows}))
    (found,) = read_comparison(tmp_path / "sweep").jobs
    assert found.identities["face_similarity"] == {"ann": 0.4, "bob": 0.4}
    assert found.identities["normalised_similarity"]["ann"] == pytest.approx(0.5)
    for damaged in (["ann"], [{"identity": "ann"}], {"ann": 0.4}, [rows[0] | {"face_similarity": "0.4"}]):
        (folder / "evaluation" / "metrics.json").write_text(json.dumps({"summary": summary, "identities": damaged}))
        assert "evaluation/metrics.json: identities" in read_comparison(tmp_path / "sweep").incomplete["job"]
