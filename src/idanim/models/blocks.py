"""How the blocks of a frozen UNet run while an adapter on it is trained: recomputed for memory, compiled for speed.

A block is a residual block, a spatial transformer or a motion module. Without gradients (validation, previews) all
of them run as they are.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn
from torch._dynamo.exc import TorchDynamoException
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from idanim.types import IdanimError

log = logging.getLogger(__name__)

BLOCKS = (ResnetBlock2D, Transformer2DModel, AnimateDiffTransformer3D)
LONG_KEYS = 256
_MAX_SHAPES = 256

_aten = torch.ops.aten
_FUSED_ATTENTION = {
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
}


class Recompute(StrEnum):
    """What of a block's activations is computed again in the backward pass instead of being kept."""

    NOTHING = "nothing"
    CHEAP = "cheap"
    """What is large for the work it takes: most of the memory, less than half of the work."""
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
    run = _RUN[Recompute(plan.recompute)]
    if plan.compiled:
        run = _Compiled(run)
    for block in unet.modules():
        if isinstance(block, BLOCKS):
            block.forward = functools.partial(_with_gradients, run, block)


def _with_gradients(run: Callable[..., Any], block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return (run if torch.is_grad_enabled() else _plain)(block, *args, **kwargs)


def _plain(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(block).forward(block, *args, **kwargs)


def _recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _checkpointed(block, args, kwargs)


def _cheaply_recomputed(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return _checkpointed(block, args, kwargs, context_fn=_contexts)


def _checkpointed(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Any:
    # Blocks in evaluation mode draw no random numbers.
    forward = type(block).forward
    return checkpoint(forward, block, *args, use_reentrant=False, preserve_rng_state=False, **options, **kwargs)


_RUN: dict[Recompute, Callable[..., Any]] = {
    Recompute.NOTHING: _plain,
    Recompute.CHEAP: _cheaply_recomputed,
    Recompute.ALL: _recomputed,
}


def _contexts() -> Any:
    return create_selective_checkpoint_contexts(_KeepsDear())


class _KeepsDear:
    """Keeps the outputs that take much work for their size, if the backward pass needs them.

    These are attention on many keys, the first convolution of a residual block, and its second one where a shortcut
    comes behind it.
    """

    def __init__(self) -> None:
        self._is_needed = {False: True, True: True}

    def __call__(self, ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        keep = False
        if op in _FUSED_ATTENTION:
            keep = args[1].shape[-2] >= LONG_KEYS
        elif op is _aten.convolution.default and args[1].shape[-1] > 1:
            keep = self._is_needed[ctx.is_recompute]
            # The block's first convolution tells by its channels whether a shortcut comes behind the second.
            self._is_needed[ctx.is_recompute] = args[1].shape[0] != args[1].shape[1]
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


class _Compiled:
    """A way to run blocks, compiled once for each kind and shape of block; as it is where that fails."""

    def __init__(self, run: Callable[..., Any]) -> None:
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _MAX_SHAPES)  # a UNet has some twenty shapes of blocks
        dynamo.optimize_ddp = False  # blocks are compiled one by one, gradients are all below them
        self._run = run
        self._compiled = torch.compile(run, dynamic=False)
        self._failed: set[type] = set()

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if type(block) not in self._failed:
            try:
                return self._compiled(block, *args, **kwargs)
            except TorchDynamoException as error:
                log.warning("%s can't be compiled and runs as it is: %s", type(block).__name__, error)
                self._failed.add(type(block))
        return self._run(block, *args, **kwargs)
