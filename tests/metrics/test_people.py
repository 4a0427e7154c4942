import numpy as np
import pytest
from PIL import Image

from idanim.metrics.people import embed_crop, people_from_photos
from idanim.types import Face, IdanimError


class BrightSquare:
    """Finds the bounding box of all pixels above 200; the vector is the mean colour. A box at the edge is no face."""

    name = "test/bright"

    def detect(self, rgb):
        rows, columns = np.nonzero(rgb.max(axis=-1) > 200)
        if not len(rows) or 0 in (rows.min(), columns.min()):
            return []
        box = (columns.min(), rows.min(), columns.max(), rows.max())
        points = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
        landmarks = np.array(box[:2]) + points * (np.array(box[2:]) - box[:2])
        return [Face(tuple(float(v) for v in box), landmarks.astype(np.float32), 0.9)]

    def embed(self, rgb, face):
        left, top, right, bottom = (int(v) for v in face.box)
        mean = rgb[top:bottom, left:right].reshape(-1, 3).mean(axis=0)
        return (mean / np.linalg.norm(mean)).astype(np.float32)


def photo(path, colour):
    picture = np.zeros((64, 64, 3), np.uint8)
    if colour:
        picture[16:48, 16:48] = colour
    Image.fromarray(picture).save(path)


def test_first_photo_is_the_reference_and_all_are_real_faces(tmp_path):
    photo(tmp_path / "ann__1.png", (255, 10, 10))
    photo(tmp_path / "ann__2.PNG", (250, 60, 10))
    photo(tmp_path / "bob.png", (10, 10, 255))
    (tmp_path / "notes.txt").write_text("no photo")
    ann, bob = people_from_photos(tmp_path, BrightSquare(), None, 8, 1, 0, 32)
    assert (ann.identity, bob.identity) == ("ann", "bob")
    assert [picture.shape for picture in ann.pictures] == [(32, 32, 3)]
    assert ann.pictures[0][16, 16].tolist() == [255, 10, 10]
    assert ann.vectors.shape == (1, 3)
    assert [clip.shape for clip in ann.clips] == [(1, 3), (1, 3)]
    assert ann.digest != bob.digest
    assert ann.origin == bob.origin == f"photos in {tmp_path}"


def test_photo_without_a_name_before_the_mark_is_not_nobody(tmp_path):
    photo(tmp_path / "__1.png", (255, 10, 10))
    assert [person.identity for person in people_from_photos(tmp_path, BrightSquare(), None, 8, 1, 0, 32)] == ["__1"]


def test_names_and_numbers_limit(tmp_path):
    for name in ("a__0", "b__0", "b__1", "c__0"):
        photo(tmp_path / f"{name}.png", (255, 0, 0))

    def take(names, people, references, strangers=0):
        found = people_from_photos(tmp_path, BrightSquare(), names, people, references, strangers, 16)
        return [(person.identity, person.is_stranger, len(person.pictures)) for person in found]

    assert take(None, 2, 1) == [("a", False, 1), ("b", False, 1)]
    assert take({"c", "b"}, 1, 2) == [("b", False, 2), ("c", False, 1)]
    assert take({"b"}, 2, 1, 1) == [("b", False, 1), ("a", True, 1)]


def test_photo_without_a_face_is_named(tmp_path):
    photo(tmp_path / "ann__1.png", (255, 0, 0))
    photo(tmp_path / "ann__2.png", None)
    with pytest.raises(IdanimError, match=r"test/bright finds no face in ann__2\.png"):
        people_from_photos(tmp_path, BrightSquare(), None, 8, 1, 0, 32)


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(IdanimError, match="no such folder"):
        people_from_photos(tmp_path / "nowhere", BrightSquare(), None, 8, 1, 0, 32)
    with pytest.raises(IdanimError, match="no photo in it"):
        people_from_photos(tmp_path, BrightSquare(), None, 8, 1, 0, 32)


def test_tight_crop_is_tried_again_with_surroundings():
    crop = np.full((20, 20, 3), 255, np.uint8)
    assert not BrightSquare().detect(crop)
    assert embed_crop(BrightSquare(), crop) == pytest.approx(np.full(3, 3**-0.5), abs=1e-6)
    assert embed_crop(BrightSquare(), np.zeros((20, 20, 3), np.uint8)) is None
