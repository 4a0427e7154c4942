"""Training with a frozen backbone that does not fit one device: its weights are shared out between the devices."""

from __future__ import annotations

import warnings
from typing import Any, cast

from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from idanim.training.module import AdapterTraining


class ShardedBackboneStrategy(DDPStrategy):
    """DDP for the adapter, FSDP2 for the frozen backbone.

    Each device holds a share of the backbone's weights and fetches the rest layer by layer. Nothing of it is trained,
    so checkpoints are those of any other run: they hold the adapter alone, and go on with any strategy and any number
    of devices.

    Args:
        min_layer_parameters: layers are shared out one by one from this size on; smaller ones together.
        options: of `DDPStrategy`.
    """

    def __init__(self, min_layer_parameters: int = 1_000_000, **options: Any) -> None:
        super().__init__(**options)
        self.min_layer_parameters = min_layer_parameters

    def model_to_device(self) -> None:
        """Share out the backbone, a layer at a time, then move the rest."""
        backbone = cast(nn.Module, cast(AdapterTraining, self.lightning_module).backbone)
        # The denoiser's answer is a view; nobody writes to it.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        # The denoiser; the others are small, and are called by other methods than `forward`, which alone fetches.
        _shard(max(backbone.children(), key=_num_parameters), self.min_layer_parameters)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """The adapter's gradients are averaged; the backbone is left alone."""
        module = self.lightning_module
        assert module is not None
        names = [f"backbone.{name}" for name, _ in cast(nn.Module, module.backbone).named_parameters()]
        names += [f"backbone.{name}" for name, _ in cast(nn.Module, module.backbone).named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
        super().configure_ddp()


def is_sharded(strategy: object) -> bool:
    """Whether every process must take part whenever the backbone runs."""
    return isinstance(strategy, ShardedBackboneStrategy)


def _shard(part: nn.Module, min_parameters: int) -> None:
    """Share out the layers of one network of the backbone: those in lists, which are run one after the other."""
    layers = [layer for group in part.modules() if isinstance(group, nn.ModuleList) for layer in group]
    for layer in reversed(layers):  # inner ones first
        if any(True for _ in layer.children()) and _num_parameters(layer) >= min_parameters:
            fully_shard(layer)
    fully_shard(part)


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
