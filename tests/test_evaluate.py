"""The evaluation program with a sampler that draws and a face engine that knows drawn people."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import wandb
from drawn_evaluation import SAMPLING, VIDEO, DrawingSampler, evaluate_grid, loader, run, write_checkpoint
from drawn_people import draw_face, make_shards
from faulty_server import FaultyServer, serving
from toy_people import TOY_BACKBONE, take_photos, write_official_file

from idanim.config import Run, replace_values, restore
from idanim.evaluation import evaluate
from idanim.evaluation_report import systems_by_sampling
from idanim.generation.settings import SamplingSettings
from idanim.metrics.videos import VideoRecord, read_record
from idanim.types import IdanimError
from idanim.video_encoding import encode_mp4

ENTRY = Path(__file__).parents[1] / "evaluate.py"


@pytest.fixture
def ckpt(tmp_path, shards):
    return write_checkpoint(tmp_path / "adapter.safetensors", data={"shards": str(shards)})


def test_grid_is_generated_scored_and_reported(tmp_path, ckpt, shards, capsys):
    sampler = DrawingSampler()
    values = {"seeds": [0, 1], "num_identities": 2, "num_strangers": 0}
    result = evaluate_grid(tmp_path / "out", ckpt, shards, sampler, **values)
    assert sorted(sampler.asked) == [
        (person, prompt, seed, 4) for person in ("p900", "p901") for prompt in ("a beach", "a hat") for seed in (0, 1)
    ]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    summary = {name: figure["mean"] for name, figure in result["summary"].items()}
    stored_to_own = [own_similarity(person) for person in (900, 901)]
    assert summary["face_similarity"] == pytest.approx(np.mean(stored_to_own), abs=1e-4)
    assert summary["face_similarity"] == summary["detected_face_similarity"] > 0.9
    assert summary["face_detection_rate"] == 1
    assert abs(summary["chance_similarity"]) < 0.6
    assert summary["motion"] > 0
    assert summary["normalised_similarity"] > 0.9
    assert result["real_pairs"] == "same clip"
    assert result["summary"]["face_similarity"]["n"] == 2
    assert len(result["videos"]) == 8
    assert result["face_engine"] == "drawn/1"
    assert result["people_from"] == {"shown": [f"val split of {shards}"], "strangers": []}
    words = "4 steps of ddim, guidance scale 8, 6 frames of 32 × 32 pixels at 8 per second, no identity guidance"
    assert result["sampling"] == {words: ["adapter"]}
    for note in (f"People from: val split of {shards}.", f"adapter: sampled with {words}."):
        assert note in (tmp_path / "out" / "report.md").read_text()
        assert note in (tmp_path / "out" / "report.html").read_text()
    for name in ("grid.png", "report.md"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert "face similarity" in capsys.readouterr().out
    record = read_record(tmp_path / "out" / "videos" / result["videos"][0]["video"])
    assert (record.prompt, record.identity, record.seed, record.system) == ("a hat", "p900", 0, "adapter")
    assert record.made_with["sampling"] == VIDEO | SAMPLING | {"scheduler": "ddim", "free_noise": False}


def test_the_key_in_a_url_of_shards_is_in_no_result(tmp_path, ckpt, shards, capsys, monkeypatch):
    monkeypatch.setenv("IDANIM_CACHE", str(tmp_path / "cache"))
    values = {"seeds": [0], "prompts": ["a hat"], "num_identities": 1, "num_strangers": 1}
    with serving(FaultyServer(shards)) as server:
        names = sorted(path.name for path in shards.glob("*.tar"))
        urls = [f"{server.url.replace('://', '://me:SECRET@')}/{name}?sig=SECRET" for name in names]
        values["data"] = {"shards": urls}
        result = evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler(), **values)
    assert result["people_from"]["shown"] == [f"val split of {[f'{server.url}/{name}?…' for name in names]}"]
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
    assert "SECRET" not in "".join(capsys.readouterr())


def own_similarity(person):
    """Cosine of a person's noiseless vector to the stored one of the first pool face, by hand."""
    base = np.random.default_rng(person).standard_normal(16)
    noisy = base + 0.1 * np.random.default_rng([person, 0]).standard_normal(16)
    return float(base @ noisy / np.linalg.norm(base) / np.linalg.norm(noisy))


