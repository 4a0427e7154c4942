from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from drawn_people import NUM_FRAMES, SIZE_PX, make_sample, make_shards

from idanim.data import references
from idanim.data.datamodule import ClipDataModule
from idanim.data.dataset import collate
from idanim.data.order import InOrder
from idanim.data.sample import to_members
from idanim.data.shards import write_shard
from idanim.types import ClipBatch, Face, IdanimError


class CountingEncoder:
    """Stands for a VAE: averages pixels to a quarter of the size and counts its calls."""

    latent_fingerprint = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def to(self, device: torch.device) -> None:
        self.device = device

    def encode_video(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls += 1
        small = torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), 4).unflatten(0, pixels.shape[:2])
        return small.transpose(1, 2), torch.full_like(small.transpose(1, 2), 0.1)


def make_data(folder: Path, max_steps: int = 6, step: int = 0, **changes) -> ClipDataModule:
    options = {
        "shards": str(folder),
        "encoder": CountingEncoder(),
        "strategy": references.random_reference,
        "reference_size": 16,
        "num_frames": NUM_FRAMES,
        "height": SIZE_PX,
        "width": SIZE_PX,
        "batch_size": 4,
        "latents": None,
    }
    data = ClipDataModule(**options | changes)
    data.trainer = SimpleNamespace(
        world_size=1,
        global_rank=0,
        global_step=step,
        max_steps=max_steps,
        accumulate_grad_batches=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def batches(data: ClipDataModule) -> list[ClipBatch]:
    data.prepare_data()
    return list(data.train_dataloader())


def assert_equal(a: ClipBatch, b: ClipBatch) -> None:
    assert (a.keys, a.captions, a.identities) == (b.keys, b.captions, b.identities)
    assert all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("latents", "references", "seeds"))


def test_batch_keeps_the_contract(shards: Path) -> None:
    batch = batches(make_data(shards))[0]
    assert batch.latents.shape == (4, 3, NUM_FRAMES, SIZE_PX // 4, SIZE_PX // 4)
    assert batch.latents.dtype == batch.references.dtype == torch.float32
    assert batch.references.shape == (4, 1, 3, 16, 16)
    assert batch.references.min() >= -1
    assert batch.references.max() <= 1
    assert batch.seeds.dtype == torch.int64


def test_latents_are_encoded_once_and_follow_what_they_depend_on(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=2, clips=1, val=0)
    encoder = CountingEncoder()
    make_data(folder, encoder=encoder).prepare_data()
    make_data(folder, encoder=encoder).prepare_data()
    assert encoder.calls == 2
    make_data(folder, encoder=encoder, num_frames=4).prepare_data()
    assert encoder.calls == 4
    write_shard(folder / "train-000000.tar", [make_sample(7), make_sample(8)])  # same name, other clips
    make_data(folder, encoder=encoder).prepare_data()
    assert encoder.calls == 6


def test_latents_are_those_of_the_clip(shards: Path) -> None:
    data = make_data(shards)
    data.prepare_data()
    shard = data._shards("train")[0]
    mean, _ = data._latents().read(shard, shard.keys[0])
    window = data.window.read(shard.read(shard.keys[0])["mp4"])
    expected, _ = CountingEncoder().encode_video(window[None])
    assert torch.allclose(mean, expected[0], atol=1e-3)  # float16


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(shards: Path, workers: int) -> None:
    for a, b in zip(batches(make_data(shards)), batches(make_data(shards, num_workers=workers)), strict=True):
        assert_equal(a, b)


def test_resuming_goes_on_where_the_run_stopped(shards: Path) -> None:
    straight = batches(make_data(shards))
    resumed = batches(make_data(shards, step=4))
    assert len(resumed) == 2
    for a, b in zip(straight[4:], resumed, strict=True):
        assert_equal(a, b)


def test_null_text_comes_at_its_rate_and_runs_are_paired(shards: Path) -> None:
    plain = [c for b in batches(make_data(shards, max_steps=150, null_text_prob=0.0)) for c in b.captions]
    dropped = [c for b in batches(make_data(shards, max_steps=150, null_text_prob=0.2)) for c in b.captions]
    assert "" not in plain
    rate = dropped.count("") / len(dropped)
    assert 0.15 < rate < 0.25
    assert all(a in ("", b) for a, b in zip(dropped, plain, strict=True))


def test_strategy_changes_nothing_but_the_reference(shards: Path) -> None:
    for a, b in zip(
        batches(make_data(shards)), batches(make_data(shards, strategy=references.first_frame)), strict=True
    ):
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.seeds, b.seeds)
        assert a.captions == b.captions


