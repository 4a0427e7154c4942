from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from idanim.models.group_norm import FrameGroupNorm, VideoGroupNorm, normalise_residual_blocks_jointly
from idanim.models.tiny import tiny_backbone


def test_frames_are_normalised_one_by_one() -> None:
    x = torch.randn(2, 8, 3, 4, 4) * torch.arange(1, 4).view(1, 1, 3, 1, 1)
    norm = FrameGroupNorm(2, 8)
    torch.nn.init.normal_(norm.weight)
    expected = torch.stack([torch.nn.GroupNorm.forward(norm, x[:, :, f]) for f in range(3)], dim=2)
    assert torch.allclose(norm(x), expected, atol=1e-6)
    assert (norm(x) - torch.nn.GroupNorm.forward(norm, x)).abs().max() > 0.1


def test_every_motion_module_has_it() -> None:
    modules = [m for n, m in tiny_backbone().unet.named_modules() if n.endswith(".norm") and "motion_modules" in n]
    assert modules
    assert all(isinstance(m, FrameGroupNorm) for m in modules)


# ---------------------------------------------------------------------------- v1: the residual blocks' norms


def joint_norm(video: Tensor, norm: torch.nn.GroupNorm) -> Tensor:
    """Over channels of a group, frames and pixels, by the formula; [B, C, F, h, w]."""
    groups = video.unflatten(1, (norm.num_groups, -1))
    mean = groups.mean(dim=(2, 3, 4, 5), keepdim=True)
    variance = ((groups - mean) ** 2).mean(dim=(2, 3, 4, 5), keepdim=True)
    normed = ((groups - mean) / (variance + norm.eps).sqrt()).flatten(1, 2)
    return normed * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)


def by_frame(layer: torch.nn.Module, video: Tensor) -> Tensor:
    return torch.stack([layer(frame) for frame in video.unbind(2)], dim=2)


def residual_block(block: ResnetBlock2D, video: Tensor, time: Tensor) -> Tensor:
    """A residual block of AnimateDiff v1 on [B, C, F, h, w], time embedding [B, T]."""
    hidden = by_frame(block.conv1, F.silu(joint_norm(video, block.norm1)))
    hidden = hidden + block.time_emb_proj(F.silu(time))[:, :, None, None, None]
    hidden = by_frame(block.conv2, F.silu(joint_norm(hidden, block.norm2)))
    return hidden + (video if block.conv_shortcut is None else by_frame(block.conv_shortcut, video))


@torch.no_grad()
def test_residual_blocks_of_v1_equal_the_formula() -> None:
    unet = tiny_backbone().unet.double()
    normalise_residual_blocks_jointly(unet)
    seen = []
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            for norm in (module.norm1, module.norm2):
                torch.nn.init.normal_(norm.weight)
            module.register_forward_hook(
                lambda block, args, kwargs, output: seen.append((block, *args, *kwargs.values(), output)),
                with_kwargs=True,
            )
    videos, frames = 2, 3
    sample, text = torch.randn(videos, 4, frames, 8, 8).double(), torch.randn(videos * frames, 5, 32).double()
    unet(sample, torch.tensor([3, 700]), text)
    assert len(seen) > 4
    for block, rows, time, output in seen:
        video = rows.unflatten(0, (videos, frames)).transpose(1, 2)
        expected = residual_block(block, video, time[::frames])
        assert torch.allclose(output, expected.transpose(1, 2).flatten(0, 1), atol=1e-10)


@torch.no_grad()
def test_v1_differs_from_v2_but_for_a_single_frame_and_keeps_videos_apart() -> None:
    plain, joint = tiny_backbone().unet, tiny_backbone().unet
    normalise_residual_blocks_jointly(joint)
    assert isinstance(joint.conv_norm_out, VideoGroupNorm)
    assert joint.state_dict().keys() == plain.state_dict().keys()
    sample, text, time = torch.randn(2, 4, 3, 8, 8), torch.randn(2, 5, 32), torch.tensor([10])

    def predict(unet: torch.nn.Module, videos: Tensor) -> Tensor:
        context = text[: len(videos)].repeat_interleave(videos.shape[2], dim=0)
        return unet(sample=videos, timestep=time, encoder_hidden_states=context).sample

    assert (predict(joint, sample) - predict(plain, sample)).abs().max() > 1e-3
    assert torch.allclose(predict(joint, sample[:, :, :1]), predict(plain, sample[:, :, :1]), atol=1e-5)
    assert torch.allclose(predict(joint, sample)[:1], predict(joint, sample[:1]), atol=1e-5)