def test_an_adapter_file_of_others_is_scored(tmp_path):
    """An official file has no configuration stored: its models are those of the group `backbone`."""
    official = write_official_file(tmp_path / "animator.ckpt")
    take_photos(tmp_path / "photos", ["ada.png", "bob.png"])
    config = restore("evaluate", {"choices": {"logger": "csv", "faces": "toy"}, "values": {}})
    small = {"num_frames": 2, "num_inference_steps": 2}
    values = {"ckpt": str(official), "references": str(tmp_path / "photos"), "prompts": ["a person"], "sampling": small}
    replace_values(config, values)
    with pytest.raises(IdanimError, match=r"does not say which models.*backbone=public"):
        evaluate(Run(config, tmp_path / "out", {}, "abc"))
    replace_values(config, {"backbone": TOY_BACKBONE})
    result = evaluate(Run(config, tmp_path / "out", {}, "abc"))
    assert result["summary"]["face_similarity"]["n"] == 2
    assert result["source"]["backbone"] == TOY_BACKBONE
    with pytest.raises(IdanimError, match=r"give data\.shards=<folder of shards> or references="):
        evaluate(Run(config | {"references": None}, tmp_path / "again", {}, "abc"))


def test_interrupted_run_goes_on_where_it_stopped(tmp_path, ckpt, shards):
    with pytest.raises(KeyboardInterrupt):
        evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler(budget=3))
    second = DrawingSampler()
    resumed = evaluate_grid(tmp_path / "out", ckpt, shards, second)
    assert len(second.asked) == 1
    assert evaluate_grid(tmp_path / "straight", ckpt, shards, DrawingSampler()) == resumed


def test_only_what_changed_is_generated_again(tmp_path, ckpt, shards):
    evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler())
    for values, num_generated in (
        ({}, 0),
        ({"prompts": ["a hat", "a boat"]}, 2),
        ({"sampling": {"num_inference_steps": 9}}, 4),
        ({"scale": 0.5}, 4),
    ):
        sampler = DrawingSampler()
        evaluate_grid(tmp_path / "out", ckpt, shards, sampler, **values)
        assert len(sampler.asked) == num_generated, values
    write_checkpoint(ckpt, weight=1.0)
    sampler = DrawingSampler()
    evaluate_grid(tmp_path / "out", ckpt, shards, sampler)
    assert len(sampler.asked) == 4


def test_baseline_shows_nobody_and_scores_zero(tmp_path, ckpt, shards):
    sampler = DrawingSampler()
    result = evaluate_grid(tmp_path / "out", ckpt, shards, sampler, systems=["adapter", "no_adapter"])
    assert [asked for asked in sampler.asked if not asked[0]] == [("", "a hat", 0, 4), ("", "a beach", 0, 4)]
    assert result["summary"]["no_adapter/face_similarity"]["mean"] == 0
    assert result["summary"]["no_adapter/face_detection_rate"] == {"mean": 0, "low": None, "high": None, "n": 1}
    assert result["summary"]["face_similarity"]["mean"] > 0.9


@pytest.mark.parametrize("systems", [["adapter", "init"], ["init", "adapter"]])
def test_systems_are_compared_in_one_table(tmp_path, ckpt, shards, capsys, systems):
    class Startled(DrawingSampler):
        """What training started from: it shows somebody else."""

        def generate(self, references, *args, **kwargs):
            return super().generate([draw_face(3)], *args, **kwargs)

    trained, initial = DrawingSampler(), Startled()
    samplers = {False: trained, True: initial}
    values = {"ckpt": str(ckpt), "prompts": ["a hat"], "systems": systems, "data": {"shards": str(shards)}}
    result = evaluate(run(tmp_path / "out", **values), lambda *_, initial=False: (samplers[initial], {}))
    summary = {name: figure["mean"] for name, figure in result["summary"].items()}
    assert len(trained.asked) == len(initial.asked) == 2
    assert summary["retrieval_rank1"] == 1
    assert summary["init/retrieval_rank1"] == 0
    assert summary["init/normalised_similarity"] < 0.5 < summary["normalised_similarity"]
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()]
    assert rows[:5] == ["system", "adapter", "init", "ceiling:", "floor:"]


def test_identity_guidance_is_told_of_whom_it_led():
    settings = SamplingSettings(**VIDEO, **SAMPLING, identity_guidance=0.1, identity_guidance_limit=0.6)
    made_with = {"sampling": settings.recorded()}
    led = VideoRecord("a hat", "p900", 0, "adapter", "", made_with)
    others = [replace(led, identity="", system="no_adapter"), replace(led, system="other", made_with={"sampling": 7})]
    guided, plain = systems_by_sampling([led, led, *others]).items()
    assert guided[0].endswith("identity guidance 0.1 up to similarity 0.6")
    assert plain[0].endswith("no identity guidance")
    assert (guided[1], plain[1]) == (["adapter"], ["no_adapter"])


