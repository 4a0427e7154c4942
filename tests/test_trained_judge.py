"""A recogniser that trained an adapter, or through which it sees people, is no judge of it."""

import shlex
import shutil
from pathlib import Path

import pytest
from drawn_evaluation import DrawingSampler, DrawnEngine, loader, run, write_checkpoint

from idanim.config import Run, restore
from idanim.evaluation import evaluate
from idanim.toyworld.shipped import shipped
from idanim.trained_judge import UsedRecogniser, partial_judgements, used_recognisers
from idanim.training_run import evaluation_command
from idanim.types import IdanimError

RECOGNISER = Path(shipped("faces/recogniser_a.onnx"))
FROM_SCRATCH = {"adapter": {"init": None, "init_attention": None}}


@pytest.mark.parametrize(
    ("choices", "part"),
    [
        ({"identity_loss": "arcface"}, "trained it"),
        ({"encoder": "arcface", "adapter": "face_id"}, "sees people through"),
        ({"encoder": "clip_arcface"}, "sees people through"),
        ({}, None),
    ],
)
def test_the_configuration_tells(tmp_path, choices, part):
    config = restore("train", {"choices": {"backbone": "toy", **choices}, "values": FROM_SCRATCH})
    found = used_recognisers(write_checkpoint(tmp_path / "a.safetensors"), config)
    assert [recogniser.file for recogniser in found] == ([RECOGNISER.name] if part else [])
    assert all(part in recogniser.part for recogniser in found)


def test_what_leads_the_sampling_has_a_part(tmp_path):
    config = restore("train", {"choices": {"backbone": "toy"}, "values": FROM_SCRATCH})
    ckpt = write_checkpoint(tmp_path / "a.safetensors")
    (found,) = used_recognisers(ckpt, config, guides=True)
    assert found.is_in(RECOGNISER)
    assert "leads its videos" in found.part
    assert used_recognisers(ckpt, config) == []


def test_what_trained_the_start_had_a_part(tmp_path):
    """Of ours as its file says, of theirs' start as far as files are there, and the toy world's own adapter."""
    stored = {"choices": {"backbone": "toy", "identity_loss": "arcface"}, **FROM_SCRATCH}
    first = write_checkpoint(tmp_path / "first.safetensors", **stored)
    second = write_checkpoint(tmp_path / "second.safetensors", adapter={"init": str(first)})
    plain = write_checkpoint(tmp_path / "plain.safetensors", **FROM_SCRATCH)
    for start, part in (
        (first, r"trained it (identity_loss), from which training started (adapter.init)"),
        (second, r"trained it (identity_loss), from which training started (adapter.init)"),
        (shipped("adapter.safetensors"), "trained it (the toy world's adapter), from which training started"),
        (plain, None),
        (tmp_path / "gone.safetensors", None),
        (tmp_path / "third.safetensors", None),  # itself
    ):
        values = {"adapter": {"init": str(start), "init_attention": None}}
        config = restore("train", {"choices": {"backbone": "toy"}, "values": values})
        third = write_checkpoint(tmp_path / "third.safetensors", **values)
        found = used_recognisers(third, config)
        assert [recogniser.file for recogniser in found] == ([RECOGNISER.name] if part else []), start
        assert all(recogniser.part.startswith(part) for recogniser in found)
    (shown,) = used_recognisers(Path(shipped("adapter.safetensors")), config)
    assert shown.file == RECOGNISER.name
    other = restore("train", {"choices": {"backbone": "public"}, "values": FROM_SCRATCH})
    (shown,) = used_recognisers(Path(shipped("adapter.safetensors")), other)  # run with another backbone
    assert shown.file == RECOGNISER.name


def test_a_start_that_cannot_be_read_does_not_say_and_stops_nothing(tmp_path, caplog):
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    write_checkpoint(tmp_path / "older.safetensors", choices={"reference": "no_more"})
    write_checkpoint(tmp_path / "odd.safetensors", adapter=3, identity_loss={"loss": "x"})
    for name, said in (("damaged", True), ("older", True), ("odd", False)):
        caplog.clear()
        values = {"adapter": {"init": str(tmp_path / f"{name}.safetensors"), "init_attention": None}}
        config = restore("train", {"choices": {"backbone": "toy"}, "values": values})
        assert used_recognisers(write_checkpoint(tmp_path / "third.safetensors", **values), config) == []
        assert (f"{name}.safetensors" in caplog.text or "no_more" in caplog.text) == said


