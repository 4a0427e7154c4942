import csv
import json
import sys

import numpy as np
import pytest
from browser import complaints, open_page, start_browser
from PIL import Image

from idanim.compare import comparison_table, main, read_comparison, write_comparison
from idanim.types import IdanimError


def job(folder, overrides, summary, evaluation=None):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {line}\n" for line in overrides))
    if summary is not None:
        (folder / "metrics.json").write_text(json.dumps({"summary": summary}))
    if evaluation is not None:
        (folder / "evaluation" / ".hydra").mkdir(parents=True)
        (folder / "evaluation" / "metrics.json").write_text(json.dumps({"summary": evaluation}))


def figure(mean, low=None, high=None, n=4):
    return {"mean": mean, "low": low, "high": high, "n": n}


@pytest.fixture
def sweep(tmp_path):
    """Four complete jobs, one in a nested folder, and four that are not."""
    folder = tmp_path / "my sweep"
    job(folder / "s=0.5,r=random", ["adapter.scale=0.5", "reference=random", "seed=0"], {"loss": 0.5})
    job(
        folder / "s=1.0,r=random",
        ["adapter.scale=1.0", "reference=random", "seed=0"],
        {"loss": 0.4, "face_similarity": figure(0.25, 0.1, 0.4), "motion": figure(None, n=0)},
        evaluation={"face_similarity": figure(0.3, 0.2, 0.4)},
    )
    job(folder / "ckpt=a" / "b", ["adapter.scale=1.0", "reference=first_frame", "seed=0"], {"loss": 0.3})
    job(folder / "default", ["reference=random", "seed=0"], {"loss": 0.6})
    job(folder / "dead", ["adapter.scale=2.0"], None)
    job(folder / "torn", ["adapter.scale=3.0"], {})
    (folder / "torn" / "metrics.json").write_text('{"summary": {"lo')
    job(folder / "nan", ["adapter.scale=4.0"], {"loss": float("nan")})
    (folder / "empty").mkdir()
    (folder / ".cache").mkdir()
    return folder


def test_jobs_are_found_with_what_varies(sweep):
    comparison = read_comparison(sweep)
    assert [j.name for j in comparison.jobs] == ["ckpt=a/b", "default", "s=0.5,r=random", "s=1.0,r=random"]
    assert comparison.varied == ["adapter.scale", "reference"]
    assert comparison.metrics == ["loss", "face_similarity", "motion", "eval/face_similarity"]


def test_incomplete_jobs_are_listed_with_what_is_missing(sweep):
    incomplete = read_comparison(sweep).incomplete
    assert sorted(incomplete) == ["dead", "empty", "nan", "torn"]
    assert incomplete["dead"] == "no metrics.json (the job did not finish)"
    assert "overrides.yaml and no metrics.json" in incomplete["empty"]
    assert "metrics.json can't be read" in incomplete["torn"]
    assert "loss is nan, expected a finite number" in incomplete["nan"]


def test_table_has_a_row_a_job(sweep):
    lines = comparison_table(read_comparison(sweep)).text().splitlines()
    assert lines[0].split() == ["adapter.scale", "reference", *read_comparison(sweep).metrics]
    assert lines[5].split() == ["1.0", "random", "0.4", "0.25", "[0.1,", "0.4]", "–", "0.3", "[0.2,", "0.4]"]
    assert lines[3].split()[:2] == ["(default)", "random"]


def test_program_prints_and_writes(sweep, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare", str(sweep)])
    main()
    printed = capsys.readouterr().out
    assert "adapter.scale" in printed
    assert "left out: dead: no metrics.json" in printed
    with (sweep / "comparison.csv").open(newline="") as stream:
        rows = {row["job"]: row for row in csv.DictReader(stream)}
    assert rows["s=1.0,r=random"]["eval/face_similarity_high"] == "0.4"
    assert rows["default"]["face_similarity"] == ""
    content = json.loads((sweep / "comparison.json").read_text())
    assert content["jobs"][3]["metrics"]["face_similarity"] == figure(0.25, 0.1, 0.4)
    assert set(content["incomplete"]) == {"dead", "empty", "nan", "torn"}
    assert np.array(Image.open(sweep / "comparison.png")).std() > 5
    page = (sweep / "comparison.html").read_text()
    assert "<td>0.3 [0.2, 0.4]</td>" in page
    assert "left out: dead: no metrics.json" in page
    assert [p.name for p in tmp_path.iterdir()] == ["my sweep"]


def test_compared_folder_can_be_compared_again(sweep, monkeypatch):
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["compare", f"input={sweep}"])
        main()
    assert len(read_comparison(sweep).jobs) == 4


