"""Curation of real clips with real face models: the right ones are rejected, for the right reason."""

import itertools
import json
import sys

import numpy as np
import pytest

from idanim.curate import main
from idanim.data.sample import from_members
from idanim.data.shards import ShardIndex, find_shards
from idanim.pictures import decode_picture
from idanim.video import read_frames

pytest.importorskip("insightface")
pytestmark = pytest.mark.real_input

SIZE_PX = 64


@pytest.fixture(scope="module")
def output(real_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    arguments = [
        f"input={real_dir / 'clips'}",
        f"output={folder}",
        "faces=insightface",
        "faces.pack=yunet_mobilefacenet",
        f"faces.root={real_dir / 'models/insightface'}",
        f"clip.size={SIZE_PX}",
        # coarser than by default, because these tests are to be quick
        "sampling.detect_fps=1",
        "faces.det_size=320",
        "clip.max_frames=32",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["curate", *arguments])
        main()
    return folder


@pytest.fixture(scope="module")
def clips(real_dir):
    files = json.loads((real_dir / "MANIFEST.json").read_text())["files"]
    return {entry["file"].removeprefix("clips/"): entry for entry in files if entry["kind"] == "clip"}


@pytest.fixture(scope="module")
def samples(output):
    found = {}
    for split in ("train", "val"):
        for path in find_shards(str(output), split):
            index = ShardIndex.scan(path)
            for key in index.keys:
                sample = from_members(index.read(key))
                found[sample.meta.source] = sample
    return found


def test_every_clip_is_decided_as_labelled(output, clips):
    decisions = {row["source"]: row["reason"] for row in json.loads((output / "report.json").read_text())["decisions"]}
    expected = {}
    for name, entry in clips.items():
        if name.startswith("several_faces"):
            expected[name] = "several_faces"
        elif name.startswith("no_face"):
            expected[name] = "no_face"
        else:
            assert entry["role"].startswith("single")
            expected[name] = None if entry["frames"] >= 16 else "too_short"
    assert decisions == expected


def test_samples_hold_what_they_say(samples, clips):
    for source, sample in samples.items():
        meta = sample.meta
        frames = read_frames(sample.video)
        assert frames.shape == (meta.num_frames, SIZE_PX, SIZE_PX, 3)
        assert 16 <= meta.num_frames <= 32
        assert meta.fps == pytest.approx(clips[source]["fps"], abs=0.01)
        assert meta.identity == clips[source]["identity"]
        first = decode_picture(sample.first_frame, source).astype(int)
        assert np.abs(first - frames[0]).mean() < 8
        own = [face for face in meta.faces if face.clip == meta.key]
        assert [face.role for face in own] == ["pool"] * 5 + ["first_frame"]
        assert all(abs(face.yaw_deg) < 60 and abs(face.pitch_deg) < 60 and face.blur > 10 for face in own)


def test_crops_are_as_large_as_the_source_allows(samples):
    for source, sample in samples.items():
        for meta, picture in zip(sample.meta.faces, sample.faces, strict=True):
            size = decode_picture(picture, source).shape[0]
            # An aligned crop is some 1.3 to 1.7 times as wide as the box; it is never magnified.
            assert 1.1 * meta.size_px < size < 1.9 * meta.size_px
            assert size >= 224 or meta.size_px < 170


def test_the_whole_face_is_in_the_clip(samples):
    for sample in samples.values():
        left, top, right, bottom = sample.meta.crop_box
        for face in sample.meta.faces:
            if face.clip == sample.meta.key and face.role == "first_frame":
                assert left <= face.box[0]
                assert top <= face.box[1]
                assert face.box[2] <= right
                assert face.box[3] <= bottom


def test_the_same_person_is_closer_than_any_other(samples):
    same, other = [], []
    for a, b in itertools.combinations(samples.values(), 2):
        own_a = np.array([face.embedding for face in a.meta.faces if face.clip == a.meta.key])
        own_b = np.array([face.embedding for face in b.meta.faces if face.clip == b.meta.key])
        (same if a.meta.identity == b.meta.identity else other).extend((own_a @ own_b.T).ravel())
    assert np.median(same) > 0.6
    assert np.quantile(other, 0.99) < 0.35
    assert min(same) > np.quantile(other, 0.99)


def test_people_with_two_clips_get_each_others_faces(samples, clips):
    for source, sample in samples.items():
        linked = {face.clip for face in sample.meta.faces} - {sample.meta.key}
        partners = {s.meta.key for s in samples.values() if s.meta.identity == sample.meta.identity} - {sample.meta.key}
        assert linked == partners, source
    assert sum(len({face.clip for face in s.meta.faces}) > 1 for s in samples.values()) >= 8
