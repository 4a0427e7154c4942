"""Sparse control: pictures or sketches that steer chosen frames (paper Fig. 9; SparseCtrl, arXiv 2311.16933)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SparseControlNetModel

from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.backbone import Backbone
from idanim.models.sparse_control import condition_latents, reading_text_only, sparse_control_pipeline
from idanim.pictures import fitted
from idanim.types import IdanimError, UInt8Array
from idanim.video import to_float

OFFICIAL, TEXT = CONTEXTS = ("official", "text")


@dataclass(frozen=True)
class SparseControl:
    """A control network with what it shall show.

    Attributes:
        network: of the scribble kind (takes pixels) or the rgb kind (takes latents).
        pictures: each [H, W, 3] uint8; those of another shape are cut to that of the video. Sketches are white lines
            on black.
        frames: which frame each picture steers, from 0.
        scale: weight of the network's residuals.
        context: what the network reads: "official" = text and id tokens, as in the official code; "text" = no id
            tokens, as the network was trained.
        sources: files of the pictures, for the record.
    """

    network: SparseControlNetModel
    pictures: tuple[UInt8Array, ...]
    frames: tuple[int, ...]
    scale: float = 1.0
    context: str = OFFICIAL
    sources: tuple[str, ...] = ()

    def check(self, num_frames: int) -> None:
        """Refuse what does not fit together or to a video of so many frames.

        Raises:
            IdanimError: the text says what was got and expected.
        """
        if self.context not in CONTEXTS:
            raise IdanimError(f"control.context={self.context!r}: expected one of {', '.join(CONTEXTS)}")
        if not self.pictures or len(self.pictures) != len(self.frames):
            raise IdanimError(
                f"control: {len(self.pictures)} pictures for {len(self.frames)} frames {list(self.frames)}; "
                "give each picture one frame: control.images=[a.png,b.png] control.frames=[0,15]"
            )
        if len(set(self.frames)) < len(self.frames):
            raise IdanimError(f"control.frames={list(self.frames)}: a frame is named twice")
        outside = [frame for frame in self.frames if not 0 <= frame < num_frames]
        if outside:
            raise IdanimError(f"control.frames={list(self.frames)}: the video has the frames 0 to {num_frames - 1}")
        longest = int(self.network.config.motion_max_seq_length)
        if num_frames > longest:
            raise IdanimError(f"num_frames={num_frames}: this control network makes 1 to {longest} frames")

    def options(self, backbone: Backbone, height: int, width: int) -> dict[str, Any]:
        """What `Sampler.denoise` needs for a video of this size.

        Raises:
            IdanimError: another kind of backbone.
        """
        if not isinstance(backbone, AnimateDiffBackbone):
            raise IdanimError("control=: sparse control is for AnimateDiff backbones")
        pixels = torch.stack([to_float(fitted(picture, height, width)) for picture in self.pictures]) / 2 + 0.5
        if self.network.use_simplified_condition_embedding:
            vae = backbone.vae
            conditions = condition_latents(vae, pixels.to(vae.device, vae.dtype))
        else:
            conditions = pixels.transpose(0, 1)[None]
        return {
            "pipeline": sparse_control_pipeline(backbone, self.network),
            "conditioning_frames": conditions,
            "controlnet_frame_indices": list(self.frames),
            "controlnet_conditioning_scale": self.scale,
        }

    def reading(self, num_text_tokens: int) -> AbstractContextManager[None]:
        """While it lasts the network reads what `context` says."""
        return reading_text_only(self.network, num_text_tokens) if self.context == TEXT else nullcontext()
