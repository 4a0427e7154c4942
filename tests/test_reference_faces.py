"""Reference material of every kind, hostile ones among it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_people import take_photos

from idanim.config import build, restore
from idanim.faces.align import ARCFACE_TEMPLATE
from idanim.faces.engine import FaceEngine
from idanim.faces.insightface_engine import InsightFaceEngine
from idanim.pictures import decode_picture
from idanim.reference_faces import ReferenceOptions, outliers, read_person
from idanim.toyworld.make_videos import film
from idanim.types import Face, IdanimError
from idanim.video_encoding import encode_mp4

OPTIONS = ReferenceOptions(size_px=64)


@pytest.fixture(scope="module")
def engine() -> FaceEngine:
    return build(restore("generate", {"choices": {"faces": "toy"}, "values": {}})["faces"])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = take_photos(tmp_path_factory.mktemp("photo"), ["ada__1.png"])
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """Four clips of one person, then one of another, [2, 64, 64, 3] each."""
    videos = film(2, clips_per_person=4, num_frames=2, size_px=64, seed=20000)
    return [video.frames for video in videos[:5]]


def stored(folder: Path, name: str, picture: Image.Image, **options: Any) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def crop_of(path: Path, engine: FaceEngine) -> np.ndarray:
    return read_person([path], engine, OPTIONS).faces[0].crop.astype(int)


def test_every_way_to_store_a_picture_gives_the_same_face(tmp_path: Path, photo: Path, engine: FaceEngine) -> None:
    plain = Image.open(photo).convert("RGB")
    wanted = crop_of(photo, engine)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter to the right
    sideways = plain.transpose(Image.Transpose.ROTATE_90)
    opaque = Image.merge("RGBA", (*plain.split(), Image.new("L", plain.size, 255)))
    for path, tolerance in (
        (stored(tmp_path, "turned.jpg", sideways, exif=exif, quality=100, subsampling=0), 8),
        (stored(tmp_path, "alpha.png", opaque), 0),
        (stored(tmp_path, "cmyk.tif", plain.convert("CMYK")), 3),
    ):
        assert np.abs(crop_of(path, engine) - wanted).max() <= tolerance, path


def test_sixteen_bits_and_transparency_keep_their_look(tmp_path: Path, photo: Path) -> None:
    grey = np.asarray(Image.open(photo).convert("L"))
    path = stored(tmp_path, "deep.png", Image.fromarray(grey.astype(np.uint16) * 257))
    assert np.array_equal(decode_picture(path.read_bytes(), "deep")[..., 1], grey)
    hidden = np.zeros((8, 8, 4), np.uint8)  # black, but transparent
    path = stored(tmp_path, "clear.png", Image.fromarray(hidden))
    assert decode_picture(path.read_bytes(), "clear").min() == 255


def test_a_hundred_megapixels_are_read(tmp_path: Path, engine: FaceEngine) -> None:
    path = stored(tmp_path, "large.png", Image.new("1", (10_001, 10_000)))
    assert decode_picture(path.read_bytes(), "large").shape == (10_000, 10_001, 3)
    path = stored(tmp_path, "larger.png", Image.new("1", (15_001, 10_000)))
    with pytest.raises(IdanimError, match="15001 × 10000 pixels, at least one and at most"):
        read_person([path], engine, OPTIONS)


def test_hostile_files_are_named(tmp_path: Path, engine: FaceEngine) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("I am no photo")
    nobody = stored(tmp_path, "wall.png", Image.new("RGB", (64, 64), (128, 128, 128)))
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, words in (
        (text, "notes.jpg: not a readable picture"),
        (nobody, "finds no face in wall.png; use a photo"),
        (empty, "no photo and no video in this folder"),
        (tmp_path / "gone.jpg", "there is no such file or folder"),
    ):
        with pytest.raises(IdanimError, match=words):
            read_person([path], engine, OPTIONS)


def test_words_name_no_object_and_advise_what_is_not_done_already(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("I am no photo")
    with pytest.raises(IdanimError) as error:
        read_person([tmp_path / "notes.jpg"], TwoFaces(0.5), OPTIONS)
    assert "object at" not in str(error.value)
    nobody = TwoFaces(0.5)
    nobody.detect = lambda rgb: []
    with pytest.raises(IdanimError, match=r"two finds no face in wall\.png; use a photo") as error:
        read_person([stored(tmp_path, "wall.png", Image.new("RGB", (64, 64)))], nobody, OPTIONS)
    assert "insightface" not in str(error.value)


class TwoFaces:
    """Sees a large face in the left half of a picture and one of `share` of its width in the right half."""

    name = "two"

    def __init__(self, share: float) -> None:
        self.share = share

    def detect(self, rgb: np.ndarray) -> list[Face]:
        half = rgb.shape[1] / 2
        template = (ARCFACE_TEMPLATE / 112).astype(np.float32)
        sizes = {0.0: half, half: half * self.share}
        return [
            Face((left, 0, left + size, size), template * np.float32(size) + np.float32([left, 0]), 0.9)
            for left, size in sizes.items()
        ]

    def embed(self, rgb: np.ndarray, face: Face) -> np.ndarray:
        return np.float32([1, 0]) if face.box[0] == 0 else np.float32([0, 1])


def test_of_several_faces_the_largest_unless_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 128, 3), np.uint8)
    noise[:, :64, 0], noise[:, 64:, 0] = 255, 0
    path = stored(tmp_path, "both.png", Image.fromarray(noise))
    largest = read_person([path], TwoFaces(0.9), OPTIONS)
    assert largest.notes == ("both.png: 2 faces of similar size, the largest is taken; another: face_index=1",)
    assert largest.faces[0].crop[20:40, 20:40, 0].mean() > 250
    second = read_person([path], TwoFaces(0.9), ReferenceOptions(64, face_index=1))
    assert second.notes == ()
    assert second.faces[0].crop[20:40, 20:40, 0].mean() < 5
    assert read_person([path], TwoFaces(0.3), OPTIONS).notes == ()
    with pytest.raises(IdanimError, match=r"face_index=2: both\.png shows 2 faces, which are 0 to 1"):
        read_person([path], TwoFaces(0.9), ReferenceOptions(64, face_index=2))


def test_a_small_and_a_blurred_face_are_told(tmp_path: Path, photo: Path, engine: FaceEngine) -> None:
    person = read_person([photo], engine, OPTIONS)
    assert (person.notes, person.small_faces(16)) == ((), [])
    (note,) = person.small_faces(112)
    assert "the face is small" in note
    plain = Image.open(photo).convert("RGB")
    soft = plain.resize((20, 20), Image.Resampling.BOX).resize(plain.size, Image.Resampling.BICUBIC)
    (note,) = read_person([stored(tmp_path, "soft.png", soft)], engine, OPTIONS).notes
    assert "the face is blurred" in note


def test_a_folder_and_a_video(tmp_path: Path, clips: list[np.ndarray], photo: Path, engine: FaceEngine) -> None:
    folder = tmp_path / "Ada"
    folder.mkdir()
    shutil.copy(photo, folder)
    (folder / "clip.mp4").write_bytes(encode_mp4(np.concatenate(clips[:4]), 8))
    stored(folder, "wall.png", Image.new("RGB", (64, 64), (128, 128, 128)))
    (folder / "readme.txt").write_text("not a picture, and not meant to be one")
    person = read_person([folder], engine, ReferenceOptions(64, video_frames=3))
    assert person.name == "Ada"
    assert [face.source for face in person.faces] == ["ada__1.png", *(f"clip.mp4, frame {i}" for i in (0, 3, 6))]
    assert "wall.png: no face found, left out" in person.notes
    assert all(face.crop.shape == (64, 64, 3) for face in person.faces)


def test_one_wrong_photo_is_found(tmp_path: Path, clips: list[np.ndarray], engine: FaceEngine) -> None:
    paths = [stored(tmp_path, f"ada__{i}.png", Image.fromarray(clip[0])) for i, clip in enumerate(clips)]
    person = read_person(paths, engine, OPTIONS)
    assert [face.source for face in person.faces] == [f"ada__{i}.png" for i in range(4)]
    assert any(note.startswith("ada__4.png: unlike the other pictures") for note in person.notes)
    kept = read_person(paths, engine, ReferenceOptions(64, keep_outliers=True))
    assert len(kept.faces) == 5
    assert any("used all the same" in note for note in kept.notes)
    (note,) = read_person([paths[0], paths[4]], engine, OPTIONS).notes
    assert "do they show the same person?" in note


def test_outliers_are_told_from_likeness_alone() -> None:
    person, stranger = np.eye(2, dtype=np.float32)
    vectors = np.stack([person, person, stranger])
    assert outliers(vectors) == {2: 0.0}
    assert outliers(vectors[:2]) == {}
    assert outliers(np.stack([person] * 4)) == {}


@pytest.mark.real_input
def test_real_photos(real_dir: Path) -> None:
    engine = InsightFaceEngine("yunet_mobilefacenet", str(real_dir / "models" / "insightface"))
    photos, options = real_dir / "photos", ReferenceOptions()
    for who in ("person_18", "person_20", "person_31"):
        own = sorted(photos.glob(f"{who}__*"))
        person = read_person([*own, photos / "person_25__0.jpg"], engine, options)
        assert len(person.faces) == len(own), who
        assert "person_25__0.jpg: unlike the other pictures" in " ".join(person.notes)
        assert person.faces[0].crop.shape == (256, 256, 3)
    assert "faces of similar size" in " ".join(read_person([photos / "several_faces__2.jpg"], engine, options).notes)
    with pytest.raises(IdanimError, match=r"no face in no_face__0\.jpg"):
        read_person([photos / "no_face__0.jpg"], engine, options)
