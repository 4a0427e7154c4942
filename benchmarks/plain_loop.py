"""The plain training loop: what one writes with diffusers and transformers alone, at the same precision.

A stock `UNetMotionModel` with diffusers' IP-Adapter-Plus, the VAE and both CLIP models in every step, diffusers'
gradient checkpointing, AdamW as it comes, frozen weights of half precision under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNetMotionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from idanim.models.adapter import FaceAdapter


class PixelBatch(NamedTuple):
    """What the plain loop trains on.

    Attributes:
        pixels: [B, F, 3, H, W] float in [-1, 1].
        faces: [B, 3, S, S] float, normalised for CLIP.
        captions: B prompts.
    """

    pixels: Tensor
    faces: Tensor
    captions: Sequence[str]


class PlainLoop:
    """Trains an IP-Adapter-Plus on a motion UNet.

    Args:
        unet: frozen; it gets the adapter.
        vae: frozen.
        text_encoder: frozen.
        tokenizer: of the text encoder.
        image_encoder: frozen.
        scheduler: gives the noise levels.
        adapter: gives the weights to start from.
        lr: of AdamW.
    """

    def __init__(
        self,
        unet: UNetMotionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        image_encoder: CLIPVisionModelWithProjection,
        scheduler: DDIMScheduler,
        adapter: FaceAdapter,
        lr: float = 1e-4,
    ) -> None:
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.image_encoder, self.scheduler = image_encoder, scheduler
        self.device = unet.device
        for model in (unet, vae, text_encoder, image_encoder):
            model.requires_grad_(False).eval()
        unet._load_ip_adapter_weights([ip_adapter_state(adapter)], low_cpu_mem_usage=False)
        self.trained = nn.ModuleList(
            [unet.encoder_hid_proj, *(p for p in unet.attn_processors.values() if isinstance(p, nn.Module))]
        )
        self.trained.to(self.device, torch.float32).requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=lr, weight_decay=0.01)
        unet.enable_gradient_checkpointing()

    def autocast(self) -> AbstractContextManager[object]:
        """Of the type of the frozen weights, where that is half precision."""
        dtype = next(self.vae.parameters()).dtype
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def step(self, batch: PixelBatch) -> None:
        """One step."""
        with self.autocast():
            with torch.no_grad():
                pixels = batch.pixels.to(self.device, self.vae.dtype, non_blocking=True)
                # One video at a time, so that the VAE does not take the most memory.
                latents = torch.stack([self.vae.encode(video).latent_dist.sample() for video in pixels])
                latents = latents.transpose(1, 2) * self.vae.config.scaling_factor
                faces = batch.faces.to(self.device, self.image_encoder.dtype, non_blocking=True)
                features = self.image_encoder(faces, output_hidden_states=True).hidden_states[-2]
                text = self.encode_text(batch.captions)
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), device=self.device)
            loss = self.loss(latents, noise, timesteps, text, features)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Tokens of B captions, [B, L, D]."""
        length = self.text_encoder.config.max_position_embeddings
        ids = self.tokenizer(
            list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor, features: Tensor) -> Tensor:
        """Mean squared error of the predicted noise of latents [B, C, F, h, w]; text and face tokens are [B, N, D]."""
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        prediction = self.unet(
            noisy,
            timesteps,
            text.repeat_interleave(latents.shape[2], dim=0),
            added_cond_kwargs={"image_embeds": [features[:, None]]},
        ).sample
        return F.mse_loss(prediction.float(), noise.float())


def ip_adapter_state(adapter: FaceAdapter) -> dict[str, dict[str, Tensor]]:
    """The adapter's weights in the layout of IP-Adapter-Plus."""
    projection, layers = "image_proj_model.", "adapter_modules."
    state = adapter.state_dict()
    return {
        "image_proj": {k.removeprefix(projection): v for k, v in state.items() if k.startswith(projection)},
        "ip_adapter": {
            k.removeprefix(layers).replace("_face.", "_ip."): v for k, v in state.items() if k.startswith(layers)
        },
    }