def test_words_that_the_model_does_not_know_are_told_once(tmp_path, ckpt, shards, caplog):
    evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler(), systems=["init", "adapter"], num_identities=1)
    told = [message for message in caplog.messages if "was never taught" in message]
    assert [message.rpartition(": ")[2] for message in told] == ["beach"]


def test_an_unknown_system_is_an_error(tmp_path, ckpt, shards):
    with pytest.raises(IdanimError, match=r"expected some of adapter, no_adapter, init"):
        evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler(), systems=["initial"])


def test_videos_are_scored_without_a_checkpoint(tmp_path, ckpt, shards):
    made = evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler())
    videos = tmp_path / "out" / "videos"
    scored = evaluate(run(tmp_path / "again", videos=str(videos), data={"shards": str(shards)}), load=None)
    assert scored["summary"] == made["summary"]


def test_unreadable_video_counts_as_showing_nobody(tmp_path, ckpt, shards, capsys):
    made = evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler())
    videos = tmp_path / "out" / "videos"
    (videos / made["videos"][0]["video"]).write_bytes(b"\0\0\0\x18ftypmp42")
    scored = evaluate(run(tmp_path / "again", videos=str(videos), data={"shards": str(shards)}), load=None)
    problems = {row["video"]: row["problem"] for row in scored["videos"] if row["problem"]}
    assert list(problems) == [made["videos"][0]["video"]]
    assert scored["summary"]["face_similarity"]["mean"] == pytest.approx(
        made["summary"]["face_similarity"]["mean"] * 3 / 4, abs=0.01
    )
    assert "Unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["grey", "someone_else", "frozen"])
def test_worse_videos_score_worse(tmp_path, ckpt, shards, change):
    """A video is replaced by a worse one, and the figure that should notice falls."""
    made = evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler())
    videos = tmp_path / "out" / "videos"
    worse = {"grey": np.full((32, 32, 3), 128, np.uint8), "someone_else": draw_face(3), "frozen": draw_face(900)}
    path = videos / made["videos"][0]["video"]
    path.write_bytes(encode_mp4(np.stack([worse[change]] * 6), 8.0))
    scored = evaluate(run(tmp_path / "again", videos=str(videos), data={"shards": str(shards)}), load=None)
    metric = "motion" if change == "frozen" else "face_similarity"
    before, after = ({row["video"]: row[metric] for row in result["videos"]} for result in (made, scored))
    changed = made["videos"][0]["video"]
    assert after[changed] < 0.7 * before[changed]
    assert scored["summary"][metric]["mean"] < made["summary"][metric]["mean"]


def test_real_pairs_are_of_other_clips_in_training_shards(tmp_path, ckpt):
    shards = make_shards(tmp_path / "shards", persons=3, val=0)
    result = evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler(), num_identities=2, num_strangers=0)
    assert result["real_pairs"] == "other clips"
    assert [row["identity"] for row in result["identities"]] == ["p000", "p001"]
    assert result["people_from"] == {"shown": [f"train split of {shards}"], "strangers": []}
    assert "may have been trained on" in (tmp_path / "out" / "report.md").read_text()
    assert result["summary"]["real_pair_similarity"]["mean"] < result["summary"]["face_similarity"]["mean"]


def test_strangers_of_the_training_split_give_floor_and_chance(tmp_path, ckpt):
    shards = make_shards(tmp_path / "shards", persons=3, val=1)
    sampler = DrawingSampler()
    result = evaluate_grid(tmp_path / "out", ckpt, shards, sampler, systems=["adapter", "no_adapter"], num_identities=3)
    assert {asked[0] for asked in sampler.asked} == {"p900", ""}
    assert [(row["system"], row["identity"]) for row in result["identities"]] == [
        ("adapter", "p900"),
        ("no_adapter", "p900"),
    ]
    assert result["people_from"] == {"shown": [f"val split of {shards}"], "strangers": [f"train split of {shards}"]}
    assert result["summary"]["chance_similarity"]["n"] == 1
    assert result["summary"]["different_person_similarity"]["n"] == 4
    assert result["summary"]["normalised_similarity"]["mean"] > 0.9
    videos = str(tmp_path / "out" / "videos")
    values = {
        "videos": videos,
        "data": {"shards": str(shards)},
    }
    assert evaluate(run(tmp_path / "again", **values), load=None)["summary"] == result["summary"]


