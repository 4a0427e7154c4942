"""Sessions, and videos made for them, on the toy world."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_people import take_photos

from idanim.config import Run, compose
from idanim.generator import ALIASES, CancelledError, Generator, Progress
from idanim.metrics.face_track import FaceTrack
from idanim.types import IdanimError
from idanim.video import read_frames
from idanim.web import studio as web_studio
from idanim.web.form import MIX, ONE, Form, Limits
from idanim.web.studio import Studio, similarities

LIMITS = Limits(queue=2, upload_mb=1, num_files=4, num_videos=4, num_frames=32, side_px=64, num_steps=20, idle_s=3600)
SMALL = ("sampling.num_frames=2", "sampling.num_inference_steps=2", "device=cpu")


def form(photos: list[Path]) -> Form:
    values = ["a person", ONE, "", 3, None, "1", 2, 32, 32, 8.0, False, "ddim", 2, 3.0, "", None, "0", 1.0, "official"]
    return Form.read(photos, *values, "full")


def quiet(number: int, num_videos: int, progress: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return take_photos(tmp_path_factory.mktemp("photos"), ["ada__1.png", "bob.png"])


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(compose("generate", SMALL, ALIASES), LIMITS, tmp_path_factory.mktemp("studio"))


def test_the_same_video_as_from_python_with_its_scores(studio: Studio, photos: list[Path]) -> None:
    session = studio.session("one")
    steps: list[tuple[int, int, Progress]] = []
    results = list(studio.make(replace(form(photos[:1]), seeds="1, 2"), session, lambda *step: steps.append(step)))
    assert steps == [(video, 2, Progress(step, 2)) for video in (0, 1) for step in (1, 2)]
    assert session.results == results
    generator = Generator.load(*SMALL)
    ada = generator.person(photos[0])
    frames = read_frames(generator.generate(ada, "a person", seed=2).save(session.folder / "python.mp4"))
    assert np.array_equal(read_frames(results[1].path), frames)
    vectors = [generator.engine.embed(frame, generator.engine.detect(frame)[0]) for frame in frames]
    assert results[1].similarities["ada"] == pytest.approx(np.mean(vectors @ ada.faces[0].vector), abs=0.05)
    text = results[1].path.with_suffix(".json").read_text()
    told = json.loads(text)
    assert told["similarities"] == results[1].similarities
    assert told["engine"] == generator.engine.name
    assert told["made_with"]["sampling"]["num_frames"] == 2
    for folder in (photos[0].parent, session.folder, generator.ckpt.parent):
        assert str(folder) not in text


def test_a_mixture_is_scored_against_each(studio: Studio, photos: list[Path]) -> None:
    (result,) = studio.make(replace(form(photos), use=MIX, weights="1, 0"), studio.session("mix"), quiet)
    assert list(result.similarities) == ["ada", "bob"]
    assert result.caption.startswith(f"similarity to ada {result.similarities['ada']:.2f}, bob ")
    track = FaceTrack(np.zeros(2, bool), np.zeros((0, 0), np.float32))
    people = [studio.generator.person(photo) for photo in (photos[0], photos[0])]
    assert similarities(track, people) == {"ada (1)": 0.0, "ada (2)": 0.0}


def test_sessions_know_nothing_of_each_other(studio: Studio, photos: list[Path]) -> None:
    ours, theirs = studio.session("ours"), studio.session("theirs")
    studio.stop("theirs")
    (result,) = studio.make(form(photos[:1]), ours, quiet)
    assert result.path.parent == ours.folder != theirs.folder
    assert theirs.results == []
    studio.close("ours")
    assert not ours.folder.exists()
    assert theirs.folder.is_dir()
    assert studio.session("ours").results == []


def test_stop_ends_after_the_step_and_keeps_what_is_finished(studio: Studio, photos: list[Path]) -> None:
    session = studio.session("stopped")

    def stop_in_second(number: int, num_videos: int, progress: Progress) -> None:
        if number == 1:
            studio.stop("stopped")

    made = []
    with pytest.raises(CancelledError):
        made.extend(studio.make(replace(form(photos[:1]), seeds="1, 2, 3"), session, stop_in_second))
    assert [result.seed for result in session.results] == [1]
    with pytest.raises(CancelledError):  # while it waits
        list(studio.make(form(photos[:1]), session, quiet))
    studio.begin("stopped")
    assert len(list(studio.make(form(photos[:1]), studio.start("stopped"), quiet))) == 1


def test_a_full_queue_is_told_until_somebody_starts_or_leaves(studio: Studio) -> None:
    for key in ("first", "second", "second"):
        studio.begin(key)
    with pytest.raises(IdanimError, match="the queue is full: 2 requests wait; try again"):
        studio.begin("third")
    studio.start("first")
    studio.begin("third")
    studio.close("second")
    studio.begin("fourth")
    for key in ("third", "fourth"):
        studio.close(key)


def test_a_page_that_was_closed_gets_no_video(studio: Studio, photos: list[Path]) -> None:
    studio.begin("gone")
    studio.close("gone")
    with pytest.raises(IdanimError, match="this page was closed"):
        studio.start("gone")
    studio.begin("going")
    session = studio.start("going")
    with pytest.raises(CancelledError):
        list(studio.make(form(photos[:1]), session, lambda *step: studio.close("going")))
    assert not session.folder.exists()


def test_idle_sessions_are_deleted(studio: Studio) -> None:
    idle = studio.session("idle")
    idle.used_s -= LIMITS.idle_s + 1
    studio.session("another")
    assert not idle.folder.exists()
    assert idle.stop.is_set()


def test_another_memory_preset_and_back(studio: Studio, photos: list[Path]) -> None:
    session = studio.session("memory")
    (low,) = studio.make(replace(form(photos[:1]), memory="low"), session, quiet)
    assert json.loads(low.path.with_suffix(".json").read_text())["made_with"]["dtype"] == "bfloat16"
    (full,) = studio.make(form(photos[:1]), session, quiet)
    assert json.loads(full.path.with_suffix(".json").read_text())["made_with"]["dtype"] == "float32"


def test_the_old_models_are_gone_before_the_new_ones_come(
    studio: Studio, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (result,) = studio.make(form(photos[:1]), studio.session("swap"), quiet)
    old = weakref.ref(studio.generator.sampler.backbone)
    alive: list[bool] = []
    fails = True

    def load(run: Run) -> Generator:
        alive.append(old() is not None)
        if fails:
            raise IdanimError("out of memory with memory=low")
        return Generator(run)

    monkeypatch.setattr(web_studio, "Generator", load)
    with pytest.raises(IdanimError, match="out of memory"):
        list(studio.make(replace(form(photos[:1]), memory="low"), studio.session("swap"), quiet))
    assert alive == [False]
    fails = False
    (again,) = studio.make(form(photos[:1]), studio.session("swap"), quiet)  # and others can go on
    assert np.array_equal(read_frames(again.path), read_frames(result.path))


def test_mistakes_name_files_but_no_folders(studio: Studio, photos: list[Path], tmp_path: Path) -> None:
    words = tmp_path / "words.png"
    words.write_text("no picture")
    for wrong, message in (
        (form([words]), r"words\.png: not a readable picture"),
        (replace(form(photos), memory="none"), "memory: 'none', expected one of balanced, full, low"),
        (replace(form(photos), control_images=tuple(photos)), "no control network is loaded"),
        (replace(form(photos), num_frames=17), "this backbone makes 1 to 16 frames"),
        (replace(form(photos), scheduler="none"), "none"),
        (replace(form(photos), use=MIX, weights="-1, 2"), "none may be negative"),
    ):
        with pytest.raises(IdanimError, match=message) as raised:
            list(studio.make(wrong, studio.session("wrong"), quiet))
        assert str(tmp_path) not in str(raised.value)
