"""The LightningModule: a frozen backbone, a frozen face encoder and the adapter that learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from idanim.models.adapter import FaceAdapter
from idanim.models.backbone import Backbone
from idanim.models.blocks import BlockPlan
from idanim.models.checkpoint import CONFIG_KEY, EMA_KEY, load_strictly
from idanim.models.encoder import FaceEncoder
from idanim.training.face_weight import FaceWeight
from idanim.training.identity_loss import IdentityLoss
from idanim.training.moving_average import MovingAverage
from idanim.training.objective import denoising_loss, draw
from idanim.training.resume import changed_settings
from idanim.types import ClipBatch, IdanimError


class AdapterTraining(LightningModule):
    """Random reference training of a face adapter (paper §3.4).

    Its state dict is the adapter's alone, in the official key layout: the backbone and the encoder never
    go into a checkpoint.

    Args:
        backbone: frozen.
        encoder: frozen.
        adapter: trained.
        optimizer: parameters → optimiser.
        warmup_steps: steps over which the learning rate rises from zero.
        null_image_prob: how often the face is dropped (0 in the paper).
        ema_decay: of the moving average of the adapter; it warms up as (1 + n) / (10 + n).
        identity_loss: added to the denoising loss; None = the paper's loss alone.
        face_weight: how much each place counts in the denoising loss; None = all alike, as in the paper.
        stored_config: what goes into checkpoints as the configuration.
        blocks: how the backbone's blocks run: what is recomputed and compiled.
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: FaceEncoder,
        adapter: FaceAdapter,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        warmup_steps: int = 0,
        null_image_prob: float = 0.0,
        ema_decay: float = 0.999,
        identity_loss: IdentityLoss | None = None,
        face_weight: FaceWeight | None = None,
        stored_config: dict[str, Any] | None = None,
        blocks: BlockPlan | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.encoder = encoder
        self.adapter = adapter
        self.make_optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.null_image_prob = null_image_prob
        self.identity_loss = identity_loss
        self.face_weight = face_weight
        self.stored_config = stored_config or {}

        self.blocks = blocks or BlockPlan()
        self.ema = MovingAverage(adapter, ema_decay)
        adapter.attach(backbone)

    def on_fit_start(self) -> None:
        """Prepare the backbone, which is on its device now."""
        self.backbone.run_blocks_by(self.blocks)

    # ------------------------------------------------------------------------------------------- steps

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """One step of Eq. 3."""
        loss, identity = self._losses(self.adapter, batch)
        self.log("train/loss", loss, prog_bar=True, logger=False, sync_dist=True)  # `StepFigures` writes it down
        if identity is None:
            return loss
        self.log("train/identity_loss", identity, prog_bar=True, logger=False, sync_dist=True)
        return loss + identity

    def _losses(self, adapter: FaceAdapter, batch: ClipBatch) -> tuple[Tensor, Tensor | None]:
        """The denoising loss, and the weighted identity loss where there is one."""
        drawn = draw(batch.seeds, batch.latents.shape[1:])
        noise, time, null_image, frame_order = (x.to(self.device, non_blocking=True) for x in drawn)
        features = self.encoder.encode(batch.references)
        if self.null_image_prob > 0:
            is_null = (null_image < self.null_image_prob).view(-1, 1, 1, 1)
            features = torch.where(is_null, self.encoder.null_features(), features)
        tokens = adapter.id_tokens(features.to(self.adapter_dtype))
        text = self.backbone.encode_text(batch.captions)
        context = torch.cat([text, tokens.to(text.dtype)], dim=1)
        diffused = self.backbone.diffuse(batch.latents, noise, time)
        prediction = self.backbone.predict(diffused.latents, diffused.timesteps, context)
        weights = None
        if self.face_weight is not None:
            assert batch.landmarks is not None
            weights = self.face_weight(batch.landmarks, *prediction.shape[-2:])
        loss = denoising_loss(prediction, diffused.target, weights)
        if self.identity_loss is None:
            return loss, None
        assert batch.landmarks is not None
        return loss, self.identity_loss(
            self.backbone, diffused, prediction, batch.latents, batch.landmarks, time, frame_order
        )

    @property
    def adapter_dtype(self) -> torch.dtype:
        """Type of the trained weights."""
        return next(self.adapter.parameters()).dtype

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """The loss of the averaged adapter on a fixed list of clips with fixed noise."""
        with self.averaged_adapter() as adapter:
            loss, identity = self._losses(adapter, batch)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.keys), sync_dist=True)
        if identity is not None:
            self.log("val/identity_loss", identity, batch_size=len(batch.keys), sync_dist=True)

    @torch.no_grad()
    def id_tokens(self, references: Tensor) -> Tensor:
        """Id tokens [B, Q, D] of the adapter for references [B, R, 3, S, S] of B different persons."""
        features = self.encoder.encode(references.to(self.device))
        return self.adapter.id_tokens(features.to(self.adapter_dtype))

    @contextmanager
    def averaged_adapter(self) -> Iterator[FaceAdapter]:
        """Attach the moving average instead of the weights in training."""
        averaged = cast(FaceAdapter, self.ema.module)
        averaged.attach(self.backbone)
        try:
            yield averaged
        finally:
            self.adapter.attach(self.backbone)

    # --------------------------------------------------------------------------------------- optimiser

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser over the adapter alone, with a linear warm-up."""
        optimizer = self.make_optimizer(self.adapter.parameters())
        warmup = max(1, self.warmup_steps)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all weights.

        Lightning's own clipping refuses fused optimisers under mixed precision, for the sake of loss scaling.

        Raises:
            IdanimError: another algorithm is asked for.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            raise IdanimError("trainer.gradient_clip_algorithm: gradients are clipped by their norm; leave it out")
        clip_grad_norm_(self.adapter.parameters(), gradient_clip_val or math.inf)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then take the new weights into the moving average."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.adapter)

    def train(self, mode: bool = True) -> AdapterTraining:
        """The frozen parts stay in evaluation mode."""
        super().train(mode)
        for frozen in (self.backbone, self.encoder):
            if isinstance(frozen, nn.Module):
                frozen.eval()
        return self

    # ------------------------------------------------------------------------------------- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapter's tensors by official key names."""
        return self.adapter.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Load the adapter's tensors; they must fit exactly.

        Raises:
            IdanimError: names the keys that do not fit.
        """
        load_strictly(self.adapter, state_dict, "the checkpoint")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the moving average and the configuration."""
        checkpoint[EMA_KEY] = self.ema.module.state_dict()
        checkpoint["ema_updates"] = self.ema.num_updates
        checkpoint[CONFIG_KEY] = self.stored_config

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the moving average.

        Raises:
            IdanimError: the checkpoint was trained with other settings, or does not fit.
        """
        changed = changed_settings(checkpoint[CONFIG_KEY], self.stored_config)
        if changed:
            raise IdanimError(
                f"the run to go on with was started with other settings: {'; '.join(changed[:4])}. "
                "Give the same settings, or another output= for a new run"
            )
        load_strictly(self.ema.module, checkpoint[EMA_KEY], "the checkpoint's moving average")
        self.ema.num_updates = checkpoint["ema_updates"]
