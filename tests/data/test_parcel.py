"""Batches on their way out of loader processes."""

from __future__ import annotations

import pickle

import pytest
import torch

from idanim.data.dataset import ClipItem, collate, stack
from idanim.data.parcel import Parcel
from idanim.types import ClipBatch


@pytest.mark.parametrize("num_references", [1, 3])
@pytest.mark.parametrize("landmarks", [None, torch.rand(3, 5, 2)])
def test_it_arrives_as_the_batch_with_the_same_memory(num_references: int, landmarks: torch.Tensor | None) -> None:
    def item(seed: int) -> ClipItem:
        pictures = torch.randint(256, (num_references, 8, 6, 3), dtype=torch.uint8)
        return ClipItem(torch.randn(4, 3, 5, 5), pictures, "ä", seed, "key", "person", landmarks)

    items = [item(2**62), item(1)]
    sent = collate(items)
    arrived = pickle.loads(pickle.dumps(Parcel(stack(items))))
    assert isinstance(arrived, ClipBatch)
    for expected, got in zip(sent, arrived, strict=True):
        if not isinstance(expected, torch.Tensor):
            assert got == expected
            continue
        assert torch.equal(got, expected)
        assert (got.dtype, got.stride()) == (expected.dtype, expected.stride())
        got.add_(1)  # nobody else's memory, and writable
        assert not torch.equal(got, expected)


def test_pictures_become_floats_as_each_alone_would() -> None:
    levels = torch.arange(256, dtype=torch.uint8)[None, :, None, None].expand(1, 256, 2, 3)
    batch = collate([ClipItem(torch.zeros(1, 1, 1, 1), levels, "", 0, "k", "p", None)] * 2)
    assert batch.references.shape == (2, 1, 3, 256, 2)
    assert batch.references.stride()[2:] == (1, 6, 3)  # colours innermost: kernels may round by the order
    assert torch.equal(batch.references[1, 0, 2, :, 1], torch.arange(256.0).div(127.5).sub(1))
