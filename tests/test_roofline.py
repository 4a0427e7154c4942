"""The estimated time of a step adds up what its operations move and compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def roofline(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import roofline

    return roofline


def test_a_product_of_matrices(roofline: Any) -> None:
    a, b = torch.rand(30, 50), torch.rand(50, 70)
    with roofline.Roofline() as found:
        a @ b
    work = found.kinds["mm"]
    assert work.flop == 2 * 30 * 50 * 70
    assert work.bytes == 4 * (30 * 50 + 50 * 70 + 30 * 70)
    assert work.seconds == pytest.approx(work.bytes / roofline.BYTES_PER_S + roofline.LAUNCH_S)


def test_the_longer_of_moving_and_computing_counts(roofline: Any) -> None:
    a = torch.empty(1, dtype=torch.bfloat16).expand(20_000, 20_000)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), roofline.Roofline() as found:
        a @ a
    assert found.seconds == pytest.approx(2 * 20_000**3 / (0.6 * roofline.FLOP_PER_S), rel=1e-3)


def test_a_convolution_and_its_gradient(roofline: Any) -> None:
    x, weight = torch.rand(2, 3, 8, 8, requires_grad=True), torch.rand(5, 3, 3, 3)
    with roofline.Roofline() as found:
        F.conv2d(x, weight, padding=1).sum().backward()
    forward = 2 * 2 * 5 * 3 * 9 * 64
    assert found.kinds["convolution"].flop == forward
    assert found.kinds["convolution_backward"].flop == forward  # of the input alone


def test_attention_and_its_gradient(roofline: Any) -> None:
    query, key = torch.rand(2, 3, 8, 16, requires_grad=True), torch.rand(2, 3, 10, 16)
    with roofline.Roofline() as found:
        F.scaled_dot_product_attention(query, key, key).sum().backward()
    forward = 4 * 2 * 3 * 8 * 10 * 16
    assert sorted(work.flop for work in found.kinds.values())[-2:] == [forward, forward * 5 // 2]


def test_what_is_read_twice_and_what_is_changed_in_place(roofline: Any) -> None:
    x = torch.rand(2, 8, 100)
    size = x.nbytes
    with roofline.Roofline() as found:
        F.group_norm(x, 4)
        x.mul_(x[:1].expand(2, 8, 100))
        x.copy_(x.clone())
    assert found.kinds["native_group_norm"].bytes == pytest.approx(3 * size, rel=0.02)
    assert found.kinds["mul_"].bytes == size // 2 + 2 * size
    assert found.kinds["copy_"].bytes == found.kinds["clone"].bytes == 2 * size
    assert "expand" not in found.kinds