def test_caption_kinds(shards: Path) -> None:
    actions = {c for b in batches(make_data(shards, caption="action", null_text_prob=0.0)) for c in b.captions}
    assert actions == {"moving"}
    with pytest.raises(IdanimError, match=r"data\.caption"):
        batches(make_data(shards, caption="nonsense"))


def test_mixed_captions_are_drawn_for_each_sample_alone(shards: Path) -> None:
    data = make_data(shards, caption="mixed", null_text_prob=0.0)
    data.prepare_data()
    dataset = data._dataset("train", InOrder([4, 4, 4]), 0.0)
    forward = [dataset[number].caption for number in range(240)]
    backward = [dataset[number].caption for number in reversed(range(240))]
    assert forward == backward[::-1]
    kinds = [("action" if c == "moving" else "unified" if c.endswith("moving") else "attribute") for c in forward]
    assert all(60 <= kinds.count(kind) <= 100 for kind in ("attribute", "action", "unified"))
    unified = [c for b in batches(make_data(shards, null_text_prob=0.0)) for c in b.captions]
    mixed = batches(make_data(shards, caption="mixed", null_text_prob=0.0))
    assert all(c in u for u, c in zip(unified, (c for b in mixed for c in b.captions), strict=True))  # the same clips
    for a, b in zip(mixed[3:], batches(make_data(shards, caption="mixed", null_text_prob=0.0, step=3)), strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(
    ("present", "asked", "expected"),
    [
        (("attribute", "action"), "unified", "moving"),
        (("attribute",), "unified", "person 1"),
        (("attribute", "unified"), "action", "person 1 moving"),
        (("attribute",), "mixed", "person 1"),
    ],
)
def test_a_missing_kind_falls_back_to_the_richest(
    tmp_path: Path, present: tuple[str, ...], asked: str, expected: str
) -> None:
    sample = make_sample(1)
    captions = {kind: text for kind, text in sample.meta.captions.items() if kind in present}
    states = {kind: "written" if kind in present else "refused" for kind in sample.meta.captions}
    write_shard(
        tmp_path / "train-000000.tar",
        [replace(sample, meta=replace(sample.meta, captions=captions, caption_states=states))],
    )
    (batch, *_) = batches(make_data(tmp_path, caption=asked, null_text_prob=0.0, batch_size=1))
    assert batch.captions == [expected]


def break_one(folder: Path, **members: bytes | None) -> None:
    """Rewrite the first shard with members of its first sample replaced or removed."""
    path = folder / "train-000000.tar"
    good = [make_sample(p) for p in range(4)]
    write_shard(path, good)
    contents = [to_members(sample) for sample in good]
    for name, value in members.items():
        name = name.replace("_", ".")
        if value is None:
            del contents[0][name]
        else:
            contents[0][name] = value
    import webdataset

    with path.open("wb") as stream:
        writer = webdataset.TarWriter(stream, encoder=False, mtime=0)
        for content in contents:
            writer.write(content)
        writer.close()
    with tarfile.open(path) as tar:
        assert tar.getnames()


@pytest.mark.parametrize(
    "damage", [{"mp4": b"no video"}, {"mp4": None}, {"json": b"{"}, {"json": None}, {"face_0_jpg": b"no picture"}]
)
def test_a_broken_sample_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: dict[str, bytes | None]
) -> None:
    folder = make_shards(tmp_path, persons=8, clips=1, val=0)
    break_one(folder, **damage)
    seen = [key for b in batches(make_data(folder, max_steps=30, max_broken=0.2)) for key in b.keys]
    assert len(seen) == 120
    assert "p000__0" not in seen or "face_0_jpg" in damage  # its other faces are fine
    assert "p000__0" in caplog.text


def test_too_many_broken_samples_stop_the_run(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=8, clips=1, val=0)
    break_one(folder, mp4=b"no video")
    with pytest.raises(IdanimError, match=r"1 of 8 clips.*max_broken=0\.1.*p000__0"):
        make_data(folder).prepare_data()


