"""An AutoencoderKL whose encoder is written down instead of trained.

The encoder maps each 4×4 patch to its leading principal components. All residual branches are zero, so the
trunk is linear: two strided convolutions gather a patch into channels and a 1×1 convolution projects it.
Two tricks carry it through the output layer, which normalises and applies SiLU:

- silu(a) - silu(-a) = a, so each component is carried as a pair (a, -a);
- a large constant pair in every normalisation group makes its variance, and so its gain, constant.

The decoder is an ordinary one, and is trained. So latents are fixed, white at low frequencies and cheap to
learn, before a single step of training.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional as F

PATCH_PX = 4
NUM_COMPONENTS = 24
ANCHOR = 256.0
"""The constant channel that pins the gain of the last normalisation; latents are of order 1."""
LOG_VARIANCE = -12.0


def build_codec(width: tuple[int, int, int] = (32, 64, 72)) -> AutoencoderKL:
    """Build the 32 px → 24×8×8 autoencoder with random weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=width,
        layers_per_block=1,
        latent_channels=NUM_COMPONENTS,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def principal_patches(pictures: Tensor, whitening: float) -> tuple[Tensor, Tensor]:
    """Fit the linear map from patches to latents.

    Args:
        pictures: [B, 3, H, W] float32 in [-1, 1].
        whitening: 0 keeps the variances of the components, 1 makes them equal.

    Returns:
        Weights [K, 48] and bias [K]: latent = weights @ patch + bias, of mean 0 and mean variance 1.
    """
    patches = F.pixel_unshuffle(pictures, PATCH_PX).permute(0, 2, 3, 1).reshape(-1, 3 * PATCH_PX**2)
    mean = patches.mean(0)
    variance, basis = torch.linalg.eigh(torch.cov((patches - mean).T))
    variance = variance.flip(0)[:NUM_COMPONENTS]
    basis = basis.flip(1)[:, :NUM_COMPONENTS]
    gain = variance ** (-whitening / 2)
    gain = gain / (variance * gain**2).mean().sqrt()
    weights = gain[:, None] * basis.T
    return weights, -weights @ mean


@torch.no_grad()
def write_encoder(codec: AutoencoderKL, weights: Tensor, bias: Tensor) -> None:
    """Set the encoder so that the posterior mean is `weights @ patch + bias`.

    Args:
        codec: from build_codec; changed in place.
        weights: [K, 48], patches in the channel order of pixel_unshuffle.
        bias: [K].
    """
    encoder = codec.encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for index in range(3):
        encoder.conv_in.weight[index, index, 1, 1] = 1
    encoder.conv_in.bias[3] = 1
    order = _gather_patches(encoder.down_blocks[0], num_channels=3, constant=3)
    down = encoder.down_blocks[1]
    _pass(down.resnets[0], num_channels=13)
    second = _gather_patches(down, num_channels=12, constant=12)
    # channel c of the second gathering holds pixel (2 * row2 + row1, 2 * column2 + column1) of colour order[0]
    source = torch.empty(48, dtype=torch.long)
    for channel, (inner, row2, column2) in enumerate(second):
        colour, row1, column1 = order[inner]
        row, column = 2 * row2 + row1, 2 * column2 + column1
        source[channel] = colour * PATCH_PX**2 + row * PATCH_PX + column
    projection = encoder.down_blocks[2].resnets[0]
    _write_projection(projection, encoder, weights[:, source], bias)


def _pass(resnet: Any, num_channels: int) -> None:
    """Carry channels unchanged through a residual block whose branch is zero."""
    if resnet.conv_shortcut is None:
        return
    for channel in range(num_channels):
        resnet.conv_shortcut.weight[channel, channel, 0, 0] = 1


def _gather_patches(block: Any, num_channels: int, constant: int) -> list[tuple[int, int, int]]:
    """Let a strided convolution move 2×2 neighbours into channels, the constant channel last.

    Returns:
        For each output channel the (input channel, row, column) that it holds.
    """
    convolution = block.downsamplers[0].conv
    held = [(c, row, column) for c in range(num_channels) for row in range(2) for column in range(2)]
    for channel, (source, row, column) in enumerate(held):
        convolution.weight[channel, source, row, column] = 1
    convolution.weight[len(held), constant, 0, 0] = 1
    return held


def _write_projection(projection: Any, encoder: Any, weights: Tensor, bias: Tensor) -> None:
    norm, output = encoder.conv_norm_out, encoder.conv_out
    shortcut = projection.conv_shortcut
    inputs = weights.shape[1]
    if shortcut is None:
        raise ValueError("the second and third width of the codec must differ or carry a projection")
    group = norm.num_channels // norm.num_groups
    per_group = -(-NUM_COMPONENTS // norm.num_groups)
    norm.weight.fill_(ANCHOR * (2 / group) ** 0.5)
    output.bias[NUM_COMPONENTS:] = LOG_VARIANCE
    for index in range(norm.num_groups):
        first = index * group
        for offset, sign in ((0, 1.0), (1, -1.0)):
            shortcut.weight[first + offset, inputs, 0, 0] = sign * ANCHOR
    for component in range(NUM_COMPONENTS):
        first = (component // per_group) * group + 2 + 2 * (component % per_group)
        for offset, sign in ((0, 1.0), (1, -1.0)):
            shortcut.weight[first + offset, :inputs, 0, 0] = sign * weights[component]
            shortcut.weight[first + offset, inputs, 0, 0] = sign * bias[component]
            output.weight[component, first + offset, 1, 1] = sign


@torch.no_grad()
def read_encoder(codec: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Read back the map that `write_encoder` wrote: weights [K, 48] and bias [K].

    The encoder is linear, so its answers to the unit pictures of one patch are the map.
    """
    units = torch.cat([torch.zeros(1, 3 * PATCH_PX**2), torch.eye(3 * PATCH_PX**2)])
    pictures = F.pixel_shuffle(units[:, :, None, None], PATCH_PX)
    answers = codec.encode(pictures).latent_dist.mode()[:, :, 0, 0] * codec.config.scaling_factor
    return (answers[1:] - answers[0]).T.contiguous(), answers[0]