def test_one_job_alone_goes_by_its_name(tmp_path):
    job(tmp_path / "only", ["seed=0"], {"loss": 1.0})
    assert comparison_table(read_comparison(tmp_path)).text().splitlines()[-1].split() == ["only", "1"]


def test_nothing_to_compare_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(IdanimError, match="no folder below it holds a job"):
        read_comparison(tmp_path)
    job(tmp_path / "sweep" / "dead", [], None)
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "sweep")])
    with pytest.raises(SystemExit, match="none of the 1 jobs is complete"):
        main()
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "typo")])
    with pytest.raises(SystemExit, match="there is no such folder"):
        main()
    assert not (tmp_path / "typo").exists()


def test_page_opens_and_sorts_in_a_browser(sweep):
    write_comparison(sweep, read_comparison(sweep))
    browser = start_browser()
    try:
        open_page(browser, sweep / "comparison.html")
        for _ in range(2):
            browser.find_element("xpath", "//th[starts-with(., 'loss')]").click()
        losses = [row.text.split()[2] for row in browser.find_elements("css selector", "#jobs tbody tr")]
        assert losses == ["0.3", "0.4", "0.5", "0.6"]
        assert browser.execute_script("return document.images[0].naturalWidth") > 100
        assert complaints(browser) == []
    finally:
        browser.quit()


def test_scores_of_different_face_engines_are_refused(tmp_path, monkeypatch):
    for name, engine in (("a", "insightface/buffalo_l"), ("b", "opencv/yunet+sface"), ("c", None)):
        job(tmp_path / name, [f"x={name}"], {"loss": 1.0}, evaluation={"face_similarity": figure(0.3)})
        content = {"summary": {"face_similarity": figure(0.3)}} | ({"face_engine": engine} if engine else {})
        (tmp_path / name / "evaluation" / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(IdanimError, match=r"insightface/buffalo_l: a; opencv/yunet\+sface: b\. Score the videos again"):
        read_comparison(tmp_path)
    (tmp_path / "b" / "evaluation" / "metrics.json").unlink()
    comparison = read_comparison(tmp_path)
    assert [j.models for j in comparison.jobs] == [{"face_engine": "insightface/buffalo_l"}, {}, {}]
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    main()


def test_a_judge_that_had_a_part_is_told(tmp_path, monkeypatch, capsys):
    for name, judged in (("a", []), ("b", ["toy/a judges adapter by a.onnx, which trained it"])):
        job(tmp_path / name, [f"x={name}"], {"loss": 1.0}, evaluation={"face_similarity": figure(0.3)})
        content = {"summary": {"face_similarity": figure(0.3)}, "trained_judge": judged}
        (tmp_path / name / "evaluation" / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path)])
    main()
    told = "b: the judge is no impartial one, its figures flatter: toy/a judges adapter by a.onnx, which trained it"
    assert capsys.readouterr().out.count(told) == 1
    assert told in (tmp_path / "comparison.html").read_text()


def test_jobs_that_differ_in_their_seed_alone_become_one_row(tmp_path, monkeypatch, capsys):
    for recipe, lift in (("a", 0.0), ("b", 0.2)):
        for seed in (0, 1):
            folder = tmp_path / f"{recipe}{seed}"
            job(folder, [f"x={recipe}", f"seed={seed}"], {"loss": 1.0}, evaluation={"face_similarity": figure(0.3)})
            people = [("ann", 0.1), ("bob", 0.3)]
            rows = [{"system": "adapter", "identity": name, "face_similarity": value + lift} for name, value in people]
            content = {"summary": {"face_similarity": figure(0.3)}, "identities": rows}
            (folder / "evaluation" / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path), "over=seed", "baseline=a"])
    main()
    shown = capsys.readouterr().out
    assert "b − a" in shown
    assert "+0.2 [0.2, 0.2], p 0.5" in shown
    assert {"variants.html", "variants.json", "variants.png"} <= {path.name for path in tmp_path.iterdir()}