def test_no_clip_suits_the_strategy(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=2, clips=1, val=0)
    with pytest.raises(IdanimError, match="another clip"):
        batches(make_data(folder, strategy=references.cross_clip))


def test_clip_shorter_than_the_window(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=2, clips=1, val=0)
    with pytest.raises(IdanimError, match="too short"):
        make_data(folder, num_frames=NUM_FRAMES + 1).prepare_data()


def test_half_written_latents_are_never_taken(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=2, clips=1, val=0)
    data = make_data(folder)
    data.prepare_data()
    path = data._latents().cache.path(data._shards("train")[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(IdanimError, match="damaged"):
        make_data(folder).prepare_data()
    shutil.rmtree(path.parent)
    make_data(folder).prepare_data()


def test_shards_of_one_name_from_two_folders_keep_their_own_latents(tmp_path: Path) -> None:
    write_shard(tmp_path / "a" / "train-000000.tar", [make_sample(1)])
    write_shard(tmp_path / "b" / "train-000000.tar", [make_sample(2)])
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    data = make_data(tmp_path, shards=places, latents=str(tmp_path / "latents"))
    assert {key for batch in batches(data) for key in batch.keys} == {"p001__0", "p002__0"}


def test_latents_are_encoded_on_the_trainers_device(shards: Path) -> None:
    data = make_data(shards)
    data.prepare_data()
    assert data.encoder.device == torch.device("cpu")


def test_a_clip_without_a_reference_is_named_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shard(tmp_path / "train-000000.tar", [make_sample(1, num_clips=2), make_sample(2)])
    seen = [k for b in batches(make_data(tmp_path, strategy=references.cross_clip)) for k in b.keys]
    assert set(seen) == {"p001__0"}
    assert "'p002__0'" in caplog.text


def test_different_numbers_of_references_do_not_stack(shards: Path) -> None:
    data = make_data(shards)
    data.prepare_data()
    item = data._dataset("train", InOrder([4, 4, 4]), 0.0)[0]
    with pytest.raises(IdanimError, match=r"\[1, 2\] references a clip"):
        collate([item, item._replace(references=torch.cat([item.references] * 2))])


def test_reference_batch_shows_different_persons(shards: Path) -> None:
    data = make_data(shards)
    data.prepare_data()
    batch = data.reference_batch("train", 4)
    assert len(set(batch.identities)) == 4


class HalfBlindFinder:
    """Stands for a face engine: sees a face in dark frames only, at a place that follows from the brightness."""

    def __init__(self, threshold: float, name: str = "half blind") -> None:
        self.threshold = threshold
        self.name = name
        self.calls = 0

    def detect(self, rgb: np.ndarray) -> list[Face]:
        self.calls += 1
        level = float(rgb.mean())
        landmarks = np.full((5, 2), level, np.float32)
        return [Face((0, 0, 1, 1), landmarks, 1.0)] if level < self.threshold else []


def test_landmarks_come_with_the_frames_and_change_nothing_else(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=3, clips=2, val=1)
    plain = batches(make_data(folder))
    assert all(batch.landmarks is None for batch in plain)
    finder = HalfBlindFinder(threshold=1000)
    found = batches(make_data(folder, face_finder=finder))
    for a, b in zip(plain, found, strict=True):
        assert_equal(a, b)
        assert b.landmarks is not None
        assert b.landmarks.shape == (4, NUM_FRAMES, 5, 2)
        # What this encoder makes of a frame has the frame's brightness, but for the noise that is added to it.
        level = (b.latents.mean(dim=(1, 3, 4)) + 1) * 127.5
        torch.testing.assert_close(b.landmarks[:, :, 0, 0], level, atol=4.0, rtol=0)
    calls = finder.calls
    batches(make_data(folder, face_finder=finder))
    assert finder.calls == calls
    batches(make_data(folder, face_finder=HalfBlindFinder(1000, "another")))


def test_frames_without_a_face_have_no_landmarks(tmp_path: Path) -> None:
    folder = make_shards(tmp_path, persons=2, clips=2, val=1)
    (batch, *_) = batches(make_data(folder, face_finder=HalfBlindFinder(threshold=-1)))
    assert batch.landmarks is not None
    assert batch.landmarks.isnan().all()
