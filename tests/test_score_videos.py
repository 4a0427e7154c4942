"""Scoring videos of any other system from a manifest: bad input, and going on after a kill."""

import json
import multiprocessing
import signal
import time

import numpy as np
import pytest
import torch
from drawn_evaluation import DrawingSampler, DrawnEngine, evaluate_grid, run, write_checkpoint
from drawn_people import draw_face
from PIL import Image

from idanim.evaluation import evaluate
from idanim.types import Face, IdanimError
from idanim.video import UnusableVideoError, to_uint8
from idanim.video_encoding import encode_mp4

GREY = np.full((32, 32, 3), 128, np.uint8)


def film(person, num_frames=6, size=32):
    return np.stack([draw_face(person, shift=i % 3, size=size) for i in range(num_frames)])


@pytest.fixture
def folder(tmp_path):
    """Photos of two people in two groups, and what videos may be like."""
    videos = {
        "good.mp4": encode_mp4(film(0), 8),
        "swapped.mp4": encode_mp4(film(3), 8),
        "grey.mp4": encode_mp4(np.stack([GREY] * 6), 8),
        "one.mp4": encode_mp4(film(0, 1), 8),
        "large.mp4": encode_mp4(film(0, 9, 64), 8),
        "two.mp4": encode_mp4(np.concatenate([film(0), film(1)], axis=2), 8),
        "torn.mp4": encode_mp4(film(0), 8)[:700],
        "text.mp4": b"no video",
    }
    (tmp_path / "videos").mkdir()
    for name, content in videos.items():
        (tmp_path / "videos" / name).write_bytes(content)
    for group, person in (("celebrity", 0), ("ordinary", 1)):
        (tmp_path / "photos" / group).mkdir(parents=True)
        Image.fromarray(draw_face(person, size=64)).save(tmp_path / "photos" / group / f"p{person}__1.png")
    return tmp_path


