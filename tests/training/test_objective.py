from __future__ import annotations

import math

import pytest
import torch

from idanim.training.objective import denoising_loss, draw, id_token_share


def test_draws_belong_to_samples_and_not_to_batches() -> None:
    together = draw(torch.tensor([5, 6, 7]), (4, 2, 3, 3))
    alone = draw(torch.tensor([6]), (4, 2, 3, 3))
    assert torch.equal(together.noise[1:2], alone.noise)
    assert torch.equal(together.time[1:2], alone.time)
    assert not torch.equal(together.noise[0], together.noise[1])


def test_draws_are_normal_and_uniform() -> None:
    drawn = draw(torch.arange(2000), (1, 1, 2, 2))
    assert abs(float(drawn.noise.mean())) < 0.05
    assert abs(float(drawn.noise.std()) - 1) < 0.05
    for uniform in (drawn.time, drawn.null_image):
        assert 0 <= float(uniform.min()) < 0.01
        assert 0.99 < float(uniform.max()) < 1
        assert abs(float(uniform.mean()) - 0.5) < 0.03
    correlation = float(torch.corrcoef(torch.stack([drawn.time, drawn.null_image]))[0, 1])
    assert abs(correlation) < 0.1


def test_loss_is_the_mean_square_in_float32() -> None:
    prediction, target = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    total = sum((p - t) ** 2 for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True))
    assert math.isclose(float(denoising_loss(prediction, target)), total / prediction.numel(), rel_tol=1e-5)
    assert denoising_loss(prediction.bfloat16(), target.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("common", "own", "expected"), [(1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.5)])
def test_token_share(common: float, own: float, expected: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1, 16, 64, generator=generator)
    each = torch.randn(200, 16, 64, generator=generator)
    each -= each.mean(dim=0)
    assert float(id_token_share(common * shared + own * each)) == pytest.approx(expected, abs=0.03)
