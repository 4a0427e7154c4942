"""Video files: what is written comes back, and what can't be read says why."""

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import write_sound, write_video

from idanim.video import UnreadableVideoError, VideoReader, decode, read_frames, to_float, to_uint8
from idanim.video_encoding import GOP_FRAMES, encode_mp4, encode_webp
from idanim.video_part import Part


def numbered_frames(num_frames, height=48, width=64):
    """Frames that tell their own index by their brightness, with a red upper-left corner."""
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = (np.arange(num_frames) * 5 % 250)[:, None, None, None]
    frames[:, : height // 3, : width // 4] = (255, 0, 0)
    return frames


def brightness(rgb):
    return int(rgb[-8:, -8:].mean())


def info_of(source):
    with VideoReader(source) as reader:
        return reader.info


def reason_of(source):
    with pytest.raises(UnreadableVideoError) as caught:
        for _ in decode(source):
            pass
    return caught.value.reason


class TestRange:
    def test_every_level_survives_the_round_trip(self):
        levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
        pixels = to_float(levels)
        assert pixels.shape == (1, 3, 16, 16)
        assert pixels.dtype == torch.float32
        assert pixels.min() == -1
        assert pixels.max() == 1
        np.testing.assert_array_equal(to_uint8(pixels), levels)

    def test_values_outside_the_range_are_clipped(self):
        assert to_uint8(torch.full((3, 2, 2), 7.0)).max() == 255
        assert to_uint8(torch.full((3, 2, 2), -7.0)).min() == 0

    def test_half_precision_keeps_neighbouring_levels_apart_within_one(self):
        levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
        back = to_uint8(to_float(levels).bfloat16()).astype(int)
        assert np.abs(back - levels).max() <= 1

    @pytest.mark.parametrize("wrong", [np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.float32)])
    def test_other_layouts_are_refused(self, wrong):
        with pytest.raises(ValueError, match="expected uint8"):
            to_float(wrong)


class TestWriting:
    def test_frames_come_back(self):
        frames = numbered_frames(20)
        content = encode_mp4(frames, 25)
        back = read_frames(content)
        assert back.shape == frames.shape
        assert np.abs(back.astype(int) - frames).mean() < 2
        info = info_of(content)
        assert (info.width, info.height, info.fps, info.num_frames) == (64, 48, 25.0, 20)

    def test_the_same_frames_give_the_same_bytes(self):
        frames = numbered_frames(20)
        assert encode_mp4(frames, 29.97) == encode_mp4(frames, 29.97)

    def test_key_frames_are_close_and_the_index_is_in_front(self):
        content = encode_mp4(np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8), 25)
        assert 0 < content.find(b"moov") < content.find(b"mdat")
        with av.open(io.BytesIO(content)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        gaps = np.diff([i for i, packet in enumerate(packets) if packet.is_keyframe])
        assert gaps.max() <= GOP_FRAMES

    @pytest.mark.parametrize("shape", [(4, 33, 32, 3), (4, 32, 33, 3), (0, 32, 32, 3), (4, 32, 32), (4, 32, 32, 4)])
    def test_what_h264_can_not_hold_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"got|even sizes"):
            encode_mp4(np.zeros(shape, np.uint8), 25)