def test_another_engine_embeds_the_crops_and_has_no_ceiling(tmp_path, ckpt, shards, capsys):
    values = {"ckpt": str(ckpt), "prompts": ["a hat"]}
    result = evaluate(run(tmp_path / "out", engine="drawn/2", **values), loader(DrawingSampler()))
    assert result["summary"]["face_similarity"]["mean"] == pytest.approx(1, abs=1e-5)
    assert result["summary"]["real_pair_similarity"]["n"] == 0
    assert result["summary"]["normalised_similarity"]["mean"] is None
    assert "no ceiling" in capsys.readouterr().out


def test_untrained_backbone_is_said_to_show_no_face(tmp_path, ckpt, shards, capsys):
    class Grey(DrawingSampler):
        def generate(self, references, *args, **kwargs):
            return super().generate([], *args, **kwargs)

    result = evaluate_grid(tmp_path / "out", ckpt, shards, Grey())
    assert result["summary"]["face_similarity"]["mean"] == 0
    assert "No face was found in any video" in capsys.readouterr().out


def test_wandb_gets_summary_table_and_videos(tmp_path, ckpt, shards, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    values = {"ckpt": str(ckpt), "prompts": ["a hat"], "num_identities": 1}
    config = restore("evaluate", {"choices": {"logger": "wandb"}, "values": {"output": str(tmp_path), **values}})
    config["faces"] = {"_target_": "drawn_evaluation.DrawnEngine"}
    evaluate(Run(config, tmp_path / "out", {}, "abc"), loader(DrawingSampler()))
    assert wandb.run is None
    media = sorted(p.suffix for p in (tmp_path / "out" / "wandb").rglob("files/media/**/*") if p.is_file())
    assert media == [".json", ".json", ".mp4"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give either ckpt=<file>"),
        ({"ckpt": "a", "videos": "b"}, "give either ckpt=<file>"),
        ({"ckpt": "nowhere.safetensors"}, "there is no such file"),
        ({"ckpt": "{ckpt}", "prompts": "nowhere.txt"}, "there is no such file; shipped"),
        ({"ckpt": "{ckpt}", "data": {"shards": "/nowhere"}}, "no such folder or file"),
        ({"ckpt": "{ckpt}", "data": {"shards": __file__}}, r"data\.shards='.*\.py': not a tar file"),
        ({"ckpt": "{ckpt}", "references": "/nowhere"}, "no such folder"),
        ({"videos": "/nowhere"}, "no such folder"),
        ({"ckpt": "{ckpt}", "scoring": {"clip": "/nowhere"}}, "scoring.clip='/nowhere': no such folder"),
    ],
)
def test_mistakes_are_named(tmp_path, ckpt, shards, values, message):
    values = {key: str(ckpt) if value == "{ckpt}" else value for key, value in values.items()}
    with pytest.raises(IdanimError, match=message):
        evaluate(run(tmp_path / "out", **values), never_loads)
    assert not (tmp_path / "out" / "metrics.json").exists()


def never_loads(*_, **__):
    raise AssertionError("models were loaded")


def test_videos_of_a_person_without_reference_are_named(tmp_path, ckpt, shards):
    evaluate_grid(tmp_path / "out", ckpt, shards, DrawingSampler())
    others = make_shards(tmp_path / "others", persons=2, val=0)
    expected = r"data\.shards=.*: no clip of p900, p901, whom .* people there: p000, p001\. Give .*references="
    with pytest.raises(IdanimError, match=expected):
        evaluate(run(tmp_path / "again", videos=str(tmp_path / "out" / "videos"), data={"shards": str(others)}), None)


def test_program_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = ["faces=insightface", "faces.pack=none", f"faces.root={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "ckpt=a, b.safetensors", *faces])
    with pytest.raises(SystemExit, match=r"'a, b\.safetensors': there is no such file"):
        runpy.run_path(str(ENTRY), run_name="__main__")
    (tmp_path / "a, b.safetensors").touch()
    with pytest.raises(SystemExit, match=r"faces\.pack=none"):
        runpy.run_path(str(ENTRY), run_name="__main__")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "num_identites=3"])
    with pytest.raises(SystemExit, match="did you mean num_identities"):
        runpy.run_path(str(ENTRY), run_name="__main__")
