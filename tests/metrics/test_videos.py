import json

import numpy as np
import pytest

from idanim.metrics.videos import VideoRecord, find_videos, is_made, read_record, write_video
from idanim.types import GeneratedClip, IdanimError
from idanim.video import read_frames

RECORD = VideoRecord("a man", "p1", 3, "adapter", "hair", {"checkpoint": "abc", "sampling": {"steps": 4}})


@pytest.fixture
def clip():
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    return GeneratedClip(frames, 8.0, "a man", "p1", 3)


def test_round_trip(tmp_path, clip):
    path = tmp_path / "new" / "v.mp4"
    assert not is_made(path, RECORD)
    write_video(path, clip, RECORD, "made")
    assert read_record(path) == RECORD
    assert is_made(path, RECORD)
    assert read_frames(path).shape == clip.frames.shape
    assert sorted(p.name for p in path.parent.iterdir()) == ["v.json", "v.mp4"]


def test_made_from_something_else_is_not_made(tmp_path, clip):
    path = tmp_path / "v.mp4"
    write_video(path, clip, RECORD, "made")
    other = VideoRecord(**{**vars(RECORD), "made_with": {"checkpoint": "abc", "sampling": {"steps": 5}}})
    assert not is_made(path, other)
    path.unlink()
    assert not is_made(path, RECORD)


def test_interrupted_overwrite_leaves_no_json_of_the_old_video(tmp_path, clip, monkeypatch):
    path = tmp_path / "v.mp4"
    write_video(path, clip, RECORD, "made")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("idanim.metrics.videos.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_video(path, clip, VideoRecord("another", "p1"), "made")
    assert not is_made(path, RECORD)


def test_videos_of_other_systems_need_only_prompt_and_identity(tmp_path):
    (tmp_path / "v.json").write_text(json.dumps({"prompt": "a man", "identity": "p1"}))
    assert read_record(tmp_path / "v.mp4") == VideoRecord("a man", "p1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no v.json beside it"),
        ("{", "can't be read as JSON"),
        ("[]", "expected an object"),
        ('{"schema": 9, "prompt": "a", "identity": "b"}', "schema 1"),
        ('{"prompt": " ", "identity": "b"}', "the prompt is empty"),
        ('{"prompt": "a"}', r"missing fields \['identity'\]"),
        (
            '{"prompt": "a", "identity": 3, "colour": 1}',
            r"unknown .*colour.*wrong kind .*identity",
        ),
    ],
)
def test_bad_records_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "v.json").write_text(content)
    with pytest.raises(IdanimError, match=message):
        read_record(tmp_path / "v.mp4")


def test_find_videos(tmp_path, clip):
    with pytest.raises(IdanimError, match=r"no \.mp4"):
        find_videos(tmp_path)
    with pytest.raises(IdanimError, match="no such folder"):
        find_videos(tmp_path / "nowhere")
    for name in ("b/2.mp4", "a/1.mp4", "a/.half.part.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in find_videos(tmp_path)] == ["a/1.mp4", "b/2.mp4"]
