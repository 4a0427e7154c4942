"""Generation on the toy world: photos and prompts → videos."""

from __future__ import annotations

import copy
import io
import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toy_people import ADAPTER, TOY_BACKBONE, take_photos, write_official_file

from idanim import person_videos
from idanim.assembly import OFFICIAL_SCALE, load_sampler
from idanim.config import Run, build, built_or_plain, replace_values, restore
from idanim.files import sha256
from idanim.generation.output import FORMATS
from idanim.generation.settings import SamplingSettings
from idanim.metrics.videos import read_record
from idanim.models.adapter_file import read_adapter_file
from idanim.models.checkpoint import write_adapter
from idanim.models.face_id import face_id_adapter
from idanim.person_videos import generate_videos
from idanim.recipe import recipe_of
from idanim.toyworld.shipped import shipped
from idanim.types import IdanimError
from idanim.video import read_frames
from idanim.video_encoding import encode_gif

SMALL = {"num_frames": 2, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = take_photos(tmp_path_factory.mktemp("photos"), ["ada__1.png", "bob.png"])
    return [str(path) for path in paths]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official_file(tmp_path_factory.mktemp("official") / "animator.ckpt")


def run(output: Path, **values: Any) -> Run:
    values = {"ckpt": str(ADAPTER), "prompt": "a person", "sampling": SMALL, "backbone": TOY_BACKBONE, **values}
    config = restore("generate", {"choices": {"faces": "toy"}, "values": {}})
    replace_values(config, values)
    return Run(config, output, {"faces": "toy", "backbone": "toy"}, "abc123")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def test_files_and_settings_the_same_for_the_same_seed(tmp_path: Path, photos: list[str]) -> None:
    for name, seed in (("a", 7), ("again", 7), ("other", 8)):
        generate_videos(run(tmp_path / name, references=photos[0], seed=seed, formats=list(FORMATS)))
    (path,) = (tmp_path / "a").rglob("*.mp4")
    assert path.relative_to(tmp_path / "a").parts[0] == "ada"
    frames = read_frames(path)
    assert frames.shape == (2, 32, 32, 3)
    assert frames.std() > 10  # a picture, not one grey
    record = read_record(path)
    assert (record.prompt, record.identity, record.seed) == ("a person", "ada", 7)
    assert record.made_with["scale"] == 1.0
    preset = {"scheduler": "ddim", "free_noise": False}
    expected = TOY_BACKBONE["video"] | TOY_BACKBONE["sampling"] | SMALL | preset
    assert record.made_with["sampling"] == {key: expected[key] for key in expected if key != "identity_guidance"}  # off
    assert {file.suffix for file in path.parent.iterdir()} == {".mp4", ".json", ".gif", ".webp", ""}
    assert list(record.made_with["references"]) == ["ada__1.png"]
    assert contents(tmp_path / "a") == contents(tmp_path / "again")
    (other,) = (tmp_path / "other").rglob("*.mp4")
    assert not np.array_equal(read_frames(other), frames)


def test_every_file_says_that_it_is_generated(tmp_path: Path, photos: list[str]) -> None:
    (path,) = generate_videos(run(tmp_path, references=photos[0], formats=list(FORMATS)))
    with av.open(str(path)) as container:
        statements = [container.metadata["comment"]]
    with Image.open(path.with_suffix(".gif")) as gif, Image.open(path.with_suffix(".webp")) as webp:
        statements += [gif.info["comment"].decode(), webp.getexif()[0x010E]]
    with Image.open(path.with_suffix("") / "0001.png") as png:
        statements.append(png.text["Description"])
    assert len(set(statements)) == 1
    assert statements[0].startswith("AI-generated, not a recording. Made by idanim")
    assert sha256(ADAPTER)[:16] in statements[0]


def test_a_recipe_makes_the_same_bytes_again(tmp_path: Path, photos: list[str]) -> None:
    values = {"references": photos, "mix": [0.25, 0.75], "seed": 3, "scale": 0.5, "reference_size_px": 64}
    prompts = ["a person wearing a red hat", "a person"]
    first, second = generate_videos(run(tmp_path / "a", prompt=prompts, **values))
    bare = restore("generate", {"choices": {"faces": "toy"}, "values": {}})
    for original in (first, second):
        again = Run(bare | {"recipe": str(original.with_suffix(".json"))}, tmp_path / "b", {}, "abc123")
        (copy,) = generate_videos(again)
        assert copy.read_bytes() == original.read_bytes()
        assert copy.with_suffix(".json").read_bytes() == original.with_suffix(".json").read_bytes()
    assert first.read_bytes() != second.read_bytes()


def test_a_recipe_says_the_same_where_shards_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SamplingSettings(**TOY_BACKBONE["video"], **TOY_BACKBONE["sampling"])
    bare = recipe_of(run(tmp_path), settings)
    (tmp_path / bare["values"]["backbone"]["shards"]).mkdir(parents=True)
    assert recipe_of(run(tmp_path), settings) == bare


def test_a_recipe_whose_photo_changed_is_refused(tmp_path: Path, photos: list[str]) -> None:
    photo = tmp_path / "ada.png"
    shutil.copy(photos[0], photo)
    (path,) = generate_videos(run(tmp_path / "a", references=str(photo)))
    recipe = run(tmp_path / "b", recipe=str(path.with_suffix(".json")))
    shutil.copy(photos[1], photo)
    with pytest.raises(IdanimError, match=r"ada\.png is not what it was"):
        generate_videos(recipe)
    photo.unlink()
    with pytest.raises(IdanimError, match=r"ada\.png is missing"):
        generate_videos(recipe)
    (tmp_path / "c.json").write_text(json.dumps({"prompt": "a", "identity": "b"}))
    with pytest.raises(IdanimError, match="no recipe in it"):
        generate_videos(run(tmp_path / "b", recipe=str(tmp_path / "c.json")))


def test_a_recipe_holds_every_file_of_weights(tmp_path: Path, photos: list[str]) -> None:
    faces = Path(shutil.copytree(shipped("faces"), tmp_path / "faces"))
    backbone = build(TOY_BACKBONE["model"])
    face_id_adapter(backbone, 128, num_queries=4, hidden_dim=64).to_file(tmp_path / "faceid.bin", "ip_adapter")
    recogniser = Path(shutil.copy(built_or_plain(TOY_BACKBONE["recogniser"]), tmp_path / "arcface.safetensors"))
    values = {"faces": {"folder": str(faces)}, "ckpt": str(tmp_path / "faceid.bin"), "references": photos[0]}
    own = copy.deepcopy(TOY_BACKBONE) | {"recogniser": str(recogniser)}
    (path,) = generate_videos(run(tmp_path / "a", **values, backbone=own))
    files = read_record(path).made_with["files"]
    detector, engine = faces / "detector.safetensors", faces / "recogniser_b.safetensors"
    assert {str(file) for file in (detector, engine, recogniser)} <= files.keys()
    for file in (detector, engine, recogniser):
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        with pytest.raises(IdanimError, match=rf"{file.name} is not what it was"):
            generate_videos(run(tmp_path / "b", recipe=str(path.with_suffix(".json"))))
        file.write_bytes(content)


def test_photos_of_one_name_are_told_apart(tmp_path: Path, photos: list[str]) -> None:
    same = [tmp_path / folder / "face.png" for folder in ("ada", "bob")]
    for file, photo in zip(same, photos, strict=True):
        file.parent.mkdir()
        shutil.copy(photo, file)
    (path,) = generate_videos(run(tmp_path / "out", references=[*map(str, same), photos[0]]))
    references = read_record(path).made_with["references"]
    assert references == {
        "ada/face.png": sha256(same[0]),
        "bob/face.png": sha256(same[1]),
        "ada__1.png": sha256(same[0]),
    }


def test_a_commit_alone_makes_no_video_again(tmp_path: Path, photos: list[str]) -> None:
    (path,) = generate_videos(run(tmp_path, references=photos[0]))
    before = path.stat().st_mtime_ns
    generate_videos(replace(run(tmp_path, references=photos[0]), git_sha="def456"))
    assert path.stat().st_mtime_ns == before
    assert read_record(path).made_with["git_sha"] == "abc123"  # of the code that made it
    generate_videos(replace(run(tmp_path, references=photos[0], scale=0.5), git_sha="def456"))
    assert path.stat().st_mtime_ns > before


def test_prompt_reference_and_scale_change_the_video(tmp_path: Path, photos: list[str]) -> None:
    prompts = ["a person wearing a red hat", "a person on a beach"]
    videos = generate_videos(run(tmp_path / "one", references=photos[0], prompt=prompts))
    videos += generate_videos(run(tmp_path / "both", references=photos, prompt=prompts[0]))
    videos += generate_videos(run(tmp_path / "scaled", references=photos[0], prompt=prompts[0], scale=0.0))
    assert [read_record(path).prompt for path in videos] == [*prompts, prompts[0], prompts[0]]
    assert read_record(videos[-1]).made_with["scale"] == 0.0
    assert len({read_frames(path).tobytes() for path in videos}) == 4


def test_official_and_own_file_give_the_same_video(tmp_path: Path, photos: list[str], official: Path) -> None:
    stored = {"choices": {"backbone": "toy"}, "values": {"adapter": {"num_queries": 16}}}
    own = tmp_path / "own.safetensors"
    write_adapter(own, read_adapter_file(ADAPTER).state, stored)
    (a,) = generate_videos(run(tmp_path / "a", references=photos[0], ckpt=str(official)))
    (b,) = generate_videos(run(tmp_path / "b", references=photos[0], ckpt=str(own), backbone=None, scale=0.8))
    assert np.array_equal(read_frames(a), read_frames(b))
    assert read_record(a).made_with["scale"] == OFFICIAL_SCALE


def test_without_any_argument_it_is_the_toy_world(tmp_path: Path) -> None:
    config = restore("generate", {"choices": {"faces": "toy"}, "values": {"sampling": SMALL}})
    (path,) = generate_videos(Run(config, tmp_path, {"faces": "toy"}, "abc123"))
    assert path.parent.name == "face"
    assert read_frames(path).shape == (2, 32, 32, 3)


def test_a_given_backbone_takes_the_place_of_the_stored_one(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    state = read_adapter_file(ADAPTER).state
    write_adapter(own, state, {"choices": {"backbone": "toy"}, "values": {}})
    _, config = load_sampler(own, {}, "cpu", backbone=TOY_BACKBONE | {"video": TOY_BACKBONE["video"] | {"fps": 3}})
    assert config["backbone"]["video"]["fps"] == 3
    tiny = restore("train", {"choices": {"backbone": "tiny"}, "values": {}})["backbone"]
    with pytest.raises(IdanimError, match="does not fit"):  # so the encoder went with it, too
        load_sampler(own, {}, "cpu", backbone=tiny)


def test_mistakes_are_named(tmp_path: Path, photos: list[str], official: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.new("RGB", (64, 64), (128, 128, 128)).save(grey)
    face_id = tmp_path / "faceid.bin"
    parts = {"image_proj": {"proj.0.weight": torch.zeros(4, 4)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(2, 2)}}
    torch.save(parts, face_id)
    whole_picture = tmp_path / "ip-adapter_sd15.bin"
    torch.save(parts | {"image_proj": {"proj.weight": torch.zeros(4, 4)}}, whole_picture)
    weights = tmp_path / "style.safetensors"
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 3)}, weights)
    tiny = restore("train", {"choices": {"backbone": "tiny"}, "values": {}})["backbone"]
    for values, words in (
        ({"references": "nobody.jpg"}, "reference='nobody.jpg': there is no such file or folder"),
        ({"references": str(grey)}, "finds no face in grey.png"),
        ({"references": []}, "reference= is empty"),
        ({"ckpt": "nowhere.ckpt"}, "ckpt='nowhere.ckpt': there is no such file"),
        ({"ckpt": str(official), "backbone": None}, "does not say which models.*backbone=public"),
        ({"ckpt": str(official), "backbone": tiny}, "takes face features of width"),
        ({"ckpt": str(face_id)}, "takes face features of width 4, but the encoders of this backbone give 128"),
        ({"ckpt": str(whole_picture)}, "has an image projection.*no face adapter"),
        ({"ckpt": str(weights)}, "this is a LoRA, expected a face adapter"),
    ):
        with pytest.raises(IdanimError, match=words):
            generate_videos(run(tmp_path / "out", **{"references": photos[0], **values}))
    assert not (tmp_path / "out").exists()


