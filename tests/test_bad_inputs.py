"""What users get wrong: the command and the page say the same clear words, and neither makes a video of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_people import take_photos

from idanim import person_videos
from idanim.config import Run, compose
from idanim.faces.engine import FaceEngine
from idanim.generator import ALIASES, Generator
from idanim.metrics.videos import read_record
from idanim.models.tiny import tiny_sparse_control
from idanim.person_videos import generate_videos
from idanim.toyworld.faces import ToyFaceEngine
from idanim.types import Face, IdanimError
from idanim.web.form import MIX, ONE, Form, Limits
from idanim.web.studio import Studio

SMALL = ("sampling.num_frames=2", "sampling.num_inference_steps=2", "device=cpu", "prompt=a person")
LIMITS = Limits(queue=2, upload_mb=20, num_files=8, num_videos=4, num_frames=64, side_px=64, num_steps=20, idle_s=3600)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(compose("generate", SMALL, ALIASES), LIMITS, tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def generator(studio: Studio) -> Generator:
    return studio.generator


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    ada, bob = take_photos(folder, ["ada.png", "bob.png"])
    (folder / "words.png").write_text("no picture")
    Image.new("RGB", (64, 64), (128, 128, 128)).save(folder / "wall.png")
    Image.new("1", (10_000, 10_000)).save(folder / "large.png")
    Image.new("1", (15_001, 10_000)).save(folder / "larger.png")
    plain, exif = Image.open(ada).convert("RGB"), Image.Exif()
    exif[0x0112] = 6
    plain.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=100)
    plain.convert("RGBA").save(folder / "alpha.png")
    plain.convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    return {path.stem: path for path in [ada, bob, *folder.iterdir()]}


@pytest.fixture
def command(generator: Generator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Path]]:
    """The command with models that are loaded already."""

    def generate(*arguments: str) -> list[Path]:
        run = compose("generate", [*SMALL, *arguments], ALIASES)

        def loaded(run: Run, engine: FaceEngine) -> Generator:
            settings = {key: value for key, value in run.config["sampling"].items() if value is not None}
            scheduler = run.config["sampler"]["scheduler"]
            monkeypatch.setattr(generator, "settings", generator.settings_with(**settings, scheduler=scheduler))
            monkeypatch.setattr(generator, "run", run)
            return generator

        monkeypatch.setattr(person_videos, "Generator", loaded)
        return generate_videos(Run(run.config, tmp_path / "out", run.choices, run.git_sha))

    return generate


@pytest.fixture
def page(studio: Studio) -> Callable[..., Any]:
    """The page's fields, as somebody fills them in, and what comes of it."""

    def fill(photos: list[Path], **fields: Any) -> list[Any]:
        values = ["a person", ONE, "", 3, None, "1", 2, 32, 32, 8.0, False, "ddim", 2, 3.0, "", None, "0", 1.0]
        form = replace(Form.read(photos, *values, "official", "full"), **fields)
        return list(studio.make(form, studio.session("page"), lambda *_: None))

    return fill


@pytest.mark.parametrize(
    ("photo", "arguments", "fields", "words"),
    [
        ("wall", [], {}, "finds no face in wall.png; use a photo"),
        ("words", [], {}, "words.png: not a readable picture"),
        pytest.param("large", [], {}, "finds no face in large.png", marks=pytest.mark.slow),
        ("larger", [], {}, "15001 × 10000 pixels, at least one and at most 150,000,000 are read"),
        ("ada", ["prompt="], {"prompt": ""}, "prompt(=| is) .*empty|the prompt is empty"),
        ("ada", ["sampling.num_frames=0"], {"num_frames": 0}, "num_frames=0: this backbone makes 1 to 16 frames"),
        ("ada", ["sampling.num_frames=33"], {"num_frames": 33}, "num_frames=33: .*free_noise=true"),
        ("ada", ["sampling.height=36"], {"height": 36}, "36 × 32 pixels: both must be multiples of 8"),
        ("ada", ["sampler.scheduler=magic"], {"scheduler": "magic"}, "'magic': expected one of ddim, dpm"),
        ("both", ["weights=[0.5,0.4]"], {"use": MIX, "weights": "0.5 0.4"}, "they sum to 0.9, expected 1"),
        ("both", ["weights=[-0.5,1.5]"], {"use": MIX, "weights": "-0.5 1.5"}, "none may be negative"),
    ],
)
def test_both_say_it_in_the_same_words(
    photo: str,
    arguments: list[str],
    fields: dict[str, Any],
    words: str,
    files: dict[str, Path],
    command: Callable[..., Any],
    page: Callable[..., Any],
    tmp_path: Path,
) -> None:
    photos = [files["ada"], files["bob"]] if photo == "both" else [files[photo]]
    with pytest.raises(IdanimError, match=words):
        command(f"reference=[{','.join(map(str, photos))}]", *arguments)
    with pytest.raises(IdanimError, match=words):
        page(photos, **fields)
    assert not (tmp_path / "out").exists()


def test_control_pictures_and_frames_that_do_not_fit(
    files: dict[str, Path],
    generator: Generator,
    command: Callable[..., Any],
    page: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator, "_network", tiny_sparse_control(generator.sampler.backbone))
    for frames, words in (("0,1", "1 pictures for 2 frames"), ("7", "the video has the frames 0 to 1")):
        with pytest.raises(IdanimError, match=words):
            command(
                f"reference={files['ada']}",
                "control=rgb",
                f"control.images={files['bob']}",
                f"control.frames=[{frames}]",
            )
        with pytest.raises(IdanimError, match=words):
            page([files["ada"]], control_images=(files["bob"],), control_frames=frames)


def test_out_of_memory_names_the_preset(
    files: dict[str, Path],
    generator: Generator,
    command: Callable[..., Any],
    page: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generator.sampler.backbone.unet, "forward", full)
    for make in (lambda: command(f"reference={files['ada']}"), lambda: page([files["ada"]])):
        with pytest.raises(IdanimError, match="with memory=full: take memory=balanced or memory=low"):
            make()


def test_every_way_to_store_a_picture_is_taken(
    files: dict[str, Path], command: Callable[..., Any], page: Callable[..., Any]
) -> None:
    photos = [files[name] for name in ("turned", "alpha", "cmyk", "deep")]
    (path,) = command(f"reference=[{','.join(map(str, photos))}]")
    assert set(read_record(path).made_with["references"]) == {photo.name for photo in photos}
    assert not any("no face" in note for note in read_record(path).made_with["notes"])
    assert len(page(photos)) == 1


def test_what_is_used_all_the_same_is_told(
    files: dict[str, Path],
    generator: Generator,
    command: Callable[..., Any],
    page: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    detect = ToyFaceEngine.detect

    def twice(engine: ToyFaceEngine, rgb: np.ndarray) -> list[Face]:
        (face,) = detect(engine, rgb)
        return [face, replace(face, score=face.score / 2)]

    monkeypatch.setattr(ToyFaceEngine, "detect", twice)
    long = " ".join(["red"] * 10_000)
    command(f"reference={files['ada']}", f"prompt={long}")
    (result,) = page([files["ada"]], prompt=long)
    for words in ("2 faces of similar size, the largest is taken", "the prompt is longer than the 77 tokens"):
        assert words in caplog.text
        assert any(words in note for note in result.notes)
