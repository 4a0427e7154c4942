"""AnimateDiff on Stable Diffusion 1.5 as a backbone, built from diffusers and transformers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.utils import is_accelerate_available
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from idanim.models.attention import SelfAttentionProcessor, TextAttentionProcessor, has_nothing_but_projections
from idanim.models.backbone import DTYPES, Backbone, BackboneParts, CrossAttentionLayer, Diffused, Latents
from idanim.models.blocks import BlockPlan, run_blocks
from idanim.models.checkpoint import require_finite
from idanim.models.group_norm import normalise_frames_separately
from idanim.types import IdanimError


def animatediff_scheduler() -> DDIMScheduler:
    """DDIM with the noise levels that AnimateDiff's motion modules were trained on: linear betas, noise prediction.

    Stable Diffusion's own are scaled-linear; with those an AnimateDiff model trains and samples wrongly.
    """
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", steps_offset=1, clip_sample=False)


class VideoPipeline(AnimateDiffPipeline):
    """diffusers' pipeline, whose modules may lie on several devices and whose FreeNoise takes tokens.

    FreeNoise (arXiv 2310.15169) makes videos longer than the motion modules, by windows of frames that overlap.
    """

    @property
    def _execution_device(self) -> torch.device:
        return self.unet.device

    def sample_in_windows(self, length: int, stride: int) -> None:
        """Switch FreeNoise on.

        Args:
            length: frames of a window.
            stride: frames from one window to the next.
        """
        self.motion_adapter = self.unet  # of which FreeNoise reads the length of the position tables
        self.enable_free_noise(context_length=length, context_stride=stride)

    def _encode_prompt_free_noise(
        self,
        prompt: Any,
        num_frames: int,
        device: Any,
        num_videos_per_prompt: int,
        do_classifier_free_guidance: bool,
        negative_prompt: Any = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        **_options: Any,
    ) -> tuple[Tensor, None]:
        # diffusers' own takes texts only, and none of them can hold id tokens.
        assert prompt_embeds is not None
        assert negative_prompt_embeds is not None
        parts = [negative_prompt_embeds, prompt_embeds] if do_classifier_free_guidance else [prompt_embeds]
        return torch.cat(parts).to(device).repeat_interleave(num_frames, dim=0), None


class AnimateDiffBackbone(Backbone):
    """A frozen `UNetMotionModel` with its VAE, text encoder and scheduler.

    Args:
        unet: spatial layers and motion modules.
        vae: image autoencoder, applied frame by frame.
        text_encoder: CLIP text model.
        tokenizer: its tokenizer.
        scheduler: gives the noise levels and the prediction type.
        vae_chunk_frames: frames that go through the VAE at once.
    """

    def __init__(
        self,
        unet: UNetMotionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDIMScheduler,
        vae_chunk_frames: int = 16,
    ) -> None:
        super().__init__()
        normalise_frames_separately(unet)
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler = scheduler
        self.vae_chunk_frames = vae_chunk_frames
        self.set_processors(None)
        self.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls, path: str, motion: str | None = None, dtype: str = "float32", vae_chunk_frames: int = 16
    ) -> AnimateDiffBackbone:
        """Load from local folders in diffusers layout.

        Args:
            path: folder with `unet`, `vae`, `text_encoder`, `tokenizer`.
            motion: folder of a diffusers `MotionAdapter`, whose noise levels are then used; None when `unet` has
                its motion modules inside, and `scheduler` beside it says its noise levels.
            dtype: "float32", "bfloat16" or "float16".
            vae_chunk_frames: frames that go through the VAE at once.

        Raises:
            IdanimError: a folder is missing, or the type is unknown.
        """
        if dtype not in DTYPES:
            raise IdanimError(f"backbone.model.dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        folder = Path(path).expanduser()
        for part in ("unet", "vae", "text_encoder", "tokenizer", *(() if motion else ("scheduler",))):
            if not (folder / part).is_dir():
                raise IdanimError(f"backbone.model.path={path!r}: no folder {part!r} in it (diffusers layout)")
        # Without accelerate installed diffusers warns that it loads with more memory, unless told to.
        kwargs = {
            "local_files_only": True,
            "torch_dtype": DTYPES[dtype],
            "low_cpu_mem_usage": is_accelerate_available(),
        }
        if motion is None:
            unet = UNetMotionModel.from_pretrained(folder, subfolder="unet", **kwargs)
            scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler", local_files_only=True)
        else:
            motion_folder = Path(motion).expanduser()
            if not motion_folder.is_dir():
                raise IdanimError(f"backbone.model.motion={motion!r}: there is no such folder")
            spatial = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", **kwargs)
            unet = UNetMotionModel.from_unet2d(spatial, MotionAdapter.from_pretrained(motion_folder, **kwargs))
            unet.to(DTYPES[dtype])
            scheduler = animatediff_scheduler()
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", **kwargs)
        text = CLIPTextModel.from_pretrained(
            folder, subfolder="text_encoder", local_files_only=True, dtype=DTYPES[dtype]
        )
        for part, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
            require_finite(model, str(folder / part))
        return cls(
            unet,
            vae,
            text,
            CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer", local_files_only=True),
            scheduler,
            vae_chunk_frames,
        )

    @cached_property
    def latent_fingerprint(self) -> str:
        """Hash of the VAE's weights and of its latent scale."""
        digest = hashlib.sha256(repr(float(self.vae.config.scaling_factor)).encode())
        for name, tensor in sorted(self.vae.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def max_frames(self) -> int:
        """Length of the motion modules' position table."""
        return int(self.unet.config.motion_max_seq_length)

    def _spatial_processors(self) -> list[str]:
        # Without the motion modules the order is the one that official checkpoints count in.
        return [name for name in self.unet.attn_processors if "motion_modules" not in name]

    def cross_attention_layers(self) -> tuple[CrossAttentionLayer, ...]:
        """The text cross-attention layers (attn2); odd numbers of the official numbering."""
        return self._layers("attn2.processor")

    def self_attention_layers(self) -> tuple[CrossAttentionLayer, ...]:
        """The spatial self-attention layers (attn1); even numbers."""
        return self._layers("attn1.processor")

    def _layers(self, ending: str) -> tuple[CrossAttentionLayer, ...]:
        layers = []
        for number, name in enumerate(self._spatial_processors()):
            if name.endswith(ending):
                weight = self._attention(name).to_k.weight
                layers.append(CrossAttentionLayer(number, name, weight.shape[0], weight.shape[1]))
        return tuple(layers)

    def _attention(self, processor_name: str) -> Any:
        return self.unet.get_submodule(processor_name.removesuffix(".processor"))

    def set_processors(self, processors: Mapping[str, Any] | None) -> None:
        """Set the processors of the named layers; the others and None get the plain ones."""
        given = processors or {}
        wanted = {
            name: SelfAttentionProcessor() if has_nothing_but_projections(self._attention(name)) else processor
            for name, processor in self.unet.attn_processors.items()
        }
        for layer in self.cross_attention_layers():
            if not has_nothing_but_projections(self._attention(layer.name)):
                raise IdanimError(f"backbone: attention layer {layer.name} is not a plain one as in SD1.5")
            wanted[layer.name] = given.get(layer.name) or TextAttentionProcessor()
        for layer in self.self_attention_layers():
            wanted[layer.name] = given.get(layer.name) or wanted[layer.name]
        self.unet.set_attn_processor(wanted)

    def text_projections(self, layer: CrossAttentionLayer) -> tuple[Tensor, Tensor]:
        """`to_k` and `to_v` weights of the layer."""
        attention = self._attention(layer.name)
        return attention.to_k.weight, attention.to_v.weight

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Last hidden state of CLIP's text model, [B, 77, D]."""
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.text_encoder.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self.text_encoder.device, non_blocking=True)).last_hidden_state

    def cut_text(self, prompt: str) -> str:
        """What of a prompt is beyond CLIP's 77 tokens, of which two mark start and end."""
        length = self.text_encoder.config.max_position_embeddings - 2
        ids = self.tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return str(self.tokenizer.decode(ids[length:])).strip()

    def unknown_words(self, prompt: str) -> list[str]:
        """Those that are no token, where the vocabulary can't spell just any word as CLIP's own can."""
        known = self.tokenizer.get_vocab()
        if all(symbol in known for symbol in bytes_to_unicode().values()):
            return []
        words = re.findall(r"[^\W_]+", prompt.lower())  # the tokenizer too parts "red-haired" and "woman's"
        return [word for word in dict.fromkeys(words) if f"{word}</w>" not in known]

    @property
    def parts(self) -> BackboneParts:
        """CLIP's text model, the UNet, the VAE."""
        return BackboneParts(self.text_encoder, self.unet, self.vae)

    @property
    def scheduler_config(self) -> Mapping[str, Any]:
        """Of the DDIM scheduler."""
        return self.scheduler.config

    @property
    def multiple_of_px(self) -> int:
        """8 for Stable Diffusion: the VAE's factor, or 8 where that is smaller."""
        return max(8, 2 ** (len(self.vae.config.block_out_channels) - 1))

    def decode_in(self, chunk_frames: int | None, tiled: bool) -> None:
        """See `Backbone.decode_in`."""
        self.vae_chunk_frames = chunk_frames or self.vae_chunk_frames
        self.vae.use_tiling = tiled

    @torch.no_grad()
    def encode_video(self, pixels: Tensor) -> Latents:
        """Encode frame by frame; mean and std come scaled by the VAE's `scaling_factor`."""
        frames = pixels.flatten(0, 1).to(self.vae.device, self.vae.dtype)
        posteriors = [self.vae.encode(chunk).latent_dist for chunk in frames.split(self.vae_chunk_frames)]
        scale = self.vae.config.scaling_factor

        def by_video(parts: list[Tensor]) -> Tensor:
            return (torch.cat(parts) * scale).unflatten(0, pixels.shape[:2]).transpose(1, 2)

        return Latents(by_video([p.mean for p in posteriors]), by_video([p.std for p in posteriors]))

    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode frame by frame; gradients flow through it."""
        batch, _, frames = latents.shape[:3]
        flat = latents.transpose(1, 2).flatten(0, 1).to(self.vae.device, self.vae.dtype)
        flat = flat / self.vae.config.scaling_factor
        decoded = torch.cat([self.vae.decode(chunk).sample for chunk in flat.split(self.vae_chunk_frames)])
        return decoded.unflatten(0, (batch, frames))

    def diffuse(self, latents: Tensor, noise: Tensor, uniform: Tensor) -> Diffused:
        """DDPM forward process; the target is the noise or the velocity, as the scheduler says."""
        timesteps = (uniform * self.scheduler.config.num_train_timesteps).long()
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        signal_share = self.scheduler.alphas_cumprod.to(latents)[timesteps]
        if self.scheduler.config.prediction_type == "v_prediction":
            return Diffused(noisy, timesteps, self.scheduler.get_velocity(latents, noise, timesteps), signal_share)
        return Diffused(noisy, timesteps, noise, signal_share)

    def predict(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """The UNet's answer; `context` comes once per video.

        Frozen weights of half precision are computed with as they are: autocast would widen every norm to float32.
        """
        device_type = latents.device.type
        with torch.autocast(
            device_type, enabled=torch.is_autocast_enabled(device_type) and self.dtype == torch.float32
        ):
            return self.unet(latents.to(self.dtype), timesteps, context.to(self.dtype), return_dict=False)[0]

    def run_blocks_by(self, plan: BlockPlan) -> None:
        """See `Backbone.run_blocks_by`."""
        run_blocks(self.unet, plan)

    def clean(self, diffused: Diffused, prediction: Tensor) -> Tensor:
        """x_0 = sqrt(ā) x_t - sqrt(1 - ā) v, or (x_t - sqrt(1 - ā) ε) / sqrt(ā)."""
        share = diffused.signal_share.view(-1, 1, 1, 1, 1)
        if self.scheduler.config.prediction_type == "v_prediction":
            return share.sqrt() * diffused.latents - (1 - share).sqrt() * prediction
        return (diffused.latents - (1 - share).sqrt() * prediction) / share.sqrt()

    def answer_for(self, diffused: Diffused, clean: Tensor) -> Tensor:
        """v = (sqrt(ā) x_t - x_0) / sqrt(1 - ā), or ε = (x_t - sqrt(ā) x_0) / sqrt(1 - ā)."""
        share = diffused.signal_share.view(-1, 1, 1, 1, 1)
        if self.scheduler.config.prediction_type == "v_prediction":
            return (share.sqrt() * diffused.latents - clean) / (1 - share).sqrt()
        return (diffused.latents - share.sqrt() * clean) / (1 - share).sqrt()

    def pipeline(self) -> VideoPipeline:
        """diffusers' own pipeline over these modules."""
        return VideoPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            motion_adapter=None,
            scheduler=DDIMScheduler.from_config(self.scheduler.config),
        )
