"""What somebody filled in on the page, checked before any model works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idanim.reference_faces import MORE_PICTURE_ENDINGS, VIDEO_ENDINGS
from idanim.types import IdanimError

ONE, MIX, SWEEP = USES = ("one person", "different people, mixed", "two people, from one to the other")
"""What several photos show."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; see `conf/app.yaml`."""

    queue: int
    upload_mb: int
    num_files: int
    num_videos: int
    num_frames: int
    side_px: int
    num_steps: int
    idle_s: int


@dataclass(frozen=True)
class Form:
    """The fields of the page, in its order; numbers are None where a field is empty.

    Attributes:
        photos: uploaded files.
        prompt: what to show.
        use: one of `USES`.
        weights: of mixed people, as typed; "" = equal ones.
        sweep: number of mixtures from the first person to the second.
        face_index: which face of a photo; None = the largest.
        seeds: as typed, a video each.
        num_frames: frames.
        height: pixels.
        width: pixels.
        fps: frames per second.
        free_noise: longer than the motion modules know.
        scheduler: the sampler's name.
        num_inference_steps: denoising steps.
        guidance_scale: 1 or less switches guidance off.
        negative_prompt: what guidance leads away from.
        control_images: uploaded pictures that steer some frames.
        control_frames: their frames, as typed.
        control_scale: of their effect.
        control_context: "official" or "text".
        memory: preset.
    """

    photos: tuple[Path, ...]
    prompt: str
    use: str
    weights: str
    sweep: int | None
    face_index: int | None
    seeds: str
    num_frames: int | None
    height: int | None
    width: int | None
    fps: float | None
    free_noise: bool
    scheduler: str
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str
    control_images: tuple[Path, ...]
    control_frames: str
    control_scale: float | None
    control_context: str
    memory: str

    @classmethod
    def read(cls, *values: Any) -> Form:
        """The form from the values of the fields, in their order; uploads are paths, None where there are none."""
        fields = dict(zip(cls.__dataclass_fields__, values, strict=True))
        for name in ("photos", "control_images"):
            fields[name] = tuple(Path(path) for path in fields[name] or ())
        for name in ("prompt", "weights", "seeds", "negative_prompt", "control_frames"):
            fields[name] = fields[name] or ""
        return cls(**fields)

    def check(self, limits: Limits) -> None:
        """Refuse what is missing, and more than the server gives.

        Raises:
            IdanimError: the text says what to do.
        """
        if not self.photos:
            raise IdanimError("no photo: upload one of the person, or choose an example")
        if not self.prompt.strip():
            raise IdanimError("the prompt is empty: say what the video should show")
        _check_files(self.photos, (*MORE_PICTURE_ENDINGS, *VIDEO_ENDINGS), limits)
        _check_files(self.control_images, MORE_PICTURE_ENDINGS, limits)
        for name, value, most in (
            ("frames", self.num_frames, limits.num_frames),
            ("height", self.height, limits.side_px),
            ("width", self.width, limits.side_px),
            ("steps", self.num_inference_steps, limits.num_steps),
            ("steps from one person to the other", self.sweep if self.use == SWEEP else None, limits.num_videos),
        ):
            if value is not None and value > most:
                raise IdanimError(f"{name}: {value:g} is too much, at most {most}")
        num_videos = len(self.mixtures()) * len(self.seed_list())
        if num_videos > limits.num_videos:
            raise IdanimError(f"{num_videos} videos (people × seeds) are too many, at most {limits.num_videos}")

    def settings(self) -> dict[str, Any]:
        """The sampling settings that are filled in."""
        names = ("num_frames", "height", "width", "fps", "free_noise", "scheduler", "num_inference_steps")
        values = {name: getattr(self, name) for name in (*names, "guidance_scale", "negative_prompt")}
        return {name: value for name, value in values.items() if value is not None}

    def seed_list(self) -> list[int]:
        """The seeds, each once.

        Raises:
            IdanimError: not whole numbers from 0 on.
        """
        seeds = _whole_numbers(self.seeds, "seed")
        if not seeds or not all(0 <= seed < 2**63 for seed in seeds):
            raise IdanimError(f"seed: {self.seeds!r}, expected a whole number from 0 on, or several with commas")
        return list(dict.fromkeys(seeds))

    def control_frame_list(self) -> list[int]:
        """The frames that the control pictures steer.

        Raises:
            IdanimError: not whole numbers.
        """
        return _whole_numbers(self.control_frames, "frames of the pictures")

    def mixtures(self) -> list[list[float]]:
        """The weights of each person to show; [] stands for one who is not mixed.

        Raises:
            IdanimError: weights or photos that don't fit what is asked for.
        """
        if self.use == ONE:
            return [[]]
        if self.use not in USES:
            raise IdanimError(f"the photos show {self.use!r}: expected one of {', '.join(USES)}")
        if len(self.photos) < 2:
            raise IdanimError("to mix people, upload one photo of each: there is one photo only")
        if self.use == MIX:
            equal = [1 / len(self.photos)] * len(self.photos)
            return [_numbers(self.weights, float, "weights") or equal]
        if len(self.photos) > 2 or self.sweep is None or self.sweep < 2:
            raise IdanimError(
                f"from one person to the other takes 2 photos and 2 or more steps, got {len(self.photos)} photos and "
                f"{self.sweep} steps"
            )
        return [[1 - share, share] for share in np.linspace(0, 1, int(self.sweep)).round(6).tolist()]


def _check_files(files: tuple[Path, ...], endings: tuple[str, ...], limits: Limits) -> None:
    if len(files) > limits.num_files:
        raise IdanimError(f"{len(files)} files: at most {limits.num_files} are taken")
    for file in files:
        if file.suffix.lower() not in endings:
            raise IdanimError(f"{file.name}: this kind of file is not taken; expected {', '.join(endings)}")
        if file.stat().st_size > limits.upload_mb * 2**20:
            raise IdanimError(f"{file.name}: too large, at most {limits.upload_mb} MB are taken")


def _whole_numbers(text: str, name: str) -> list[int]:
    return _numbers(text, int, name)


def _numbers(text: str, kind: type, name: str) -> list[Any]:
    """Numbers with commas or blanks between them."""
    try:
        return [kind(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        what = "whole numbers" if kind is int else "numbers"
        raise IdanimError(f"{name}: {text!r}, expected {what} with commas between them") from error
