"""Sampling: references and a prompt → a video, on diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from idanim.models.adapter import FaceAdapter
from idanim.models.backbone import Backbone
from idanim.models.encoder import FaceEncoder
from idanim.pictures import square
from idanim.types import GeneratedClip, IdanimError, UInt8Array
from idanim.video import to_float, to_uint8


@dataclass(frozen=True)
class SamplingSettings:
    """How a video is sampled.

    Attributes:
        num_frames: frames.
        height: pixels.
        width: pixels.
        num_inference_steps: denoising steps.
        guidance_scale: weight of classifier-free guidance; 1 or less switches it off.
        negative_prompt: what guidance leads away from.
        fps: frames per second of the video.
    """

    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    fps: float


class Sampler:
    """Generates videos with a frozen backbone and a face adapter.

    Args:
        backbone: the text-to-video model.
        encoder: describes reference pictures.
        adapter: turns that into id tokens; the backbone is left with it attached.
    """

    def __init__(self, backbone: Backbone, encoder: FaceEncoder, adapter: FaceAdapter) -> None:
        self.backbone = backbone
        self.encoder = encoder
        self.adapter = adapter
        self._pipeline = backbone.pipeline()
        self._pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def generate(
        self,
        references: Sequence[UInt8Array],
        prompt: str,
        seed: int,
        settings: SamplingSettings,
        identity: str = "",
        on_step: Callable[[Tensor], None] | None = None,
    ) -> GeneratedClip:
        """Generate one video; the same arguments give the same frames on a CPU.

        Args:
            references: face crops of one person, each [H, W, 3] uint8; none = the plain backbone.
            prompt: what the video should show.
            seed: of the initial noise.
            settings: length, size and steps.
            identity: the person's name, for the record.
            on_step: is given the latents [1, C, F, h, w] after each step.

        Raises:
            IdanimError: more frames than the backbone can make, or a size that is not a multiple of 8.
        """
        if not 1 <= settings.num_frames <= self.backbone.max_frames:
            raise IdanimError(
                f"num_frames={settings.num_frames}: this backbone makes 1 to {self.backbone.max_frames} frames"
            )
        if settings.height % 8 or settings.width % 8:
            raise IdanimError(f"{settings.height} × {settings.width} pixels: both must be multiples of 8")
        context, negative = self.guidance_contexts(references, prompt, settings.negative_prompt)
        frames = self.denoise(context, negative, seed, settings, on_step)
        # The pipeline answers in [0, 1].
        return GeneratedClip(to_uint8(frames.float() * 2 - 1), settings.fps, prompt, identity, seed)

    @torch.no_grad()
    def guidance_contexts(
        self, references: Sequence[UInt8Array], prompt: str, negative_prompt: str
    ) -> tuple[Tensor, Tensor]:
        """What the backbone attends to with and against the prompt: [text | id tokens], each [1, L (+ Q), D].

        The backbone is left with the adapter attached, or without it where there are no references.
        """
        context, negative = self.backbone.encode_text([prompt, negative_prompt]).split(1)
        if not references:
            self.backbone.set_processors(None)
            return context, negative
        tokens, null_tokens = self._id_tokens(references)
        self.adapter.attach(self.backbone)
        return (
            torch.cat([context, tokens.to(context)], dim=1),
            torch.cat([negative, null_tokens.to(negative)], dim=1),
        )

    @torch.no_grad()
    def denoise(
        self,
        context: Tensor,
        negative: Tensor,
        seed: int,
        settings: SamplingSettings,
        on_step: Callable[[Tensor], None] | None = None,
        pipeline: Any = None,
        **options: Any,
    ) -> Tensor:
        """Initial noise → frames [F, 3, H, W] float in [0, 1].

        Args:
            context: [1, L (+ Q), D].
            negative: the same for what guidance leads away from.
            seed: of the initial noise, drawn on the CPU.
            settings: length, size and steps.
            on_step: is given the latents [1, C, F, h, w] after each step.
            pipeline: a diffusers pipeline in place of the backbone's own, for instance one with sparse control.
            options: further arguments of that pipeline.
        """

        def after_step(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(tensors["latents"])
            return {}

        return (pipeline or self._pipeline)(
            prompt_embeds=context,
            negative_prompt_embeds=negative,
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=after_step,
            output_type="pt",
            **options,
        ).frames[0]

    def _id_tokens(self, references: Sequence[UInt8Array]) -> tuple[Tensor, Tensor]:
        """Id tokens of the person and of nobody, each [1, Q, D]."""
        crops = np.stack([square(crop, self.encoder.image_size) for crop in references])
        dtype = next(self.adapter.parameters()).dtype
        features = self.encoder.encode(to_float(crops)[None].to(self.backbone.device)).to(dtype)
        nobody = self.encoder.null_features().to(dtype).expand(-1, self.adapter.num_references, -1, -1)
        return self.adapter.id_tokens(features), self.adapter.id_tokens(nobody)
