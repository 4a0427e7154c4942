"""The stages one by one."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from drawn_people import make_sample
from square_faces import draw, reason, video_at

from idanim.curation.captions import read_sidecar
from idanim.curation.chance import place, rng_for
from idanim.curation.claim import claim
from idanim.curation.cut import Clip, square_crop
from idanim.curation.decision import REASONS
from idanim.curation.face_pool import Cutout, FaceDraw, RandomFaces
from idanim.curation.link import Linker
from idanim.curation.pack import Packing
from idanim.curation.results import ClipEntry, ResultStore
from idanim.curation.scan import FrameSampling, SampledFrame, Scan
from idanim.curation.sources import IdentityNames, SourceVideo, clip_key, find_videos
from idanim.faces.align import ARCFACE_TEMPLATE
from idanim.types import Face, IdanimError
from idanim.video import UnreadableVideoError
from idanim.video_part import VideoInfo


def face_at(left, top, size=20.0):
    return Face((left, top, left + size, top + size), np.zeros((5, 2), np.float32), 0.9)


def scan_of(counts, stride=10, num_frames=None, width=100, height=100):
    samples = tuple(SampledFrame(i * stride, (face_at(40, 40),) * n) for i, n in enumerate(counts))
    length = num_frames or len(counts) * stride
    return Scan(VideoInfo(width, height, 25.0, 0), length, 25.0, samples, (0, length), 1, tuple(counts))


def anybody(sample):
    return True


def test_reasons_of_unreadable_videos_are_known():
    listed = re.search(r"reason: one of (.*?)\.", UnreadableVideoError.__doc__, re.DOTALL)[1]
    assert set(re.findall(r'"(\w+)"', listed)) <= REASONS.keys()


def test_every_reason_is_documented_and_nothing_else():
    text = (Path(__file__).parents[2] / "docs" / "curation.md").read_text()
    table = text.split("## Reasons")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.*?)(?: \(.*\))? \|", table, re.MULTILINE)) == REASONS


class TestSources:
    def test_keys_are_plain_stable_and_different(self):
        assert clip_key("person_00__0.mp4") == "person_00__0"
        names = ["a b.mp4", "a_b.mp4", "a.b.mp4", "a/b.mp4", "a.mov", "a.mp4", "é.mp4", "人.mp4", "x" * 300 + ".mp4"]
        keys = [clip_key(name) for name in names]
        assert len(set(keys)) == len(names)
        for key in keys:
            assert len(key) <= 80
            assert all(c.isascii() and (c.isalnum() or c in "_-") for c in key)

    def test_finds_videos_by_ending_in_subfolders_and_no_others(self, tmp_path):
        for name in ("b.MP4", "sub/a.mov", "notes.txt", ".hidden.mp4", "sub/.git/x.mp4", "c.jpg"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert [video.name for video in find_videos(tmp_path)] == ["b.MP4", "sub/a.mov"]

    def test_folders_without_videos(self, tmp_path):
        with pytest.raises(IdanimError, match="no such folder"):
            find_videos(tmp_path / "gone")
        with pytest.raises(IdanimError, match="it is empty"):
            find_videos(tmp_path)
        (tmp_path / "notes.txt").touch()
        with pytest.raises(IdanimError, match="none of its 1 files is a video"):
            find_videos(tmp_path)
        with pytest.raises(IdanimError, match="is a file"):
            find_videos(tmp_path / "notes.txt")

    def test_identity_from_the_name(self, tmp_path):
        names = IdentityNames("^(.+?)__")
        assert names.of(SourceVideo(tmp_path / "anna__3.mp4", "anna__3.mp4", "k")) == "anna"
        assert names.of(SourceVideo(tmp_path / "film.mp4", "one/film.mp4", "k")) == "one/film"
        assert IdentityNames("^([^/]+)/").of(SourceVideo(tmp_path / "x.mp4", "anna/x.mp4", "k")) == "anna"

    @pytest.mark.parametrize("pattern", ["(", "abc"])
    def test_bad_identity_patterns(self, pattern):
        with pytest.raises(IdanimError, match=r"identity\.pattern"):
            IdentityNames(pattern)

    def test_names_that_are_not_utf8_can_be_written_to_files(self, tmp_path):
        (tmp_path / "a\udcff.mp4").touch()
        (video,) = find_videos(tmp_path)
        assert (video.name, video.stem) == (r"a\xff.mp4", r"a\xff")
        assert video.path.is_file()

    def test_version_follows_file_and_sidecars(self, tmp_path):
        video = video_at(tmp_path / "a.mp4")
        video.path.write_bytes(b"1")
        first = video.version()
        (tmp_path / "a.txt").write_text("a man")
        second = video.version()
        (tmp_path / "a.txt").write_text("a boy")
        third = video.version()
        video.path.write_bytes(b"12")
        assert len({first, second, third, video.version()}) == 4


class TestCaptions:
    def test_json_and_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("\ufeffA man\n in a hat ", encoding="utf-8")
        assert read_sidecar(video_at(tmp_path / "a.mp4")).captions == {"unified": "A man in a hat"}
        (tmp_path / "a.json").write_text(json.dumps({"action": "walks", "identity": "Jo", "likes": 3}))
        sidecar = read_sidecar(video_at(tmp_path / "a.mp4"))
        assert sidecar.captions == {"action": "walks", "unified": "A man in a hat"}
        assert sidecar.identity == "Jo"

    @pytest.mark.parametrize(
        "content", ["{", "[1]", '"\\ud800"', "[" * 100_000, '{"unified": 3}', '{"identity": ["x"]}']
    )
    def test_a_sidecar_that_can_not_be_used(self, tmp_path, content):
        (tmp_path / "a.json").write_text(content)
        assert reason(read_sidecar, video_at(tmp_path / "a.mp4")).reason == "bad_sidecar"

    def test_text_of_another_encoding(self, tmp_path):
        (tmp_path / "a.txt").write_bytes("naïve".encode("latin-1"))
        assert reason(read_sidecar, video_at(tmp_path / "a.mp4")).reason == "bad_sidecar"


class TestSampling:
    @pytest.mark.parametrize(
        ("fps", "num_frames", "stride"),
        [
            (25, 250, 12),
            (30, 300, 15),
            (25, 16, 1),
            (25, 36, 3),
            (1, 100, 1),
            (25, 0, 12),
            (60, 600, 30),
            (240, 4800, 30),
        ],
    )
    def test_stride(self, fps, num_frames, stride):
        assert FrameSampling(2.0, 12).stride(VideoInfo(64, 64, fps, num_frames)) == stride


class TestFaceDraw:
    def test_each_frame_is_equally_likely_and_none_is_drawn_twice(self):
        hits = np.zeros(10)
        picture = draw()
        face = Face((36, 36, 60, 60), (ARCFACE_TEMPLATE * 24 / 112 + 36).astype(np.float32), 0.9)
        for seed in range(400):
            faces = FaceDraw(3, RandomFaces(), np.random.default_rng(seed))
            for frame in range(10):
                faces.offer(Cutout.take(frame, picture, face))
            drawn = [cutout.frame for cutout in faces.drawn()]
            assert len(set(drawn)) == 3
            hits[drawn] += 1
        assert np.abs(hits - 120).max() < 35  # 3.8 standard deviations

    def test_a_cutout_keeps_pixels_and_place(self):
        picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
        face = Face((60, 10, 80, 40), np.full((5, 2), [70, 20], np.float32), 0.9)
        cutout = Cutout.take(3, picture, face)
        x, y = (int(v) for v in cutout.local_face.landmarks[0])
        np.testing.assert_array_equal(cutout.rgb[y, x], picture[20, 70])
        assert cutout.rgb.shape[0] < 80


class TestCut:
    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            ([1] * 10, (0, 64)),
            ([2, 1, 1, 1, 1], (10, 40)),  # to the end of the video
            ([1, 1, 1, 2, 1, 1], (0, 21)),  # to the last frame that was looked at
            ([1, 0, 1, 1, 0, 1, 1, 1, 2], (50, 21)),
        ],
    )
    def test_span(self, counts, expected):
        span = Clip(16, 64, 32).choose_span(scan_of(counts), anybody)
        assert (span.start, span.length) == expected
        assert span.samples[0].index == span.start

    def test_no_span(self):
        error = reason(Clip(16, 64, 32).choose_span, scan_of([1, 2, 1, 1, 0, 1, 0]), anybody)
        assert (error.reason, error.measured, error.threshold) == ("no_single_face_span", 11, 16)

    def test_crop_is_central_unless_the_face_is_elsewhere(self):
        assert square_crop(200, 100, [face_at(90, 40)]) == (50, 0, 150, 100)
        assert square_crop(100, 201, []) == (0, 50, 100, 150)
        assert square_crop(200, 100, [face_at(10, 40)]) == (10, 0, 110, 100)
        assert square_crop(100, 200, [face_at(40, 175)]) == (0, 95, 100, 195)
        assert square_crop(100, 200, [face_at(40, -5)]) == (0, 0, 100, 100)
        assert square_crop(100, 200, [face_at(40, 5), face_at(40, 165)]) == (0, 45, 100, 145)

    @pytest.mark.parametrize("settings", [(16, 64, 33), (16, 8, 32), (0, 8, 32)])
    def test_settings_that_make_no_clip(self, settings):
        with pytest.raises(IdanimError, match=r"clip\."):
            Clip(*settings)


class TestLinks:
    ENTRIES = tuple(ClipEntry(f"p{p}__{c}", f"p{p}", 100, dict.fromkeys(range(5), 10)) for p in range(2) for c in "abc")

    def test_faces_of_the_other_clips_of_the_person_only(self):
        links = Linker(20, -1, 1, 0.5, 0).choose(self.ENTRIES)
        assert links["p0__b"] == [("p0__a", (0, 1, 2, 3, 4)), ("p0__c", (0, 1, 2, 3, 4))]

    def test_the_number_is_bounded_and_does_not_depend_on_order(self):
        links = Linker(4, -1, 1, 0.5, 0).choose(self.ENTRIES)
        assert all(sum(len(indices) for _, indices in choice) == 4 for choice in links.values())
        assert Linker(4, -1, 1, 0.5, 0).choose(self.ENTRIES[::-1]) == links
        assert Linker(4, -1, 1, 0.5, 1).choose(self.ENTRIES) != links


class TestLeaks:
    def results(self, store, faces):
        """One accepted result a video; `faces` gives the vectors of each."""
        made = []
        for key, vectors in faces.items():
            sample = make_sample(0)
            record = sample.meta.faces[0]
            metas = tuple(dataclasses.replace(record, clip=key, embedding=vector) for vector in vectors)
            meta = dataclasses.replace(sample.meta, key=key, faces=metas)
            sample = dataclasses.replace(sample, meta=meta, faces=sample.faces[: len(metas)])
            made.append(store.save(key, SourceVideo(Path(f"{key}.mp4"), f"{key}.mp4", key), sample))
        return made

    def test_the_most_similar_faces_decide_most_similar_pair_first(self, tmp_path):
        store = ResultStore(tmp_path, {})
        train = self.results(store, {"a": [(1.0, 0.0), (0.0, 1.0)], "b": [(0.0, -1.0)]})
        val = self.results(store, {"c": [(0.0, -1.0)], "d": [(0.8, 0.6), (-1.0, 0.0), (0.6, 0.8)], "e": [(-1.0, 0.0)]})

        def leaks(limit, train, val):
            return [
                (leak.train[0], leak.val[0], leak.similarity)
                for leak in Linker(0, -1, 1, limit, 0).find_leaks(train, val)
            ]

        assert leaks(0.5, train, val) == [("b", "c", 1.0), ("a", "d", 0.8)]
        assert leaks(0.9, train, val) == [("b", "c", 1.0)]
        assert leaks(0.5, train, []) == leaks(0.5, [], val) == []


class TestClaim:
    def test_another_input_is_refused_and_the_same_or_an_asked_one_is_not(self, tmp_path):
        output = tmp_path / "out"
        claim(output, tmp_path / "one", replace=False)
        claim(output, tmp_path / "sub" / ".." / "one", replace=False)
        with pytest.raises(IdanimError, match=r"holds the shards of .*/one, .*/two would replace.*replace=true"):
            claim(output, tmp_path / "two", replace=False)
        claim(output, tmp_path / "two", replace=True)
        claim(output, tmp_path / "two", replace=False)

    def test_work_of_an_unknown_input_is_not_lost_and_other_files_do_not_matter(self, tmp_path):
        (tmp_path / "mine.tar").touch()
        claim(tmp_path, tmp_path / "one", replace=False)
        for file in ("train-000000.tar", "work/videos/a-0.tar"):
            output = tmp_path / Path(file).stem
            (output / file).parent.mkdir(parents=True)
            (output / file).touch()
            with pytest.raises(IdanimError, match="unknown input"):
                claim(output, tmp_path / "one", replace=False)


class TestPacking:
    def test_validation_people(self):
        names = [f"person {i}" for i in range(1000)]
        chosen = Packing(10, 10, 0.1, 0).validation_people(names)
        assert 70 < len(chosen) < 130
        assert Packing(10, 10, 0.1, 0).validation_people(names[:500]) == chosen & set(names[:500])
        assert Packing(10, 10, 0.0, 0).validation_people(names) == set()
        assert Packing(10, 10, 0.5, 0).validation_people(["a"]) == set()
        for fraction in (0.0001, 0.9999):
            assert len(Packing(10, 10, fraction, 0).validation_people("ab")) == 1

    def test_only_a_person_who_was_forced_moves_when_others_are_added(self):
        packing = Packing(10, 10, 0.1, 0)
        names = sorted((f"person {i}" for i in range(100)), key=lambda name: place(0, name))
        first, second = [name for name in names if place(0, name) >= 0.1][:2]
        assert packing.validation_people([second, names[-1]]) == {second}  # nobody is below 0.1
        assert packing.validation_people([second, names[-1], first]) == {first}
        assert packing.validation_people([*names, "one more"]) - {"one more"} == packing.validation_people(names)

    def test_shards_are_bounded_by_count_and_size(self):
        entries = [ClipEntry(f"c{i}", f"p{i}", 400_000, {}) for i in range(10)]
        links = {entry.key: [] for entry in entries}
        by_count = Packing(3, 100, 0.0, 0).plan(entries, links)
        assert [len(plan.keys) for plan in by_count] == [3, 3, 3, 1]
        by_size = Packing(100, 1, 0.0, 0).plan(entries, links)
        assert [len(plan.keys) for plan in by_size] == [2] * 5
        assert [plan.name for plan in by_size][:2] == ["train-000000.tar", "train-000001.tar"]
        assert len(Packing(100, 0.1, 0.0, 0).plan(entries, links)) == 10


def test_chance_depends_on_seed_and_name_only():
    assert rng_for(0, "a").random() == rng_for(0, "a").random()
    assert len({rng_for(seed, name).random() for seed in (0, 1) for name in "ab"}) == 4
    assert len({place(seed, name) for seed in (0, 1) for name in "ab"}) == 4
