"""Batches on their way out of loader processes."""

from __future__ import annotations

import pickle
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader

from idanim.data import parcel
from idanim.data.dataset import ClipItem, collate
from idanim.data.parcel import Sender
from idanim.types import ClipBatch


def item(seed: int, num_references: int = 1, landmarks: torch.Tensor | None = None) -> ClipItem:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(256, (num_references, 7, 5, 3), dtype=torch.uint8, generator=generator)
    latents = torch.randn(4, 3, 5, 5, generator=generator)
    return ClipItem(latents, pictures, "ä", 2**62 + seed, "key", "person", landmarks)


def assert_same(got: ClipBatch, expected: ClipBatch) -> None:
    assert isinstance(got, ClipBatch)
    for one, other in zip(got, expected, strict=True):
        if not isinstance(other, torch.Tensor):
            assert one == other
            continue
        assert torch.equal(one, other)
        assert (one.dtype, one.stride()) == (other.dtype, other.stride())


def sent(sender: Sender, items: list[ClipItem]) -> bytes:
    return pickle.dumps(sender(items), 4)


@pytest.fixture(autouse=True)
def in_a_loader_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "get_worker_info", object)


@pytest.mark.parametrize("num_references", [1, 3])
@pytest.mark.parametrize("landmarks", [None, torch.rand(3, 5, 2)])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_it_arrives_as_the_batch(num_workers: int, landmarks: torch.Tensor | None, num_references: int) -> None:
    items = [item(seed, num_references, landmarks) for seed in (1, 2)]
    sender = Sender(num_workers)
    content = sent(sender, items)
    assert (len(content) > items[0].latents.nbytes) == (num_workers == 0)  # or else its numbers lie in a slot
    arrived = pickle.loads(content)
    assert_same(arrived, collate(items))
    for _ in range(parcel.SLOTS_A_WORKER):  # what arrived is nobody else's, and writable
        pickle.loads(sent(sender, [item(9, num_references, landmarks)] * 2))
    assert_same(arrived, collate(items))
    arrived.latents.add_(1)


def test_a_slot_is_used_again_once_its_batch_arrived() -> None:
    sender = Sender(1)
    batches = [[item(seed)] for seed in range(6)]
    contents = [sent(sender, batch) for batch in batches[: parcel.SLOTS_A_WORKER + 1]]
    assert len(contents[-1]) > len(contents[0])  # no slot was free
    assert_same(pickle.loads(contents[1]), collate(batches[1]))
    contents.append(sent(sender, batches[3]))
    assert len(contents[-1]) == len(contents[0])
    for number in (0, 2, 3):
        assert_same(pickle.loads(contents[number]), collate(batches[number]))


def test_a_batch_larger_than_a_slot_arrives_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel, "SLOT_BYTES", 4096)
    sender = Sender(1)
    contents = [sent(sender, [item(seed) for seed in range(size)]) for size in (9, 1)]
    assert len(contents[0]) > 9 * item(0).latents.nbytes
    assert_same(pickle.loads(contents[0]), collate([item(seed) for seed in range(9)]))
    assert_same(pickle.loads(contents[1]), collate([item(0)]))


def test_a_process_that_was_not_forked_shares_nothing() -> None:
    elsewhere = pickle.loads(pickle.dumps(Sender(1)))
    assert_same(pickle.loads(sent(elsewhere, [item(1)])), collate([item(1)]))


def test_every_epoch_and_one_left_early_arrive_as_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sender = Sender(1)
    items = [item(seed) for seed in range(13)]
    loader = DataLoader(items, 2, num_workers=1, collate_fn=sender, persistent_workers=True)
    expected = [collate(items[first : first + 2]) for first in range(0, 13, 2)]
    for taken in (7, 2, 7):
        arrived = list(islice(loader, taken))
        assert len(arrived) == taken
        for batch, other in zip(arrived, expected, strict=False):
            assert_same(batch, other)
    slots = [sender._take(1) for _ in range(parcel.SLOTS_A_WORKER)]
    assert None not in slots  # what was left early came back too


def test_pictures_become_floats_as_each_alone_would() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 2, 3)
    batch = collate([ClipItem(torch.zeros(1, 1, 1, 1), levels, "", 0, "k", "p", None)] * 2)
    assert batch.references.shape == (2, 1, 3, 256, 2)
    assert batch.references.stride()[2:] == (1, 6, 3)  # colours innermost: kernels may round by the order
    assert torch.equal(batch.references[1, 0, 2, :, 1], torch.arange(256.0).div(127.5).sub(1))
