from pathlib import Path

import numpy as np
import pytest
import torch

from idanim.toyworld.faces import ToyFaceEngine, small_square
from idanim.toyworld.networks import RECOGNISER_WIDTHS, Detector, Recogniser
from idanim.toyworld.weights import save_network
from idanim.types import IdanimError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights with random values, but a detector that always answers the same place."""
    torch.manual_seed(0)
    detector = Detector()
    torch.nn.init.zeros_(detector.heads.weight)
    with torch.no_grad():
        detector.heads.bias.copy_(torch.tensor([-0.25, -0.25, 0.25, 0.25, *[0.1, -0.1] * 5, 3.0]))
    save_network(detector, tmp_path / "detector.safetensors")
    save_network(Recogniser(RECOGNISER_WIDTHS["b"]), tmp_path / "recogniser_b.safetensors")
    return tmp_path


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_places_are_in_pixels_of_the_picture(folder: Path) -> None:
    engine = ToyFaceEngine(folder)
    for size in (32, 128):
        (face,) = engine.detect(picture(size, size))
        assert face.box == pytest.approx(
            (size / 4 - 0.5, size / 4 - 0.5, 3 * size / 4 - 0.5, 3 * size / 4 - 0.5), abs=0.1
        )
        np.testing.assert_allclose(face.landmarks, [[0.6 * size - 0.5, 0.4 * size - 0.5]] * 5, atol=0.1)
        assert face.score == pytest.approx(0.9526, abs=1e-3)


def test_the_threshold_hides_faces(folder: Path) -> None:
    assert ToyFaceEngine(folder, det_threshold=0.99).detect(picture(32, 32)) == []


def test_embeddings_have_unit_length(folder: Path) -> None:
    engine = ToyFaceEngine(folder)
    rgb = picture(64, 48)
    (face,) = engine.detect(rgb)
    landmarks = face.landmarks + np.array([[-9, -9], [9, -9], [0, 0], [-7, 9], [7, 9]], dtype=np.float32)
    vector = engine.embed(rgb, type(face)(face.box, landmarks, face.score))
    assert vector.shape == (128,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match=r"detector\.safetensors"):
        ToyFaceEngine(tmp_path)


def test_pictures_are_filled_up_to_squares() -> None:
    rgb = picture(16, 32)
    square = small_square(rgb)
    assert square.shape == (1, 3, 32, 32)
    torch.testing.assert_close(square[0, :, -1], square[0, :, 15])