class TestReading:
    def test_wanted_frames_only_and_in_order(self):
        content = encode_mp4(numbered_frames(30), 25)
        found = [(index, brightness(rgb)) for index, rgb in decode(content, [0, 7, 8, 29])]
        assert [index for index, _ in found] == [0, 7, 8, 29]
        np.testing.assert_allclose([level for _, level in found], [0, 35, 40, 145], atol=2)

    def test_reading_stops_behind_the_last_wanted_frame(self):
        with VideoReader(encode_mp4(numbered_frames(30), 25)) as reader:
            assert [index for index, _ in reader.read([0, 4])] == [0, 4]
            assert reader.num_decoded == 5

    def test_endless_indices_read_to_the_end(self):
        with VideoReader(encode_mp4(numbered_frames(30), 25)) as reader:
            assert [index for index, _ in reader.read(range(0, 10**9, 12))] == [0, 12, 24]
            assert reader.num_decoded == 30

    def test_missing_frames_are_an_error_where_an_array_is_asked_for(self):
        with pytest.raises(UnreadableVideoError, match="1 of the wanted frames"):
            read_frames(encode_mp4(numbered_frames(5), 25), [4, 5])

    def test_a_title_in_another_encoding(self, tmp_path):
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = "a title"
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for rgb in numbered_frames(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode(None))
        content = path.read_bytes()
        assert b"a title" in content
        assert len(read_frames(content.replace(b"a title", b"a t\xeftre"))) == 3

    def test_odd_sizes(self, tmp_path):
        frames = numbered_frames(4, 47, 65)
        path = write_video(tmp_path / "odd.mkv", frames, "ffv1", "bgr0")
        np.testing.assert_array_equal(read_frames(path), frames)

    @pytest.mark.parametrize(("rotation", "corner"), [(90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
    def test_rotation_metadata_is_applied(self, tmp_path, rotation, corner):
        path = write_video(tmp_path / "turned.mp4", numbered_frames(4), rotation=rotation)
        rgb = read_frames(path)[0]
        info = info_of(path)
        assert rgb.shape[:2] == (info.height, info.width) == ((64, 48) if rotation != 180 else (48, 64))
        row, column = corner
        assert rgb[row * 4 if row else 3, column * 4 if column else 3, 0] > 200

    def test_variable_frame_rate_goes_by_frame_order(self, tmp_path):
        pts = np.cumsum([0, 10, 200, 20, 20, 400, 15, 15, 90, 10]).tolist()
        path = write_video(tmp_path / "vfr.mkv", numbered_frames(10), pts=pts)
        found = [(index, brightness(rgb)) for index, rgb in decode(path, [0, 3, 9])]
        np.testing.assert_allclose(found, [(0, 0), (3, 15), (9, 45)], atol=2)
        with VideoReader(path) as reader:
            assert sum(1 for _ in reader.read()) == 10
            assert reader.fps == pytest.approx(9 / 0.78, rel=0.05)  # stamps are rounded to 40 ms

    @pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
    def test_length_and_rate_are_known_before_reading(self, tmp_path, ending):
        path = write_video(tmp_path / f"v.{ending}", numbered_frames(40), fps=30)
        assert info_of(path).num_frames == pytest.approx(40, abs=1)
        with VideoReader(path) as reader:
            assert sum(1 for _ in reader.read()) == 40
            assert reader.fps == 30


class TestSquares:
    @pytest.mark.parametrize("rotation", [None, 90, 180, 270])
    @pytest.mark.parametrize(("pix_fmt", "part"), [("yuv420p", None), ("yuv444p", None), ("yuv420p", (0.1, 0.2, 1, 1))])
    @pytest.mark.parametrize("size", [32, 90, 200])
    def test_they_are_what_pillow_makes_of_the_picture(self, tmp_path, rotation, pix_fmt, part, size):
        smooth = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(smooth).resize((160, 128), Image.Resampling.BICUBIC))
        path = write_video(tmp_path / "a.mp4", picture[None], "libx264", pix_fmt, rotation=rotation)
        with VideoReader(path, part=Part(box=part)) as reader:
            (frame,) = reader.frames()
        width, height = frame.size
        side = 80
        for box in ((0, 0, side, side), (width - side, height - side, width, height), (7, 11, 7 + side, 11 + side)):
            expected = Image.fromarray(frame.rgb()).resize((size, size), Image.Resampling.BICUBIC, box=box)
            square = frame.square(box, size)
            assert square.shape == (size, size, 3)
            assert np.abs(square.astype(int) - np.asarray(expected)).mean() < 5  # half a pixel moves by up to 4

    def test_a_small_part_of_a_large_picture(self):
        picture = np.zeros((400, 400, 3), np.uint8)
        picture[200:240, 300:340] = 255
        with VideoReader(encode_mp4(picture[None], 25)) as reader:
            (frame,) = reader.frames()
        assert frame.square((300, 200, 340, 240), 64).mean() > 240
        assert frame.square((0, 0, 40, 40), 64).mean() < 10


class TestUnreadable:
    def test_text_with_a_video_name(self, tmp_path):
        path = tmp_path / "notes.mp4"
        path.write_text("not a video at all\n" * 100)
        assert reason_of(path) == "not_a_video"

    def test_empty_file(self, tmp_path):
        path = tmp_path / "empty.mp4"
        path.touch()
        assert reason_of(path) == "empty_file"

    def test_no_file(self, tmp_path):
        assert reason_of(tmp_path / "gone.mp4") == "file_not_readable"

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
    def test_truncated_with_the_index_in_front(self, share):
        noise = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
        content = encode_mp4(noise, 25)
        assert reason_of(content[: int(len(content) * share)]) == "truncated"

    def test_truncated_with_the_index_behind(self, tmp_path):
        content = write_video(tmp_path / "whole.mp4", numbered_frames(40)).read_bytes()
        assert content.find(b"mdat") < content.find(b"moov")
        assert reason_of(content[: len(content) // 2]) == "truncated"

    def test_sound_only(self, tmp_path):
        assert reason_of(write_sound(tmp_path / "sound.mp4")) == "no_video_stream"

    def test_no_frames(self, tmp_path):
        path = tmp_path / "none.avi"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            container.start_encoding()
        assert reason_of(path) == "no_frames"


def test_colours_come_back_and_the_file_says_which_they_are() -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3, [230, 180, 150]], np.uint8)
    frames = np.repeat(np.repeat(colours[None, None], 16, axis=2), 32, axis=1).repeat(3, axis=0)
    content = encode_mp4(frames, 8, tags={"comment": "made by é"})
    shown = read_frames(content)[:, 16, 8::16].astype(int)
    assert np.abs(shown - colours).max() <= 3
    with av.open(io.BytesIO(content)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_range) == (5, 1)  # BT.601, 16 to 235
        assert container.metadata["comment"] == "made by é"


def test_long_tags_fit() -> None:
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    content = encode_mp4(frames, 8, tags={"comment": "x" * 100_000})
    assert content.index(b"moov") < content.index(b"mdat")
    assert np.array_equal(read_frames(content), frames)


def test_webp_has_all_frames_in_full_colour() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 4, 4, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    with Image.open(io.BytesIO(encode_webp(frames, 10, "hello"))) as webp:
        assert webp.n_frames == 3
        for index, wanted in enumerate(frames):
            webp.seek(index)
            assert np.abs(np.asarray(webp.convert("RGB")).astype(int) - wanted).mean() < 12