class TwoFaces(DrawnEngine):
    """Sees a picture that is twice as wide as high as two faces."""

    def detect(self, rgb):
        height, width = rgb.shape[:2]
        if width < 2 * height:
            return super().detect(rgb)
        return super().detect(rgb[:, : width // 2]) + [
            Face((f.box[0] + height, f.box[1], f.box[2] + height, f.box[3]), f.landmarks, f.score)
            for f in super().detect(rgb[:, width // 2 :])
        ]


def score(folder, rows, output="out", **values):
    path = folder / "manifest.jsonl"
    base = {"prompt": "a hat", "person": "p0", "num_frames": 6, "width": 32, "height": 32}
    path.write_text("".join(json.dumps(base | {"seed": i} | row) + "\n" for i, row in enumerate(rows)))
    values = {"videos": str(folder / "videos"), "manifest": str(path), "references": str(folder / "photos"), **values}
    job = run(folder / output, **values)
    job.config["faces"] = {"_target_": f"{__name__}.TwoFaces"}
    return evaluate(job, load=None)


def test_every_kind_of_bad_video_is_named(folder):
    names = ["good", "swapped", "grey", "one", "large", "two", "torn", "text", "gone"]
    result = score(folder, [{"path": f"{name}.mp4"} for name in names])
    rows = {row["video"].removesuffix(".mp4"): row for row in result["videos"]}
    kinds = {name: [remark.partition(":")[0] for remark in row["remarks"]] for name, row in rows.items()}
    assert kinds == {
        "good": [],
        "swapped": [],
        "grey": ["no_face"],
        "one": ["one_frame", "length"],
        "large": ["length", "size"],
        "two": ["several_faces", "size"],
        "torn": ["unreadable"],
        "text": ["unreadable"],
        "gone": ["missing"],
    }
    assert rows["large"]["remarks"] == ["length: 9 frames, 6 expected", "size: 64 × 64, 32 × 32 expected"]
    similarity = {name: row["face_similarity"] for name, row in rows.items()}
    assert similarity["good"] > 0.99
    assert similarity["swapped"] < 0.5
    assert [similarity[name] for name in ("grey", "torn", "text", "gone")] == [0, 0, 0, 0]
    assert rows["one"]["motion"] is None
    assert result["remarks"]["unreadable"] == 2
    report = (folder / "out" / "report.md").read_text()
    assert "Unreadable or missing" in report
    assert "gone.mp4: missing: there is no such file" in report
    page = (folder / "out" / "report.html").read_text()
    assert page.index("gone.mp4") < page.index('"video":"grey.mp4"') < page.index('"video":"good.mp4"')


def test_groups_of_people(folder):
    rows = [{"path": "good.mp4"}, {"path": "swapped.mp4", "person": "p1"}]
    result = score(folder, rows)
    figures = {name: group["face_similarity"]["mean"] for name, group in result["people_groups"]["videos"].items()}
    assert figures["celebrity"] > 0.9 > figures["ordinary"]
    assert {row["identity"]: row["people_group"] for row in result["videos"]} == {"p0": "celebrity", "p1": "ordinary"}
    assert "people: celebrity" in (folder / "out" / "report.md").read_text()


def test_references_of_the_manifest(folder):
    row = {"path": "good.mp4", "reference": "photos/celebrity/p0__1.png"}
    alone = score(folder, [row, row | {"seed": 0}], references=None)
    assert alone["people_from"] == {"shown": ["photos of the manifest"], "strangers": []}
    assert alone["summary"]["face_similarity"]["mean"] > 0.99
    assert (
        "repeat another and count once: 1; videos in the folder that it does not list"
        in (folder / "out" / "report.md").read_text()
    )
    among = score(folder, [row])
    assert among["people_from"]["strangers"] == [f"photos in {folder / 'photos'}"]
    assert among["num_people_compared"] == 2


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([{"path": "gone.mp4"}], {}, r"none of the 1 videos can be read; gone\.mp4: missing"),
        ([{"path": "good.mp4", "prompt": ""}], {}, "empty or missing"),
        ([{"path": "good.mp4", "person": "p9"}], {}, "no reference for p9, .* people found: p0, p1"),
        ([{"path": "good.mp4"}], {"videos": None}, r"give videos=<folder>, too"),
        ([{"path": "good.mp4"}], {"systems": ["adapter"]}, "give either ckpt"),
        ([{"path": "good.mp4"}], {"references": "{folder}/videos"}, "no photo in it"),
    ],
)
def test_mistakes_are_named(folder, rows, values, message):
    values = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in values.items()}
    with pytest.raises(IdanimError, match=message):
        score(folder, rows, **values)


def test_a_reference_without_a_face_is_an_error_and_of_two_the_largest_is_taken(folder, caplog):
    both = np.concatenate([draw_face(0, size=64), draw_face(1, size=64)], axis=1)
    Image.fromarray(both).save(folder / "photos" / "celebrity" / "p0__0.png")
    assert score(folder, [{"path": "good.mp4"}])["summary"]["face_similarity"]["mean"] > 0.99
    assert "p0__0.png: 2 faces, the largest is taken" in caplog.text
    Image.fromarray(GREY).save(folder / "photos" / "ordinary" / "p1__2.png")
    with pytest.raises(IdanimError, match=r"drawn/1 finds no face in p1__2\.png"):
        score(folder, [{"path": "good.mp4"}])


def test_somebody_in_two_groups_is_an_error(folder):
    Image.fromarray(draw_face(0, size=64)).save(folder / "photos" / "ordinary" / "p0__2.png")
    with pytest.raises(IdanimError, match="photos of p0 lie in two groups, celebrity and ordinary"):
        score(folder, [{"path": "good.mp4"}])


