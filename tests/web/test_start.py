"""What the page starts with: the values of the command line, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from idanim.config import compose
from idanim.generator import ALIASES
from idanim.types import IdanimError
from idanim.web.form import MIX, ONE, SWEEP
from idanim.web.start import Start


def start(*arguments: str) -> Start:
    return Start.of(compose("app", arguments, ALIASES).config)


@pytest.fixture
def photos(tmp_path: Path) -> tuple[Path, Path]:
    files = tmp_path / "ada" / "face.png", tmp_path / "bob" / "face.png"
    for file in files:
        file.parent.mkdir()
        file.write_text(file.parent.name)
    return files


def test_nothing_typed() -> None:
    plain = start()
    assert (plain.photos, plain.use, plain.weights, plain.sweep, plain.face_index) == ((), ONE, "", 3, None)
    assert plain.seeds == "4993"
    assert plain.prompt.startswith("a person with short brown hair")
    assert (plain.control_images, plain.control_frames) == ((), "0")
    assert (plain.control_scale, plain.control_context) == (1.0, "official")


def test_what_is_typed_stands_in_the_fields(photos: tuple[Path, Path]) -> None:
    two = f"reference=[{photos[0]},{photos[1]}]"
    mixed = start(two, "weights=[0.7,0.3]", "seed=[1,2]", "face_index=1", "prompt=a beach")
    assert (mixed.photos, mixed.use, mixed.weights) == (photos, MIX, "0.7, 0.3")
    assert (mixed.seeds, mixed.face_index, mixed.prompt) == ("1, 2", 1, "a beach")
    assert (start(two, "sweep=5").use, start(two, "sweep=5").sweep) == (SWEEP, 5)
    steered = start("control=rgb", f"control.images={photos[0]}", "control.frames=[0,15]", "control.scale=0.5",
                    "control.context=text")  # fmt: skip
    assert (steered.control_images, steered.control_frames) == (photos[:1], "0, 15")
    assert (steered.control_scale, steered.control_context) == (0.5, "text")


def test_files_of_one_name_are_copied_beside_each_other(tmp_path: Path, photos: tuple[Path, Path]) -> None:
    copies = start(f"reference=[{photos[0]},{photos[1]}]").copied_to(tmp_path / "server").photos
    assert [copy.read_text() for copy in copies] == ["ada", "bob"]
    assert all(copy.is_relative_to(tmp_path / "server") and copy.name == "face.png" for copy in copies)


def test_what_has_no_field_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        (["people=[a.jpg,b.jpg]"], "people= is not for the page: give the photos"),
        (["prompts=toy"], "prompts= is not for the page.*app.examples="),
        (["formats=[gif]"], "formats= is not for the page"),
        (["recipe=a.json"], "recipe= is not for the page.*idanim.generate"),
        (["prompt=[a,b]"], "the page starts with one prompt"),
        (["face_index=[0,1]"], "one number for all photos"),
        (["sweep=1"], "sweep=1: expected 2 or more"),
        (["sweep=3", "weights=[0.5,0.5]"], "either weights=.* or sweep="),
        ([f"reference={tmp_path}"], "reference=.*there is no such file; the page starts with files"),
        (["control=rgb", "control.images=gone.png"], "control.images='gone.png': there is no such file"),
    ):
        with pytest.raises(IdanimError, match=words):
            start(*arguments)
