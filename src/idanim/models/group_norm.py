"""Over which frames AnimateDiff normalises. diffusers does it otherwise; parameter names are the same here.

| layer | v1 | v2, v3, ID-Animator |
|---|---|---|
| in a motion module | each frame | each frame |
| in the UNet's residual blocks, and before its last convolution | all frames of a video | each frame |

(guoyww/AnimateDiff `configs/inference/`, `use_inflated_groupnorm`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm over each frame of [B, C, F, h, w] by itself.

    AnimateDiff and ID-Animator normalise frames one by one before the motion module; diffusers does it over
    all frames jointly, which changes the video by a third of its range.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, h, w] → the same shape, in memory in the order [B, h, w, F, C] in which the next layer reads it.

        It would copy it itself, but not of a single video, which it then multiplied place by place.
        """
        batch, channels, frames, height, width = x.shape
        folded = x.transpose(1, 2).reshape(batch * frames, channels, height, width)
        normalised = super().forward(folded).unflatten(0, (batch, frames))
        return normalised.permute(0, 3, 4, 1, 2).contiguous().permute(0, 4, 3, 1, 2)


class VideoGroupNorm(nn.GroupNorm):
    """GroupNorm over all frames of a video jointly, where its frames come as rows; `num_frames` of them each."""

    num_frames = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B·F, C, h, w] → the same shape."""
        videos = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2)
        return super().forward(videos).transpose(1, 2).flatten(0, 1)


def normalise_frames_separately(unet: nn.Module) -> None:
    """Replace the joint GroupNorm of every motion module by `FrameGroupNorm`, keeping its weights."""
    for name, module in unet.named_modules():
        if name.rpartition(".")[0].endswith("motion_modules"):
            module.norm = _replaced(module.norm, FrameGroupNorm)


def normalise_residual_blocks_jointly(unet: nn.Module) -> None:
    """Make a `UNetMotionModel` normalise over all frames in its residual blocks, as for motion modules v1."""
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            module.norm1 = _replaced(module.norm1, VideoGroupNorm)
            module.norm2 = _replaced(module.norm2, VideoGroupNorm)
    unet.conv_norm_out = _replaced(unet.conv_norm_out, VideoGroupNorm)
    unet.register_forward_pre_hook(_tell_frames, with_kwargs=True)


def _replaced(norm: Any, kind: type[nn.GroupNorm]) -> nn.GroupNorm:
    new = kind(norm.num_groups, norm.num_channels, eps=norm.eps)
    new.load_state_dict(norm.state_dict())
    return new.to(device=norm.weight.device, dtype=norm.weight.dtype)


def _tell_frames(unet: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    sample = args[0] if args else kwargs["sample"]
    for module in unet.modules():
        if isinstance(module, VideoGroupNorm):
            module.num_frames = sample.shape[2]