def test_no_model_is_loaded_for_a_bad_input(tmp_path: Path, photos: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("models were loaded")

    monkeypatch.setattr(person_videos, "Generator", never)
    Image.new("RGB", (64, 64)).save(tmp_path / "grey.png")
    for name in ("words.png", "words.mp4"):
        (tmp_path / name).write_text("no picture")
    control = {"model": {"_target_": "none"}, "images": "gone.png", "frames": [0], "scale": 1.0, "context": "text"}
    for values, words in (
        ({"references": "nobody.jpg"}, "there is no such file"),
        ({"references": str(tmp_path / "grey.png")}, "finds no face in grey.png; .*faces=insightface"),
        (
            {"references": str(tmp_path / "words.png")},
            "reference=.*words.png: not a readable picture: none of the formats",
        ),
        ({"references": str(tmp_path / "words.mp4")}, "reference=.*words.mp4: not a video file"),
        ({"control": control | {"images": str(tmp_path / "words.png")}}, "control.images=.*words.png: not a readable"),
        ({"recipe": str(tmp_path / "words.png")}, "recipe='.*words.png': expected the .json beside a video"),
        ({"people": [*photos, "nobody.jpg"]}, "there is no such file"),
        ({"face_index": 3}, "face_index=3: ada__1.png shows 1 faces"),
        ({"ckpt": "nowhere.ckpt"}, "there is no such file"),
        ({"control": control}, r"control\.images='gone\.png': there is no such file"),
    ):
        with pytest.raises(IdanimError, match=words):
            generate_videos(run(tmp_path / "out", **{"references": photos[0], **values}))
    with pytest.raises(AssertionError, match="models were loaded"):  # what is right goes on to the models
        generate_videos(run(tmp_path / "out", references=photos[0]))


def test_the_toy_world_says_whom_it_knows(tmp_path: Path, photos: list[str], caplog: pytest.LogCaptureFixture) -> None:
    generate_videos(run(tmp_path / "a", references=photos[0], prompt=["a person", "a hat"]))
    assert caplog.text.count("which know only its own drawn people") == 1
    caplog.clear()
    generate_videos(run(tmp_path / "b", references=shipped("face.png")))
    assert "drawn people" not in caplog.text


def test_gif_has_all_frames_at_the_pace_of_the_video() -> None:
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1:, :, :, 0] = np.array([100, 200], np.uint8)[:, None, None]
    with Image.open(io.BytesIO(encode_gif(frames, 9))) as gif:
        assert gif.n_frames == 3
        for index, red in enumerate((0, 100, 200)):
            gif.seek(index)
            assert gif.info["duration"] == 110
            assert abs(int(np.asarray(gif.convert("RGB"))[0, 0, 0]) - red) <= 2


def test_the_program(
    tmp_path: Path,
    photos: list[str],
    official: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    small = [f"sampling.{key}={value}" for key, value in SMALL.items()]
    inputs = [f"ckpt={official}", f"reference={photos[0]}", "prompt=a man, smiling", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["generate", "backbone=toy", "faces=toy", "device=cpu", *small, *inputs])
    runpy.run_module("idanim.generate", run_name="__main__")
    (record,) = tmp_path.glob("ada/*.json")
    assert json.loads(record.read_text())["prompt"] == "a man, smiling"
    printed = capfd.readouterr()
    assert str(record.with_suffix(".mp4")) in printed.out
    assert "2/2" in printed.err
