"""How a frozen UNet runs while an adapter on it is trained: recomputed for memory, compiled for speed.

Planned are its blocks (residual blocks, spatial transformers, motion modules). Where they are not compiled,
convolutions and gated layers keep less than torch's own. Without gradients (validation, previews) all run as they are.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from idanim.models.frozen_layers import convolve, gated_gelu
from idanim.types import IdanimError

log = logging.getLogger(__name__)

BLOCKS = (ResnetBlock2D, Transformer2DModel, AnimateDiffTransformer3D)
_MAX_SHAPES = 256
_FUSED_ATTENTION = [
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
]

Way = Callable[..., Any]
"""How a module runs: takes it and the arguments of its `forward`."""


class Recompute(StrEnum):
    """What of a block's activations is computed again in the backward pass instead of being kept."""

    NOTHING = "nothing"
    CHEAP = "cheap"
    """What is large for the work it takes. Kept are what convolutions and self-attention give, and what comes into
    motion modules and into the parts of spatial transformers."""
    ALL = "all"
    """Only the inputs of blocks are kept."""


@dataclass(frozen=True)
class BlockPlan:
    """How blocks run in training.

    Attributes:
        recompute: one of `Recompute`: "nothing", "cheap" or "all".
        compiled: compile each kind of block (minutes before the first step); a block that can't be runs as it is.
        channels_last: keep the channels of convolutions innermost; uncompiled it made a step on an H100 a fifth slower.
    """

    recompute: str = Recompute.NOTHING.value
    compiled: bool = False
    channels_last: bool = False

    def __post_init__(self) -> None:
        if self.recompute not in set(Recompute):
            raise IdanimError(f"blocks.recompute={self.recompute!r}: expected one of {', '.join(Recompute)}")


def run_blocks(unet: nn.Module, plan: BlockPlan) -> None:
    """Let the blocks of a `UNetMotionModel` run as planned, from now on.

    Args:
        unet: on the device on which it is trained.
        plan: how.
    """
    memory_format = torch.channels_last if plan.channels_last else torch.contiguous_format
    unet.to(memory_format=memory_format)  # type: ignore[call-overload]  # missing in torch's annotations
    recompute = Recompute(plan.recompute)
    ways = _RECOMPUTED[recompute] | ({} if plan.compiled else _LEAN)  # a compiler decides by itself what layers keep
    if plan.compiled:
        ways |= {kind: _Compiled(ways.get(kind, _plain)) for kind in BLOCKS}
    for module in unet.modules():
        # A sharded module is of a class derived from its own.
        kind = next((kind for kind in _CHANGED if isinstance(module, kind)), None)
        if kind is not None:
            module.__dict__.pop("forward", None)  # of an earlier plan
            if kind in ways and not _is_over_time(module):
                module.forward = functools.partial(_with_gradients, ways[kind], module)


def _is_over_time(module: nn.Module) -> bool:
    """Whether it is a transformer block of a motion module, which is recomputed as a whole."""
    return isinstance(module, BasicTransformerBlock) and module.pos_embed is not None


def _with_gradients(way: Way, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return (way if torch.is_grad_enabled() else _plain)(module, *args, **kwargs)


def _plain(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(module).forward(module, *args, **kwargs)


def _recomputed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _checkpointed(type(module).forward, module, *args, **kwargs)


def _checkpointed(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    # Blocks in evaluation mode draw no random numbers.
    return checkpoint(work, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _norms_recomputed(block: Any, input_tensor: Tensor, temb: Tensor) -> Any:
    """A residual block of which the inputs of norms are kept, but not those of activations."""
    is_plain = block.time_embedding_norm == "default" and block.time_emb_proj and not block.skip_time_act
    if not is_plain or block.upsample or block.downsample or block.training:
        return _recomputed(block, input_tensor, temb)
    hidden = block.conv1(_checkpointed(lambda x: block.nonlinearity(block.norm1(x)), input_tensor))
    hidden = hidden + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
    hidden = block.conv2(_checkpointed(lambda x: block.nonlinearity(block.norm2(x)), hidden))
    shortcut = input_tensor if block.conv_shortcut is None else block.conv_shortcut(input_tensor)
    return (shortcut + hidden) / block.output_scale_factor


def _parts_recomputed(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
) -> Any:
    """A transformer block of which what comes into attention to itself, to the context, and into the rest is kept."""
    is_plain = block.norm_type == "layer_norm" and block.attn2 and not block.only_cross_attention
    if not is_plain or block._chunk_size or any(value is not None for value in others.values()):
        return _recomputed(block, hidden_states, encoder_hidden_states=encoder_hidden_states, **others)
    keep = functools.partial(create_selective_checkpoint_contexts, _FUSED_ATTENTION)
    hidden = hidden_states + _checkpointed(lambda x: block.attn1(block.norm1(x)), hidden_states, context_fn=keep)
    hidden = hidden + _checkpointed(lambda x: block.attn2(block.norm2(x), encoder_hidden_states), hidden)
    return hidden + _checkpointed(lambda x: block.ff(block.norm3(x)), hidden)


def _convolution(conv: Any, x: Tensor) -> Tensor:
    is_plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    learns = any(parameter.requires_grad for parameter in conv.parameters())
    return _plain(conv, x) if learns or not is_plain or _is_widened(x) else convolve(conv, x)


def _gated_gelu(layer: Any, x: Tensor) -> Tensor:
    return _plain(layer, x) if _is_widened(x) else gated_gelu(layer.proj(x))


def _is_widened(x: Tensor) -> bool:
    """Whether layers here may compute in another type than that of their weights."""
    return torch.is_autocast_enabled(x.device.type)


_LEAN: dict[type[nn.Module], Way] = {nn.Conv2d: _convolution, GEGLU: _gated_gelu}
_RECOMPUTED: dict[Recompute, dict[type[nn.Module], Way]] = {
    Recompute.NOTHING: {},
    Recompute.CHEAP: {
        ResnetBlock2D: _norms_recomputed,
        BasicTransformerBlock: _parts_recomputed,
        AnimateDiffTransformer3D: _recomputed,
    },
    Recompute.ALL: dict.fromkeys(BLOCKS, _recomputed),
}
_CHANGED = (*BLOCKS, BasicTransformerBlock, *_LEAN)


class _Compiled:
    """A way to run one kind of block, compiled once for each shape; as it is where that fails."""

    def __init__(self, way: Way) -> None:
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _MAX_SHAPES)  # a UNet has some twenty shapes of blocks
        dynamo.optimize_ddp = False  # blocks are compiled one by one, gradients are all below them
        self._way = way
        self._compiled = torch.compile(way, dynamic=False)
        self._has_failed = False

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self._has_failed:
            try:
                return self._compiled(block, *args, **kwargs)
            except TorchDynamoException as error:
                log.warning("%s can't be compiled and runs as it is: %s", type(block).__name__, error)
                self._has_failed = True
        return self._way(block, *args, **kwargs)
