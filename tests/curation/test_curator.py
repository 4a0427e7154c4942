"""Whole videos through the curator, and runs over several of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from square_faces import SquareFaces, draw, person, reason, video_at, write_mp4

from idanim.config import CONF_DIR
from idanim.curate import make_curator
from idanim.curation.decision import REASONS, RETRIED, Decision
from idanim.curation.local_engine import LocalEngine
from idanim.curation.results import ResultStore
from idanim.curation.run import curate_all
from idanim.curation.sources import find_videos
from idanim.data.sample import from_members, to_members
from idanim.pictures import decode_picture
from idanim.types import IdanimError
from idanim.video import read_frames


@pytest.fixture
def curator():
    """A curator with the program's own settings, but square faces and small clips."""
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "curate.yaml"))
    config["faces"] = {"_target_": "square_faces.SquareFaces"}
    config["clip"]["size"] = 32
    config["filter"] |= {"min_face_px": 12, "min_blur": 0}
    return make_curator(config)


class TestCurator:
    def test_a_good_video(self, tmp_path, curator):
        frames = person(100)
        sample = curator.curate(video_at(write_mp4(tmp_path / "anna__0.mp4", frames)))
        meta = sample.meta
        assert (meta.key, meta.identity, meta.num_frames, meta.fps) == ("anna__0", "anna", 64, 25.0)
        assert read_frames(sample.video).shape == (64, 32, 32, 3)
        assert [face.role for face in meta.faces] == ["pool"] * 5 + ["first_frame"]
        assert meta.faces[-1].frame == meta.start_frame == 0
        assert all(face.clip == "anna__0" for face in meta.faces)
        first = decode_picture(sample.first_frame, "first frame").astype(int)
        assert np.abs(first - read_frames(sample.video)[0]).mean() < 8
        # a face of 24 px is stored with 24 px: not magnified
        assert {decode_picture(face, "face").shape[0] for face in sample.faces} <= set(range(22, 27))
        back = from_members(to_members(sample))
        assert back == sample

    def test_the_pool_holds_frames_with_one_face_only(self, tmp_path, curator):
        curator = dataclasses.replace(
            curator, face_filter=dataclasses.replace(curator.face_filter, max_several_faces_share=0.5)
        )
        frames = person(120)
        frames[60:100] = draw(("red", "green"), x=20)
        sample = curator.curate(video_at(write_mp4(tmp_path / "a.mp4", frames)))
        assert len({face.frame for face in sample.meta.faces[:5]}) == 5
        assert not any(60 <= face.frame < 100 for face in sample.meta.faces)

    @pytest.mark.parametrize(
        ("frames", "expected"),
        [
            (person(15), "too_short"),
            (np.stack([draw(("red", "blue"))] * 30), "several_faces"),
            (np.stack([draw(())] * 30), "no_face"),
            (person(30, size=8), "face_too_small"),
            (np.concatenate([person(20), np.stack([draw(())] * 20)]), "no_face"),
            (np.concatenate([np.stack([draw(())] * 20), person(100), np.stack([draw(("red", "blue"))] * 60)]),
             "several_faces"),
        ],
    )  # fmt: skip
    def test_named_reasons(self, tmp_path, curator, frames, expected):
        error = reason(curator.curate, video_at(write_mp4(tmp_path / "a.mp4", frames)))
        assert error.reason == expected
        assert error.measured is not None
        assert error.threshold is not None

    def test_sixteen_frames_are_enough(self, tmp_path, curator):
        sample = curator.curate(video_at(write_mp4(tmp_path / "a.mp4", person(16))))
        assert sample.meta.num_frames == 16

    def test_the_draw_follows_the_seed(self, tmp_path, curator):
        video = video_at(write_mp4(tmp_path / "a.mp4", person(200)))

        def pool(seed):
            return [face.frame for face in dataclasses.replace(curator, seed=seed).curate(video).meta.faces]

        assert pool(0) == pool(0)
        assert pool(0) != pool(1)


class Failing(SquareFaces):
    """Fails with an error at its first picture."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def detect(self, rgb):
        if self.error:
            raise self.error
        return super().detect(rgb)


class TestRun:
    @pytest.fixture
    def run(self, tmp_path, curator):
        """Curates the videos of a folder as the program does, with results kept; returns the reasons."""

        def run(error=None, settings=0):
            failing = dataclasses.replace(curator, engine=Failing(error))
            videos = find_videos(tmp_path / "in")
            store = ResultStore(tmp_path / "work", {"settings": settings})
            results = curate_all(LocalEngine(0), lambda: failing, videos, store)
            return [result.decision.reason for result in results]

        return run

    def test_what_may_have_gone_is_tried_again_and_what_is_in_the_video_is_not(self, tmp_path, run):
        write_mp4(tmp_path / "in" / "a.mp4", person(30))
        assert run(OSError(5, "Input/output error")) == ["internal_error"]
        assert run(ValueError("odd")) == ["internal_error"]
        assert run() == [None]
        write_mp4(tmp_path / "in" / "a.mp4", person(15))
        assert run() == ["too_short"]
        assert run(OSError(5, "nobody looks at it again")) == ["too_short"]

    def test_every_retried_reason(self, tmp_path, run):
        write_mp4(tmp_path / "in" / "a.mp4", person(30))
        (video,) = find_videos(tmp_path / "in")
        store = ResultStore(tmp_path / "work", {"settings": 0})
        for name in REASONS:
            store.save(store.stem(video), video, Decision(video.name, video.key, name))
            assert (store.find(video) is None) == (name in RETRIED)
        assert {"internal_error", "file_not_readable"} <= RETRIED < REASONS.keys()

    def test_a_mistake_in_the_settings_ends_the_run_in_words(self, tmp_path, run):
        write_mp4(tmp_path / "in" / "a.mp4", person(30))
        with pytest.raises(IdanimError, match="embedding needs SFace"):
            run(IdanimError("embedding needs SFace"))
        assert run() == [None]

    def test_a_sidecar_that_can_not_be_read_is_the_reason_of_its_video(self, tmp_path, run, monkeypatch):
        for name in ("a", "b"):
            write_mp4(tmp_path / "in" / f"{name}.mp4", person(30))
        (tmp_path / "in" / "a.txt").write_text("a caption")
        with monkeypatch.context() as patch:
            real = Path.open

            def refuse(path, *args, **kwargs):
                if path.suffix == ".txt":
                    raise PermissionError(13, "Permission denied", str(path))
                return real(path, *args, **kwargs)

            patch.setattr(Path, "open", refuse)  # root may read everything, so no mode helps
            patch.setattr(Path, "read_bytes", lambda path: refuse(path, "rb").read())
            patch.setattr(Path, "read_text", lambda path, **kwargs: refuse(path, **kwargs).read())
            assert run() == ["bad_sidecar", None]
        assert run() == [None, None]

    def test_a_video_that_grew_while_it_was_read_is_done_again(self, tmp_path, run, curator):
        path = write_mp4(tmp_path / "in" / "a.mp4", person(15))

        class WhileItArrives(SquareFaces):
            def detect(self, rgb):
                path.write_bytes(b"more of it")
                return super().detect(rgb)

        (video,) = find_videos(tmp_path / "in")
        store = ResultStore(tmp_path / "work", {})
        stem = store.stem(video)
        arriving = dataclasses.replace(curator, engine=WhileItArrives())
        curate_all(LocalEngine(0), lambda: arriving, [video], store)
        assert {kept.stem for kept in (tmp_path / "work").iterdir()} == {stem} != {store.stem(video)}
