"""The two systems whose training steps are compared, and that both compute the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from full_size import SMALL, Sizes, build_adapter, build_backbone, build_encoder, build_unet
from plain_loop import PixelBatch, PlainLoop
from torch import Tensor

from idanim.models.blocks import BlockPlan, run_blocks
from idanim.models.group_norm import normalise_frames_separately
from idanim.training.module import AdapterTraining
from idanim.training.objective import draw
from idanim.types import ClipBatch


class Ours:
    """The project's own step: `AdapterTraining`, with latents that were encoded before."""

    def __init__(self, sizes: Sizes, device: torch.device, dtype: torch.dtype) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype
        backbone = build_backbone(sizes, device, dtype)
        encoder = build_encoder(sizes, device, dtype)
        adapter = build_adapter(sizes, backbone, encoder.feature_dim)
        adam = partial(torch.optim.AdamW, lr=1e-4, weight_decay=0.01, fused=True)
        self.module = AdapterTraining(backbone, encoder, adapter, adam).to(device)
        self.module.train()
        self.optimizer = adam(adapter.parameters())

    def batch(self, size: int) -> ClipBatch:
        """Random clips on the CPU, as the loader gives them."""
        cells, face = self.sizes.side_px // 8, self.module.encoder.image_size
        torch.manual_seed(0)
        batch = ClipBatch(
            latents=torch.randn(size, 4, self.sizes.frames, cells, cells),
            references=torch.rand(size, 1, 3, face, face) * 2 - 1,
            captions=[f"a person number {i} is smiling" for i in range(size)],
            seeds=torch.arange(size),
            keys=[str(i) for i in range(size)],
            identities=[str(i) for i in range(size)],
        )
        return batch._replace(latents=pinned(batch.latents), references=pinned(batch.references))

    def loss(self, batch: ClipBatch) -> Tensor:
        """The loss of a batch that lies on the CPU, in the precision of `trainer=gpu`."""
        moved = batch._replace(
            latents=batch.latents.to(self.device, non_blocking=True),
            references=batch.references.to(self.device, non_blocking=True),
        )
        module = self.module
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return module._losses(module.adapter, moved)[0]

    def step(self, batch: ClipBatch) -> None:
        """What Lightning does in one step."""
        module = self.module
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(module.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        module.ema.update(module.adapter)


def pinned(tensor: Tensor) -> Tensor:
    """In memory that a GPU reads by itself."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def build_plain(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> PlainLoop:
    """The plain loop with models of its own, of the same weights as those of `Ours`."""
    backbone = build_backbone(sizes, device, dtype)
    encoder = build_encoder(sizes, device, dtype)
    adapter = build_adapter(sizes, backbone, encoder.feature_dim)
    backbone.unet = build_unet(sizes, device, dtype)  # a stock one in place of ours, which normalises frame by frame
    return PlainLoop(
        backbone.unet,
        backbone.vae,
        backbone.text_encoder,
        backbone.tokenizer,
        encoder.vision_model,
        backbone.scheduler,
        adapter,
    )


def pixel_batch(sizes: Sizes, size: int) -> PixelBatch:
    """Random clips on the CPU."""
    face = sizes.image_encoder["image_size"]
    pixels = torch.rand(size, sizes.frames, 3, sizes.side_px, sizes.side_px) * 2 - 1
    return PixelBatch(pinned(pixels), pinned(torch.randn(size, 3, face, face)), ["a person is smiling"] * size)


def differences(device: torch.device, plans: Mapping[str, BlockPlan]) -> dict[str, dict[str, float]]:
    """Relative differences of loss and gradients to the plain loop's, at the small size in float32, for each way."""
    torch.backends.cudnn.allow_tf32 = False  # full float32
    plain = build_plain(SMALL, device, torch.float32)
    normalise_frames_separately(plain.unet)  # the one thing in which diffusers departs from AnimateDiff
    ours = Ours(SMALL, device, torch.float32)
    module, batch = ours.module, ours.batch(2)
    drawn = draw(batch.seeds, batch.latents.shape[1:])
    timesteps = (drawn.time * plain.scheduler.config.num_train_timesteps).long().to(device)
    latents = batch.latents.to(device)
    features = module.encoder.encode(batch.references.to(device))[:, 0]
    text = module.backbone.encode_text(batch.captions)
    expected = plain.loss(latents, drawn.noise.to(device), timesteps, text, features)
    expected.backward()
    wanted = plain_gradients(plain)
    found = {}
    for name, plan in {"as it is": BlockPlan(compiled=False, channels_last=False), **plans}.items():
        run_blocks(module.backbone.unet, plan)
        module.adapter.zero_grad()
        moved = batch._replace(latents=latents, references=batch.references.to(device))
        loss, _ = module._losses(module.adapter, moved)
        loss.backward()
        got = {key: p.grad for key, p in module.adapter.named_parameters() if p.grad is not None}
        apart = [float((got[key] - value).norm() / value.norm()) for key, value in wanted.items()]
        found[name] = {"loss": abs(float(loss.detach() / expected.detach()) - 1), "gradients": max(apart)}
    torch.backends.cudnn.allow_tf32 = True
    return found


def plain_gradients(plain: PlainLoop) -> dict[str, Tensor]:
    """Gradients by our names: of the face's keys and values, and of the resampler's outer layers."""
    layers = [p for name, p in plain.unet.attn_processors.items() if name.endswith("attn2.processor")]
    layers = [p for p in layers if isinstance(p, torch.nn.Module)]
    found = {}
    for number, layer in enumerate(layers):
        for kind in ("k", "v"):
            found[f"adapter_modules.{2 * number + 1}.to_{kind}_face.weight"] = getattr(layer, f"to_{kind}_ip")[0].weight
    projection = plain.unet.encoder_hid_proj.image_projection_layers[0]
    for name in ("latents", "proj_in.weight", "proj_out.weight", "norm_out.weight"):
        found[f"image_proj_model.{name}"] = projection.get_parameter(name)
    return {name: parameter.grad for name, parameter in found.items() if parameter.grad is not None}