def test_frames_that_are_not_numbers_are_a_named_failure(tmp_path, shards):
    with pytest.raises(UnusableVideoError, match="1 of 12 pixel values are not numbers"):
        to_uint8(torch.tensor([float("nan"), *[0.0] * 11]).view(3, 2, 2))

    class Overflowing(DrawingSampler):
        def generate(self, references, prompt, *args, **kwargs):
            if prompt == "a hat":
                to_uint8(torch.full((3, 2, 2), float("nan")))
            return super().generate(references, prompt, *args, **kwargs)

    ckpt = write_checkpoint(tmp_path / "adapter.safetensors")
    result = evaluate_grid(tmp_path / "out", ckpt, shards, Overflowing(), num_identities=1)
    problems = {row["prompt"]: row["problem"] for row in result["videos"]}
    assert problems["a beach"] is None
    assert problems["a hat"].startswith("not_a_number: 12 of 12")
    assert {row["prompt"]: row["face_similarity"] for row in result["videos"]}["a hat"] == 0


# ------------------------------------------------------------------------------------------- resume


class Counting(DrawnEngine):
    """Counts the pictures looked at, and gives up after a number of them."""

    budget = 10_000
    looks = 0

    def detect(self, rgb):
        if Counting.looks >= Counting.budget:
            raise KeyboardInterrupt
        Counting.looks += 1
        return super().detect(rgb)


def count(folder, rows, budget=10_000, output="out", **values):
    Counting.looks, Counting.budget = 0, budget
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = run(
        folder / output,
        videos=str(folder / "videos"),
        manifest=str(path),
        references=str(folder / "photos"),
        num_strangers=0,
        **values,
    )
    job.config["faces"] = {"_target_": f"{__name__}.Counting"}
    return evaluate(job, load=None), Counting.looks


ROWS = [{"path": f"{name}.mp4", "prompt": name, "person": "p0"} for name in ("good", "swapped", "grey", "large")]
PHOTOS = 2
"""Looks at the one photo: for the face, and for pose and surroundings of its crop."""


def test_scoring_goes_on_where_it_stopped(folder):
    straight, looks = count(folder, ROWS, output="straight")
    assert looks == PHOTOS + 6 + 6 + 6 + 9
    with pytest.raises(KeyboardInterrupt):
        count(folder, ROWS, budget=PHOTOS + 15)
    resumed, looks = count(folder, ROWS)
    assert looks == PHOTOS + 6 + 9
    assert resumed == straight
    assert count(folder, ROWS) == (straight, PHOTOS)


def test_only_what_changed_is_scored_again(folder):
    count(folder, ROWS)
    (folder / "videos" / "grey.mp4").write_bytes(encode_mp4(film(0), 8))
    assert count(folder, ROWS)[1] == PHOTOS + 6
    changed = [ROWS[0] | {"prompt": "another"}, *ROWS[1:]]
    assert count(folder, changed)[1] == PHOTOS + 6
    assert count(folder, changed, scoring={"num_frames": 2})[1] == PHOTOS + 4 * 2
    (folder / "out" / "scores" / "good.mp4.json").write_text('{"key":')
    assert count(folder, changed, scoring={"num_frames": 2})[1] == PHOTOS + 2
    Image.fromarray(draw_face(2, size=64)).save(folder / "photos" / "celebrity" / "p0__1.png")
    assert count(folder, changed, scoring={"num_frames": 2})[1] == PHOTOS + 4 * 2


def count_slowly(folder):
    look = Counting.detect

    def look_slowly(engine, rgb):
        time.sleep(0.05)
        return look(engine, rgb)

    Counting.detect = look_slowly
    count(folder, ROWS)


def test_a_killed_process_loses_one_video_at_most(folder):
    straight, _ = count(folder, ROWS, output="straight")
    process = multiprocessing.get_context("fork").Process(target=count_slowly, args=(folder,))
    process.start()
    deadline = time.monotonic() + 60
    while len(stored_scores(folder)) < 2 and time.monotonic() < deadline and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert stored_scores(folder) == ["good.mp4.json", "swapped.mp4.json"]
    assert not (folder / "out" / "metrics.json").exists()
    resumed, looks = count(folder, ROWS)
    assert looks == PHOTOS + 6 + 9
    assert resumed == straight


def stored_scores(folder):
    return sorted(path.name for path in (folder / "out" / "scores").glob("[!.]*.json"))
