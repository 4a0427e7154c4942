"""`curate inspect`: counts, the schema and a contact sheet, of a folder or of one shard."""

import sys

import numpy as np
import pytest
from drawn_people import make_sample
from PIL import Image

from idanim.curate import main
from idanim.data.shards import write_shard
from idanim.inspect_shards import NUM_FACES, NUM_FRAMES
from idanim.metrics.picture_grid import GAP_PX, TILE_PX


@pytest.fixture
def inspect(monkeypatch, capsys):
    """Runs the program as it is typed and returns what it prints."""

    def inspect(*arguments):
        monkeypatch.setattr(sys, "argv", ["curate", "inspect", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return inspect


@pytest.fixture
def folder(tmp_path):
    write_shard(tmp_path / "train-000000.tar", [make_sample(0, clip, 2) for clip in range(2)])
    write_shard(tmp_path / "train-000001.tar", [make_sample(1)])
    write_shard(tmp_path / "val-000000.tar", [make_sample(2)])
    return tmp_path


def test_a_folder(inspect, folder):
    text = inspect(folder)
    assert "train: 3 clips of 2 people out of 3 videos in 2 shards" in text
    assert "val: 1 clips of 1 people" in text
    assert "18 own; 2 of other clips of the person, in 2 clips" in text
    assert "people in both splits: 0" in text
    assert "attribute" in text or "unified" in text
    for name in (".mp4", ".frame.jpg", ".face.0.jpg", "start_frame", "embedding", "yaw_deg"):
        assert name in text
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.height == 4 * (TILE_PX + GAP_PX)
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    places = [360 + i * (TILE_PX + GAP_PX) + TILE_PX // 2 for i in range(NUM_FRAMES + NUM_FACES)]
    own = make_sample(0).meta
    assert sum(face.clip == own.key for face in own.faces) == 6
    # a clip with a face of another clip shows it last; every place of the first row has a picture
    assert all(np.ptp(pixels[:TILE_PX, x - 50 : x + 50]) > 20 for x in places)


def test_a_shard_with_the_sheet_elsewhere_and_fewer_clips(inspect, folder, tmp_path):
    text = inspect(folder / "train-000000.tar", "--sheet", tmp_path / "sub" / "s.png", "--clips", 1)
    assert "train: 2 clips of 1 people" in text
    assert "val" not in text
    with Image.open(tmp_path / "sub" / "s.png") as sheet:
        assert sheet.height == TILE_PX + GAP_PX


def test_mistakes_are_told_in_words(inspect, folder):
    with pytest.raises(SystemExit, match="no such folder or file"):
        inspect(folder / "gone")
    (folder / "train-000001.tar").write_bytes(b"x" * 2000)
    with pytest.raises(SystemExit, match="not a readable tar"):
        inspect(folder)
