"""Batches on their way out of loader processes."""

from __future__ import annotations

import pickle

import pytest
import torch

from idanim.data.parcel import Parcel
from idanim.types import ClipBatch


@pytest.mark.parametrize("landmarks", [None, torch.rand(2, 3, 5, 2)])
def test_it_arrives_as_the_batch_with_the_same_memory(landmarks: torch.Tensor | None) -> None:
    pictures = torch.rand(2, 1, 8, 6, 3).movedim(-1, -3)  # colours innermost, as decoded pictures are
    latents = torch.randn(2, 4, 3, 5, 5)
    batch = ClipBatch(latents, pictures, ["a", ""], torch.tensor([2**62, 1]), ["k", "l"], ["p", "q"], landmarks)
    found = pickle.loads(pickle.dumps(Parcel(batch)))
    assert isinstance(found, ClipBatch)
    for sent, got in zip(batch, found, strict=True):
        if not isinstance(sent, torch.Tensor):
            assert got == sent
            continue
        assert torch.equal(got, sent)
        assert got.dtype == sent.dtype
        assert [s for n, s in zip(got.shape, got.stride(), strict=True) if n > 1] == [
            s for n, s in zip(sent.shape, sent.stride(), strict=True) if n > 1
        ]
        got.add_(1)  # nobody else's memory, and writable
        assert not torch.equal(got, sent)
