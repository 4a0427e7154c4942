"""Sampling: references and a prompt → a video, on diffusers' own pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from idanim.generation.control import SparseControl
from idanim.generation.identity import IdTokens
from idanim.generation.identity_guidance import Aim, IdentityGuidance
from idanim.generation.schedulers import scheduler_like
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.attention import ContextCache
from idanim.models.backbone import Backbone
from idanim.models.encoder import FaceEncoder
from idanim.pictures import square
from idanim.types import GeneratedClip, IdanimError, UInt8Array
from idanim.video import UnusableVideoError, to_float, to_uint8

WINDOW_FRAMES, WINDOW_STRIDE = 16, 4
"""FreeNoise's windows: what AnimateDiff was trained on, and diffusers' default stride."""

OnStep = Callable[[Tensor], None]


class VideoRequest(NamedTuple):
    """One of several videos that are sampled together.

    Attributes:
        references: face crops of one person, each [H, W, 3] uint8; none = the plain backbone.
        prompt: what the video should show.
        seed: of the initial noise.
        identity: the person's name, for the record.
    """

    references: Sequence[UInt8Array]
    prompt: str
    seed: int
    identity: str = ""


class Sampler:
    """Generates videos with a frozen backbone and a face adapter.

    Args:
        backbone: the text-to-video model.
        encoder: describes reference pictures.
        adapter: turns that into id tokens; the backbone is left with it attached.
        offload_from: a device to which each model is moved only while it works; None = they stay where they are.
        identity_guidance: leads videos to the person where the settings say how strongly.
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: FaceEncoder,
        adapter: FaceAdapter,
        offload_from: str | None = None,
        identity_guidance: IdentityGuidance | None = None,
    ) -> None:
        self.backbone = backbone
        self.encoder = encoder
        self.adapter = adapter
        self.offload_from = offload_from
        self.identity_guidance = identity_guidance
        self._cache = ContextCache()
        self._pipeline = backbone.pipeline()
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def device(self) -> str:
        """Where the work is done, which is not where the models rest while they are offloaded."""
        return self.offload_from or str(self.backbone.device)

    @torch.no_grad()
    def generate(
        self,
        references: Sequence[UInt8Array],
        prompt: str,
        seed: int,
        settings: SamplingSettings,
        identity: str = "",
        on_step: OnStep | None = None,
    ) -> GeneratedClip:
        """Generate one video; the same arguments give the same frames on a CPU.

        Args:
            references: face crops of one person, each [H, W, 3] uint8; none = the plain backbone.
            prompt: what the video should show.
            seed: of the initial noise.
            settings: length, size and steps.
            identity: the person's name, for the record.
            on_step: is given the latents [1, C, F, h, w] after each step; what it raises ends the sampling.

        Raises:
            IdanimError: more frames than the backbone can make, or a size that is not a multiple of 8.
        """
        self.check(settings)
        tokens = self.id_tokens(references) if references else None
        return self.generate_from(tokens, prompt, seed, settings, identity, on_step)

    @torch.no_grad()
    def generate_together(
        self, requests: Sequence[VideoRequest], settings: SamplingSettings
    ) -> list[GeneratedClip | UnusableVideoError]:
        """Generate several videos in one go, as one by one but for rounding; on a GPU that is much faster.

        Args:
            requests: with references, or all without.
            settings: of all of them.

        Returns:
            For each request its video, or why there is none.
        """
        self.check(settings)
        tokens = [self.id_tokens(request.references) if request.references else None for request in requests]
        contexts = [
            self._contexts(own, request.prompt, settings.negative_prompt)
            for own, request in zip(tokens, requests, strict=True)
        ]
        if len(requests) > 1 and (self._in_windows(settings) or len({context.shape for context, _ in contexts}) > 1):
            # FreeNoise draws for one video; other numbers of references give other numbers of tokens
            return [result for request in requests for result in self.generate_together([request], settings)]
        context, negative = (torch.cat(parts) for parts in zip(*contexts, strict=True))
        seeds = [request.seed for request in requests]
        clips: list[GeneratedClip | UnusableVideoError] = []
        videos = self._denoise(context, negative, seeds, settings, tokens)
        for frames, request in zip(videos, requests, strict=True):
            try:
                pixels = to_uint8(frames.float() * 2 - 1)
                clips.append(GeneratedClip(pixels, settings.fps, request.prompt, request.identity, request.seed))
            except UnusableVideoError as error:
                clips.append(error)
        return clips

    @torch.no_grad()
    def generate_from(
        self,
        tokens: IdTokens | None,
        prompt: str,
        seed: int,
        settings: SamplingSettings,
        identity: str = "",
        on_step: OnStep | None = None,
        control: SparseControl | None = None,
    ) -> GeneratedClip:
        """Generate one video from id tokens that are there already; see `generate`.

        Args:
            tokens: of `id_tokens`, perhaps mixed; None = the plain backbone.
            prompt: what the video should show.
            seed: of the initial noise.
            settings: length, size and steps.
            identity: the person's name, for the record.
            on_step: is given the latents [1, C, F, h, w] after each step; what it raises ends the sampling.
            control: pictures that steer some frames.

        Raises:
            IdanimError: settings that don't fit the backbone or the control.
        """
        self.check(settings)
        context, negative = self._contexts(tokens, prompt, settings.negative_prompt)
        if control is None:
            frames = self._denoise(context, negative, [seed], settings, [tokens], on_step)[0]
        else:
            num_text_tokens = context.shape[1] - (tokens.person.shape[1] if tokens else 0)
            options = self._control_options(control, settings)
            with self._at_work(control.network), control.reading(num_text_tokens):
                frames = self._denoise(context, negative, [seed], settings, [tokens], on_step, **options)[0]
        return GeneratedClip(to_uint8(frames.float() * 2 - 1), settings.fps, prompt, identity, seed)

    def check(self, settings: SamplingSettings) -> None:
        """Refuse settings that the backbone can't follow.

        Raises:
            IdanimError: the number of frames or of steps, a size, or the scheduler; the text says what would do.
        """
        longest = self.backbone.max_frames
        if settings.num_frames < 1 or (settings.num_frames > longest and not settings.free_noise):
            raise IdanimError(
                f"num_frames={settings.num_frames}: this backbone makes 1 to {longest} frames; longer videos are "
                "sampled in windows with sampling.free_noise=true"
            )
        multiple = self.backbone.multiple_of_px
        if min(settings.height, settings.width) < multiple or settings.height % multiple or settings.width % multiple:
            raise IdanimError(f"{settings.height} × {settings.width} pixels: both must be multiples of {multiple}")
        if settings.num_inference_steps < 1:
            raise IdanimError(f"num_inference_steps={settings.num_inference_steps}: at least 1 is needed")
        if settings.identity_guidance and self.identity_guidance is None:
            raise IdanimError(
                f"identity_guidance={settings.identity_guidance:g}: its recogniser is loaded with the other models, so "
                f"this must be said when they are: sampling.identity_guidance={settings.identity_guidance:g}"
            )
        scheduler_like(settings.scheduler, self.backbone.scheduler_config)

    @torch.no_grad()
    def id_tokens(self, references: Sequence[UInt8Array]) -> IdTokens:
        """Id tokens of a person: the mean over face crops, each [H, W, 3] uint8 (FaceID-portrait: side by side)."""
        crops = np.stack([square(crop, self.encoder.image_size) for crop in references])
        if self.adapter.concatenates:
            self.adapter.num_references = len(references)
        dtype = next(self.adapter.parameters()).dtype
        with self._at_work(self.encoder, self.adapter):
            device = self.adapter.device
            features = self.encoder.encode(to_float(crops)[None].to(device)).to(dtype)
            nobody = self.encoder.null_features().to(dtype).expand(-1, self.adapter.num_references, -1, -1)
            tokens = IdTokens(self.adapter.id_tokens(features), self.adapter.id_tokens(nobody))
        if self.identity_guidance is None:
            return tokens
        with self._at_work(self.identity_guidance.recogniser):
            return tokens._replace(face_vector=self.identity_guidance.face_vector(references))

    @torch.no_grad()
    def guidance_contexts(
        self, references: Sequence[UInt8Array], prompt: str, negative_prompt: str
    ) -> tuple[Tensor, Tensor]:
        """What the backbone attends to with and against the prompt: [text | id tokens], each [1, L (+ Q), D].

        The backbone is left with the adapter attached, or without it where there are no references.
        """
        return self._contexts(self.id_tokens(references) if references else None, prompt, negative_prompt)

    def _contexts(self, tokens: IdTokens | None, prompt: str, negative_prompt: str) -> tuple[Tensor, Tensor]:
        with self._at_work(self.backbone.parts.text):
            context, negative = self.backbone.encode_text([prompt, negative_prompt]).split(1)
        if tokens is None:
            self.backbone.set_processors(self.backbone.text_processors(self._cache))
            return context, negative
        self.adapter.attach(self.backbone, self._cache)
        if self.adapter.concatenates:  # the tokens may have been made before those of others
            self.adapter.num_references = tokens.person.shape[1] // self.adapter.num_queries
        return (
            torch.cat([context, tokens.person.to(context)], dim=1),
            torch.cat([negative, tokens.nobody.to(negative)], dim=1),
        )

    @torch.no_grad()
    def denoise(
        self,
        context: Tensor,
        negative: Tensor,
        seed: int,
        settings: SamplingSettings,
        on_step: OnStep | None = None,
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
        return self._denoise(context, negative, [seed], settings, [None], on_step, pipeline, **options)[0]

    def _denoise(
        self,
        context: Tensor,
        negative: Tensor,
        seeds: Sequence[int],
        settings: SamplingSettings,
        persons: Sequence[IdTokens | None],
        on_step: OnStep | None = None,
        pipeline: Any = None,
        **options: Any,
    ) -> Tensor:
        """See `denoise`; B contexts and seeds → [B, F, 3, H, W]."""

        def after_step(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(tensors["latents"])
            return {}

        pipeline = pipeline or self._pipeline
        pipeline.scheduler = scheduler_like(settings.scheduler, self.backbone.scheduler_config)
        parts = self.backbone.parts
        guides = self._lead(pipeline.scheduler, persons, settings)
        with self._at_work(parts.denoiser, self.adapter, *guides), self._cache.video(settings.num_frames):
            device = self.backbone.device
            in_windows = self._in_windows(settings)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            with self._windows(pipeline) if in_windows else nullcontext():
                latents = pipeline(
                    prompt_embeds=context.to(device),
                    negative_prompt_embeds=negative.to(device),
                    num_frames=settings.num_frames,
                    height=settings.height,
                    width=settings.width,
                    num_inference_steps=settings.num_inference_steps,
                    guidance_scale=settings.guidance_scale,
                    generator=generators[0] if len(generators) == 1 else generators,  # FreeNoise takes no list
                    callback_on_step_end=after_step,
                    output_type="latent",
                    **options,
                ).frames
        with self._at_work(parts.autoencoder):
            return (self.backbone.decode_video(latents) / 2 + 0.5).clamp(0, 1)

    def _lead(
        self, scheduler: Any, persons: Sequence[IdTokens | None], settings: SamplingSettings
    ) -> Sequence[nn.Module]:
        """Lead the steps of a scheduler to the persons; returns the models that work for it beside the denoiser."""
        shown = [person for person in persons if person is not None]
        if self.identity_guidance is None or not settings.identity_guidance or not shown:
            return ()
        vectors = [person.face_vector for person in shown if person.face_vector is not None]
        if len(vectors) < len(shown):
            raise IdanimError(
                "identity_guidance: this person was read without a recogniser; read it again by the generator that "
                "makes the video"
            )
        # A mean of several pictures or people is shorter than 1, and could not come near the limit.
        aim = Aim(normalize(torch.cat(vectors), dim=1), settings.identity_guidance, settings.identity_guidance_limit)
        self.identity_guidance.lead(scheduler, aim)
        return self.backbone.parts.autoencoder, self.identity_guidance.recogniser

    @property
    def _window_frames(self) -> int:
        return min(WINDOW_FRAMES, self.backbone.max_frames)

    def _in_windows(self, settings: SamplingSettings) -> bool:
        return settings.free_noise and settings.num_frames > self._window_frames

    @contextmanager
    def _windows(self, pipeline: Any) -> Iterator[None]:
        if not hasattr(pipeline, "sample_in_windows"):
            raise IdanimError("sampling.free_noise=true does not go with sparse control: its network has one length")
        pipeline.sample_in_windows(self._window_frames, WINDOW_STRIDE)
        try:
            yield
        finally:
            pipeline.disable_free_noise()

    def _control_options(self, control: SparseControl, settings: SamplingSettings) -> dict[str, Any]:
        control.check(settings.num_frames)
        with self._at_work(self.backbone.parts.autoencoder):
            return control.options(self.backbone, settings.height, settings.width)

    @contextmanager
    def _at_work(self, *models: Any) -> Iterator[None]:
        """The models on the device where they work, afterwards back in the main memory."""
        if self.offload_from is None:
            yield
            return
        modules = [model for model in models if isinstance(model, nn.Module)]
        try:
            for module in modules:
                module.to(self.offload_from)
            yield
        finally:
            for module in modules:
                module.to("cpu")
