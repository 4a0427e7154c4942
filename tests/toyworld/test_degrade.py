import torch

from idanim.toyworld.degrade import LUMA, degrade, with_coarse_colours
from idanim.toyworld.draws import Draws


def test_coarse_colours_keep_brightness() -> None:
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    coarse = with_coarse_colours(pictures)
    torch.testing.assert_close((coarse * LUMA).sum(1), (pictures * LUMA).sum(1), atol=1e-5, rtol=0)
    assert (coarse - pictures).abs().mean() > 0.1


def test_grey_stays_as_it_is() -> None:
    grey = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 8)
    torch.testing.assert_close(with_coarse_colours(grey), grey)


def test_degradation_is_mild_and_comes_from_the_generator() -> None:
    pictures = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first, second = (degrade(pictures, Draws.seeded(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() <= 1
    assert 0.01 < (first - pictures).abs().mean() < 0.4
