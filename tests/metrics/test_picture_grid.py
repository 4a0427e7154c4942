import numpy as np
import pytest
from PIL import Image

from idanim.metrics.picture_grid import GAP_PX, LABEL_PX, TILE_PX, thumbnails, tile, write_picture_grid


def plain(colour, height=64, width=64):
    return np.full((height, width, 3), colour, np.uint8)


def test_grid_shows_reference_first_then_frames_of_each_prompt(tmp_path):
    video = np.stack([plain((0, level, 0)) for level in (0, 80, 160, 240)])
    tiles = {("ann", "one"): thumbnails(video, 2), ("bob", "a prompt that is " + "very " * 60 + "long"): []}
    path = tmp_path / "grid.png"
    prompts = ["one", "a prompt that is " + "very " * 60 + "long"]
    write_picture_grid(path, {"ann": plain((255, 0, 0)), "bob": plain((0, 0, 255))}, prompts, tiles)
    pixels = np.array(Image.open(path))
    step, middle = TILE_PX + GAP_PX, TILE_PX // 2
    first_row = LABEL_PX + middle
    left = step + GAP_PX + middle
    assert pixels[first_row, middle].tolist() == [255, 0, 0]
    assert pixels[first_row + step, middle].tolist() == [0, 0, 255]
    assert pixels[first_row, left].tolist() == [0, 0, 0]
    assert pixels[first_row, left + step].tolist() == [0, 240, 0]
    assert pixels[first_row + step, left].tolist() == [255, 255, 255]


def test_odd_shapes_fit_into_a_tile():
    for shape in ((10, 300), (300, 10), (1, 1)):
        assert tile(plain((1, 2, 3), *shape)).shape == (TILE_PX, TILE_PX, 3)


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no picture"):
        write_picture_grid(tmp_path / "g.png", {}, ["a"], {})
