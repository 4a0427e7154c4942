"""The training objective as pure functions (paper Eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Draw(NamedTuple):
    """The randomness of a training step, drawn for each sample from its own seed.

    Attributes:
        noise: [B, C, F, h, w] standard normal.
        time: [B] uniform in [0, 1).
        null_image: [B] uniform in [0, 1), compared with the probability of dropping the face.
        frame_order: [B, F] the frames in random order, int64.
    """

    noise: Tensor
    time: Tensor
    null_image: Tensor
    frame_order: Tensor


def draw(seeds: Tensor, shape: Sequence[int]) -> Draw:
    """Noise and times that depend on nothing but the samples' seeds.

    Args:
        seeds: [B] int64.
        shape: of one sample's latents, (C, F, h, w).

    Returns:
        Tensors on the CPU, so that every device trains on the same numbers.
    """
    noise, uniform, orders = [], [], []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed)
        uniform.append(torch.rand(2, generator=generator))
        noise.append(torch.randn(tuple(shape), generator=generator))
        orders.append(torch.randperm(shape[1], generator=generator))
    times = torch.stack(uniform)
    return Draw(torch.stack(noise), times[:, 0], times[:, 1], torch.stack(orders))


def denoising_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean squared error of the prediction, taken in float32 or better (Eq. 3). Scalar, lower is better.

    Args:
        prediction: [B, C, F, h, w].
        target: likewise.
        weights: [B, 1, F, h, w] of mean 1, how much each place counts; None = all alike, as in the paper.
    """
    dtype = torch.promote_types(prediction.dtype, torch.float32)
    if weights is None:
        return F.mse_loss(prediction.to(dtype), target.to(dtype))
    return (weights * (prediction.to(dtype) - target.to(dtype)).square()).mean()


def id_token_share(tokens: Tensor) -> Tensor:
    """How much of the id tokens' power differs between persons.

    The variance over persons divided by the mean square, both summed over tokens and channels. Near 0 all
    persons give the same tokens: identity is not being learned, whatever the loss does.

    Args:
        tokens: [B, Q, D] id tokens of B different persons.

    Returns:
        Scalar in [0, 1].
    """
    tokens = tokens.float()
    return tokens.var(dim=0, correction=0).sum() / tokens.square().mean(dim=0).sum()


def query_shares(tokens: Tensor) -> Tensor:
    """`id_token_share` of each id token by itself.

    Args:
        tokens: [B, Q, D] id tokens of B different persons.

    Returns:
        [Q] in [0, 1]; 0 for a token that is the same for everybody, or 0 throughout.
    """
    tokens = tokens.float()
    power = tokens.square().mean(dim=0).sum(dim=-1)
    return tokens.var(dim=0, correction=0).sum(dim=-1) / power.clamp_min(torch.finfo(torch.float32).tiny)