def test_the_same_file_is_known_by_content_and_by_name(tmp_path):
    copy = shutil.copy(RECOGNISER, tmp_path / "renamed.onnx")
    config = restore("train", {"choices": {"backbone": "toy", "identity_loss": "arcface"}, "values": {}})
    used = used_recognisers(write_checkpoint(tmp_path / "a.safetensors"), config)[0]
    assert used.is_in(Path(copy))
    assert used.is_in(Path("elsewhere/recogniser_a.safetensors"))
    assert not used.is_in(Path(shipped("faces/recogniser_b.safetensors")))
    assert not UsedRecogniser("w600k_r50.onnx", "x", None).is_in(Path("glintr100.onnx"))


def test_an_engine_that_names_no_file_is_let_through():
    assert partial_judgements(DrawnEngine(), {"adapter": [UsedRecogniser("a.onnx", "trained it", None)]}) == []


class Judge(DrawnEngine):
    recogniser_file = RECOGNISER


def test_it_is_told_once():
    trained, leads = (UsedRecogniser(RECOGNISER.name, part, None) for part in ("trained it", "leads its videos"))
    used = {"a": [trained, leads], "b": [trained, leads, trained], "c": [leads], "d": []}
    assert partial_judgements(Judge(), used) == [
        "drawn/1 judges a, b by recogniser_a.onnx, which trained it and leads its videos",
        "drawn/1 judges c by recogniser_a.onnx, which leads its videos",
    ]


def test_such_a_judge_is_refused_unless_asked_for(tmp_path, shards, capsys):
    trained = {"choices": {"identity_loss": "arcface"}, "data": {"shards": str(shards)}}
    ckpt = write_checkpoint(tmp_path / "a.safetensors", **trained, identity_loss=_loss())
    job = run(tmp_path / "out", ckpt=str(ckpt), prompts=["a hat"], num_identities=1)
    job.config["faces"] = {"_target_": "test_trained_judge.Judge"}
    with pytest.raises(
        IdanimError, match=r"judges adapter by recogniser_a\.onnx, which trained it.*allow_trained_judge"
    ):
        evaluate(job, loader(DrawingSampler()))
    job.config["allow_trained_judge"] = True
    result = evaluate(job, loader(DrawingSampler()))
    assert len(result["trained_judge"]) == 1
    assert "no impartial one" in capsys.readouterr().out
    assert "no impartial one" in (tmp_path / "out" / "report.html").read_text()
    # The videos themselves know.
    later = run(tmp_path / "later", videos=str(tmp_path / "out" / "videos"), data={"shards": str(shards)})
    later.config["faces"] = {"_target_": "test_trained_judge.Judge"}
    with pytest.raises(IdanimError, match="its figures would flatter"):
        evaluate(later, None)


def _loss():
    return {"loss": {"recogniser": {"path": str(RECOGNISER)}}}


def test_train_prints_a_command_with_the_faces_of_its_training(tmp_path):
    ckpt = write_checkpoint(tmp_path / "my run" / "adapter.safetensors")
    choices = {"backbone": "toy", "faces": "insightface", "logger": "csv"}
    faces = {"pack": "mine", "det_size": 320}
    config = restore("train", {"choices": choices, "values": {"faces": faces, **FROM_SCRATCH}})
    command = evaluation_command(Run(config, tmp_path, choices, "abc"), ckpt)
    assert shlex.split(command) == [
        *("python", "evaluate.py", f"ckpt={ckpt}", "faces=insightface", "faces.pack=mine", "faces.det_size=320"),
        "logger=csv",
    ]
    choices |= {"faces": "toy", "logger": "wandb", "identity_loss": "arcface"}
    config = restore("train", {"choices": choices, "values": {}})
    command = evaluation_command(Run(config, tmp_path, choices, "abc"), ckpt)
    assert command.endswith("faces=toy   # judge by another recogniser than recogniser_a.onnx, which took part")
