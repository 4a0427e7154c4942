"""How videos are sampled: the settings that a user chooses, checked where they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from idanim.types import IdanimError

_GUIDANCE = ("identity_guidance", "identity_guidance_limit")


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
        scheduler: one of `idanim.generation.schedulers.SCHEDULER_NAMES`.
        free_noise: sample in windows that overlap, so that a video may be longer than the motion modules.
        identity_guidance: strength of `IdentityGuidance`, for instance 0.1; 0 switches it off.
        identity_guidance_limit: similarity to the person at which it ends, in [-1, 1].

    Raises:
        IdanimError: a value of another type, or identity guidance beyond its range.
    """

    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    fps: float
    scheduler: str = "ddim"
    free_noise: bool = False
    identity_guidance: float = 0.0
    identity_guidance_limit: float = 0.7

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}
        for setting in fields(self):
            value = getattr(self, setting.name)
            is_odd_bool = isinstance(value, bool) and setting.type != "bool"
            if is_odd_bool or not isinstance(value, kinds[str(setting.type)]):
                wanted = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
                raise IdanimError(f"sampling.{setting.name}={value!r}: expected {wanted[str(setting.type)]}")
        if not 0 <= self.identity_guidance < math.inf:
            raise IdanimError(f"sampling.identity_guidance={self.identity_guidance}: expected 0 or more")
        if not -1 <= self.identity_guidance_limit <= 1:
            raise IdanimError(f"sampling.identity_guidance_limit={self.identity_guidance_limit}: expected -1 to 1")

    def recorded(self) -> dict[str, Any]:
        """As the record of a video says them: of identity guidance only where there is some."""
        return {key: value for key, value in asdict(self).items() if self.identity_guidance or key not in _GUIDANCE}

    def in_words(self) -> str:
        """For a reader of what came of them."""
        windows = ", in windows (free_noise)" if self.free_noise else ""
        negative = ", a negative prompt" if self.negative_prompt else ""
        strength, limit = self.identity_guidance, self.identity_guidance_limit
        led = f"identity guidance {strength:g} up to similarity {limit:g}" if strength else "no identity guidance"
        size = f"{self.num_frames} frames of {self.height} × {self.width} pixels at {self.fps:g} per second{windows}"
        steps = (
            f"{self.num_inference_steps} steps of {self.scheduler}, guidance scale {self.guidance_scale:g}{negative}"
        )
        return f"{steps}, {size}, {led}"


def sampling_in_words(recorded: Any) -> str:
    """Settings as a record holds them in words; "" where it lacks some, or is another program's."""
    needed = {setting.name for setting in fields(SamplingSettings)} - set(_GUIDANCE)
    if not isinstance(recorded, Mapping) or not needed <= recorded.keys():
        return ""
    try:
        return SamplingSettings(**recorded).in_words()
    except (TypeError, IdanimError):
        return ""
