from __future__ import annotations

import pytest
import torch

from idanim.models.face_alignment import ARCFACE_TEMPLATE
from idanim.training.face_weight import FaceWeight
from idanim.training.objective import denoising_loss

LANDMARKS = (ARCFACE_TEMPLATE * 0.25 + torch.tensor([2.0, 2.0]))[None, None]
"""A face whose crop is the square from 2 to 29.75 of a 32 px frame."""


def test_inside_is_the_square_that_recognisers_see() -> None:
    inside = FaceWeight(3, 32, 32).inside(LANDMARKS, 32, 32)
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[2:30, 2:30] = True
    assert torch.equal(inside[0, 0], expected)


def test_weights_have_the_asked_ratio_and_mean_one() -> None:
    landmarks = torch.cat([LANDMARKS, torch.full_like(LANDMARKS, float("nan"))], 1)
    weights = FaceWeight(5, 32, 32)(landmarks, 8, 8)
    assert weights.shape == (1, 1, 2, 8, 8)
    assert float(weights.mean()) == pytest.approx(1)
    assert float(weights.max() / weights.min()) == pytest.approx(5)
    assert weights[0, 0, 1].unique().numel() == 1  # nobody there


def test_turned_and_moved_faces_are_followed() -> None:
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    moved = (ARCFACE_TEMPLATE - 56) * 0.1 @ turn.T + torch.tensor([20.0, 10.0])
    inside = FaceWeight(3, 32, 64).inside(moved[None, None], 32, 64)[0, 0]
    rows, columns = inside.nonzero(as_tuple=True)
    assert (rows.float().mean(), columns.float().mean()) == (pytest.approx(10, abs=0.5), pytest.approx(20, abs=0.5))
    assert inside.sum() == pytest.approx(11.2**2, rel=0.2)


def test_loss_counts_errors_in_the_face_more_and_weight_one_is_the_papers() -> None:
    target = torch.zeros(1, 4, 1, 8, 8)
    in_face, outside = target.clone(), target.clone()
    in_face[..., 4, 4] = 1
    outside[..., 0, 0] = 1
    weights = FaceWeight(3, 32, 32)(LANDMARKS, 8, 8)
    ratio = denoising_loss(in_face, target, weights) / denoising_loss(outside, target, weights)
    assert float(ratio) == pytest.approx(3)
    plain = FaceWeight(1, 32, 32)(LANDMARKS, 8, 8)
    prediction = torch.randn(1, 4, 1, 8, 8)
    torch.testing.assert_close(denoising_loss(prediction, target, plain), denoising_loss(prediction, target))
