"""SparseCtrl: a network that steers some frames by sketches or pictures (Guo et al., arXiv 2311.16933)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AnimateDiffSparseControlNetPipeline, DDIMScheduler, SparseControlNetModel
from diffusers.models.controlnets.controlnet_sparsectrl import SparseControlNetConditioningEmbedding
from torch import Tensor, nn

from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.group_norm import normalise_frames_separately


class ConditionEmbedding(nn.Module):
    """The scribble kind's embedding of pixels, in float64 where it runs on a CPU. Parameter names are the same.

    Frames without a condition are flat. Float32 rounding of a convolution differs from pixel to pixel, and the
    GroupNorms after it magnify what differs in a flat picture up to a thousand times.

    Args:
        plain: diffusers' module, whose layers it takes.
    """

    def __init__(self, plain: SparseControlNetConditioningEmbedding) -> None:
        super().__init__()
        self.conv_in, self.blocks, self.conv_out = plain.conv_in, plain.blocks, plain.conv_out

    def forward(self, conditioning: Tensor) -> Tensor:
        """Pixels and mask [B·F, C, H, W] → [B·F, E, h, w] in the same type."""
        # Other devices are slow in float64, or have none.
        exact = torch.float64 if conditioning.device.type == "cpu" else conditioning.dtype
        x = conditioning.to(exact)
        for conv in (self.conv_in, *self.blocks):
            x = F.silu(_convolved(x, conv))
        return _convolved(x, self.conv_out).to(conditioning.dtype)


def _convolved(x: Tensor, conv: Any) -> Tensor:
    return F.conv2d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.stride, conv.padding)


def follow_official_numerics(controlnet: SparseControlNetModel) -> None:
    """Make diffusers' network agree with the official one: motion modules normalised frame by frame, and see above."""
    normalise_frames_separately(controlnet)
    if isinstance(controlnet.controlnet_cond_embedding, SparseControlNetConditioningEmbedding):
        controlnet.controlnet_cond_embedding = ConditionEmbedding(controlnet.controlnet_cond_embedding)


class SparseControlPipeline(AnimateDiffSparseControlNetPipeline):
    """diffusers' pipeline, with conditions that don't depend on chance.

    diffusers draws the VAE latents of the picture conditions without a generator; here they are the mode of
    the posterior.
    """

    @property
    def _execution_device(self) -> torch.device:
        return self.unet.device

    def prepare_image(self, image: Any, width: int, height: int, device: Any, dtype: Any) -> Tensor:
        """Pictures → conditions [1, C, n, H, W], or latents [1, 4, n, h, w] for the rgb kind.

        A tensor of five dimensions is taken for such conditions already.
        """
        if isinstance(image, Tensor) and image.ndim == 5:
            return image.to(device, dtype)
        if not self.controlnet.use_simplified_condition_embedding:
            return super().prepare_image(image, width, height, device, dtype)
        pixels = self.control_image_processor.preprocess(image, height=height, width=width).to(device, dtype)
        return condition_latents(self.vae, pixels)


@torch.no_grad()
def condition_latents(vae: Any, pixels: Tensor) -> Tensor:
    """What the rgb kind takes: pictures [n, 3, H, W] in [0, 1] → latents [1, 4, n, h, w]."""
    latents = vae.encode(2 * pixels - 1).latent_dist.mode() * vae.config.scaling_factor
    return latents.transpose(0, 1)[None]


@contextmanager
def reading_text_only(controlnet: SparseControlNetModel, num_text_tokens: int) -> Iterator[None]:
    """Let the network read only the first tokens of the context, that is no id tokens."""

    def cut(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs["encoder_hidden_states"] = kwargs["encoder_hidden_states"][:, :num_text_tokens]
        return args, kwargs

    hook = controlnet.register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def sparse_control_pipeline(backbone: AnimateDiffBackbone, controlnet: SparseControlNetModel) -> SparseControlPipeline:
    """A pipeline over the backbone's modules that takes `conditioning_frames` and `controlnet_frame_indices`.

    The control network reads the whole context as text, id tokens included, as in the official code, but for
    `reading_text_only`.
    """
    pipeline = SparseControlPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        motion_adapter=None,
        controlnet=controlnet,
        scheduler=DDIMScheduler.from_config(backbone.scheduler.config),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
