"""Damaged and odd videos: no crash, no hang, and one named reason for each that is rejected."""

import os
import signal
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from damage import KINDS, flip_bits
from omegaconf import OmegaConf
from square_faces import draw, person, write_mp4
from video_files import write_video

from idanim.config import CONF_DIR
from idanim.curate import make_curator
from idanim.curation.decision import REASONS, Decision
from idanim.curation.inputs import find_clips
from idanim.curation.run import curate_one
from idanim.data.sample import ClipSample
from idanim.video import UnreadableVideoError, VideoReader, read_frames

HANG_S = 60
RED, GREEN = list(person(60)), list(person(60, colour="green"))
BRIGHT = [255 - draw(())] * 60
NUM_IN_DEFAULT_SUITE, NUM_SLOW = 40, 320


@pytest.fixture(scope="module")
def curator():
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "curate.yaml"))
    config["faces"] = {"_target_": "square_faces.SquareFaces"}
    config["clip"] |= {"size": 32, "max_frames": 24}
    config["filter"] |= {"min_face_px": 12, "min_blur": 0}
    return make_curator(config)


@pytest.fixture(autouse=True)
def no_hang():
    """A video that takes longer than HANG_S fails its test."""

    def give_up(number, frame):
        raise AssertionError(f"hangs for {HANG_S} s")  # no error that curation takes for the video's

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Whole videos in several containers and codecs."""
    folder = tmp_path_factory.mktemp("originals")
    write_mp4(folder / "h264.mp4", person(40))
    write_video(folder / "mpeg4.avi", person(40), "mpeg4")
    write_video(folder / "h264.mkv", person(40), "libx264")
    write_video(folder / "mpeg2.mpg", person(40), "mpeg2video")
    write_video(folder / "mjpeg.mov", person(40), "mjpeg", "yuvj420p")
    return sorted(folder.iterdir())


def outcome(curator, folder):
    """What becomes of the only video of a folder: None when it is accepted, else the reason."""
    (video,) = find_clips(folder, None, keep_duplicates=False)
    result = curate_one(curator, video)
    if isinstance(result, ClipSample):
        frames = read_frames(result.video)
        assert len(frames) == result.meta.num_frames >= 16
        return None
    assert isinstance(result, Decision)
    assert result.reason in REASONS
    assert result.text
    return result.reason


def damaged(paths, number):
    """The `number`-th damaged file: its name and content."""
    rng = np.random.default_rng([7, number])
    path = paths[number % len(paths)]
    damage = KINDS[number // len(paths) % len(KINDS)]
    return path.name, damage(path.read_bytes(), rng)


def check(curator, tmp_path, paths, numbers):
    reasons = []
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        name, content = damaged(paths, number)
        (folder / name).write_bytes(content)
        signal.alarm(HANG_S)
        reasons.append(outcome(curator, folder))
    return reasons


def test_damaged_videos(curator, tmp_path, originals):
    reasons = check(curator, tmp_path, originals, range(NUM_IN_DEFAULT_SUITE))
    assert len(set(reasons)) >= 4  # accepted ones and several reasons are among them
    assert "internal_error" not in reasons


@pytest.mark.slow
def test_many_damaged_videos(curator, tmp_path, originals):
    reasons = check(curator, tmp_path, originals, range(NUM_IN_DEFAULT_SUITE, NUM_IN_DEFAULT_SUITE + NUM_SLOW))
    assert "internal_error" not in reasons


@pytest.mark.slow
@pytest.mark.real_input
def test_damaged_real_videos(curator, tmp_path, real_dir):
    paths = sorted((real_dir / "clips").iterdir(), key=lambda path: path.stat().st_size)[:8]
    reasons = check(curator, tmp_path, paths, range(64))
    assert "internal_error" not in reasons


def test_frames_that_the_decoder_had_to_patch_up(curator, tmp_path):
    """Such a video decodes to its end; it is rejected, but where more damage is allowed."""
    content = write_mp4(tmp_path / "whole" / "a.mp4", person(40)).read_bytes()
    path = tmp_path / "in" / "a.mp4"
    path.parent.mkdir()
    for seed in range(200):
        path.write_bytes(flip_bits(content, np.random.default_rng(seed)))
        try:
            with VideoReader(path) as reader:
                num_frames = sum(1 for _ in reader.frames())
        except UnreadableVideoError:
            continue
        if reader.num_damaged > 0.02 * num_frames:
            break
    else:
        pytest.fail("no such video came about")
    (video,) = find_clips(path.parent, None, keep_duplicates=False)
    result = curate_one(curator, video)
    assert (result.reason, result.measured) == ("corrupt", reader.num_damaged / num_frames)
    patient = replace(curator, sampling=replace(curator.sampling, max_damaged_share=1.0))
    again = curate_one(patient, video)
    assert isinstance(again, ClipSample) or again.reason != "corrupt"


class TestOddVideos:
    def test_one_frame(self, curator, tmp_path):
        write_mp4(tmp_path / "a.mp4", person(1))
        assert outcome(curator, tmp_path) == "too_short"

    def test_two_hours(self, curator, tmp_path):
        path = tmp_path / "a.mkv"
        frames = person(48)
        write_video(path, frames, "libx264", pts=[i * 150_000 for i in range(48)])  # a frame every 2.5 minutes
        assert outcome(curator, tmp_path) == "too_short"  # four of them in the first ten minutes

    @pytest.mark.slow
    def test_eight_k(self, tmp_path):
        path = write_video(tmp_path / "a.mp4", np.zeros((3, 4320, 7680, 3), np.uint8), "mpeg4")
        with VideoReader(path) as reader:
            assert [frame.small(64).shape for frame in reader.frames()] == [(36, 64, 3)] * 3
            assert (reader.info.width, reader.info.height) == (7680, 4320)

    def test_ten_bits(self, curator, tmp_path):
        write_video(tmp_path / "a.mkv", person(30), "libx264", "yuv420p10le")
        assert outcome(curator, tmp_path) is None

    def test_non_square_pixels(self, curator, tmp_path):
        frames = person(30)[:, :, ::2]
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 96, 48, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
            for rgb in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        (video,) = find_clips(tmp_path, None, keep_duplicates=False)
        sample = curate_one(curator, video)
        assert sample.meta.crop_box == (0, 0, 96, 96)
        left, top, right, bottom = sample.meta.faces[-1].box
        assert abs((right - left) - (bottom - top)) <= 3

    def test_interlaced(self, tmp_path):
        """The two halves of each stored frame are of different moments; read, no frame has their comb."""
        moments = np.stack([draw(("red",), x=4 + i, y=30) for i in range(80)])
        frames = moments[::2].copy()
        frames[:, 1::2] = moments[1::2, 1::2]
        path = tmp_path / "a.mpg"
        with av.open(str(path), "w") as container:
            options = {"flags": "+ildct+ilme", "top": "1", "qscale": "2"}
            stream = container.add_stream("mpeg2video", rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 96, 96, "yuv420p", 8_000_000
            for rgb in frames:
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            is_interlaced = next(container.decode(video=0)).interlaced_frame
        if not is_interlaced:
            pytest.skip("this encoder does not mark its frames as interlaced")
        read = read_frames(path).astype(int)
        assert len(read) == len(frames)

        def comb(pictures):
            return np.abs(pictures[:, 32:50:2, :, 0] - pictures[:, 33:51:2, :, 0]).mean()

        assert comb(read[2:-2]) < 0.5 * comb(frames[2:-2].astype(int))

    @pytest.mark.parametrize("name", ["größe 人 🎬.mp4", "x" * 250 + ".mp4", "-rf; $(true) 'a' \"b\".mp4", "a.mp4.mp4"])
    def test_names(self, curator, tmp_path, name):
        write_mp4(tmp_path / "in" / name, person(30))
        assert outcome(curator, tmp_path / "in") is None

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_not_be_read(self, curator, tmp_path):
        write_mp4(tmp_path / "a.mp4", person(30)).chmod(0)
        assert outcome(curator, tmp_path) == "file_not_readable"

    @pytest.mark.parametrize(
        ("frames", "expected"),
        [
            ([*RED[:20], *BRIGHT[:12], *GREEN[:30]], None),
            ([(draw(("red",)), draw(("green",)))[i // 5 % 2] for i in range(60)], "person_changes"),
            ([draw(("red",))] * 40, "frozen"),
            ([draw(("red", "blue"), x=10 + i // 4) for i in range(40)], "several_faces"),
            ([*(draw(("red",), x=36 + 2 * i) for i in range(25)), *[draw(())] * 35], "no_face"),
        ],
        ids=["cuts", "two people alternating", "frozen", "a poster beside the face", "walks out of the frame"],
    )
    def test_content(self, curator, tmp_path, frames, expected):
        write_mp4(tmp_path / "a.mp4", np.stack(frames))
        assert outcome(curator, tmp_path) == expected
