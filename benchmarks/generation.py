"""Speed of our sampler against diffusers' AnimateDiffPipeline with its IP-Adapter processors, on the same weights.

    python benchmarks/generation.py [--rounds 5] [--steps 4]

Both make the same video (same noise, same id tokens); they alternate, so that other work on the machine hits both.
Random weights, sizes small enough for a CPU. The true sizes, on a GPU: `benchmarks/generation_gpu.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AnimateDiffPipeline
from measure import alternate
from plain_loop import ip_adapter_state

from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.tiny import tiny_backbone, tiny_encoder
from idanim.types import UInt8Array
from idanim.video import to_uint8

PROMPT = "a person on a beach"
SIZES = {"8 frames of 64²": (8, 64), "16 frames of 64²": (16, 64), "16 frames of 128²": (16, 128)}


def models(seed: int = 0) -> tuple[AnimateDiffBackbone, FaceAdapter]:
    """A backbone and an adapter of random weights; equal seeds give equal weights."""
    backbone = tiny_backbone(seed, channels=(64, 128), context_dim=96)  # whose frames both normalise one by one
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = FaceAdapter(backbone, 48, num_queries=16, depth=4, dim_head=64, heads=2, scale=0.8)
    return backbone, adapter.requires_grad_(False)


def diffusers_pipeline(backbone: AnimateDiffBackbone, adapter: FaceAdapter) -> AnimateDiffPipeline:
    """diffusers' own pipeline on the same weights, with the adapter loaded as an IP-Adapter-Plus.

    Args:
        backbone: is changed for good: its attention layers get diffusers' own processors.
        adapter: without low-rank additions, which diffusers has no place for.
    """
    pipeline = AnimateDiffPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        motion_adapter=None,
        scheduler=backbone.scheduler,
    )
    pipeline.unet._load_ip_adapter_weights([ip_adapter_state(adapter)], low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(adapter.scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Rivals:
    """Our sampler and diffusers' pipeline, ready to make the same video of one face.

    Args:
        backbone: of our sampler.
        twin: the same weights once more, for diffusers.
        encoder: describes the face.
        adapter: without low-rank additions.
    """

    def __init__(
        self, backbone: AnimateDiffBackbone, twin: AnimateDiffBackbone, encoder: ClipFaceEncoder, adapter: FaceAdapter
    ) -> None:
        self.sampler, self._pipeline = Sampler(backbone, encoder, adapter), diffusers_pipeline(twin, adapter)
        size = encoder.image_size
        face = (torch.rand(size, size, 3, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8).numpy()
        picture = torch.as_tensor(face).permute(2, 0, 1)[None, None].float() / 127.5 - 1
        features = encoder.encode(picture.to(backbone.device))
        # What both are given is computed once a person.
        self._embeds = [torch.cat([encoder.null_features(), features]).to(backbone.dtype)]
        self._tokens = self.sampler.id_tokens([face])

    def ours(self, settings: SamplingSettings) -> UInt8Array:
        """A video [F, H, W, 3] uint8 by our sampler."""
        return self.sampler.generate_from(self._tokens, PROMPT, 0, settings).frames

    def theirs(self, settings: SamplingSettings) -> UInt8Array:
        """The same by diffusers."""
        frames = self._pipeline(
            PROMPT,
            negative_prompt=settings.negative_prompt,
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            generator=torch.Generator().manual_seed(0),
            ip_adapter_image_embeds=self._embeds,
            output_type="pt",
        ).frames[0]
        return to_uint8(frames * 2 - 1)


@dataclass(frozen=True)
class Comparison:
    """One size: seconds of each round, and how far the videos are apart, in levels of 255.

    Attributes:
        contrast: deviation of the levels of our video, beside which differences are to be seen.
    """

    name: str
    ours_s: list[float]
    theirs_s: list[float]
    largest_difference: int
    mean_difference: float
    contrast: float

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, by medians."""
        return statistics.median(self.theirs_s) / statistics.median(self.ours_s)

    def __str__(self) -> str:
        """A row of the table."""
        ours, theirs = statistics.median(self.ours_s), statistics.median(self.theirs_s)
        return (
            f"{self.name:<34} ours {ours:7.3f} s   diffusers {theirs:7.3f} s   {self.ratio:.3f} times as fast   "
            f"differ by at most {self.largest_difference} of 255, on average {self.mean_difference:.3f} "
            f"(contrast {self.contrast:.0f})"
        )


def compare(
    name: str, rivals: Rivals, settings: SamplingSettings, rounds: int, clock: Callable[[], float]
) -> Comparison:
    """Both make the same video `rounds` times in turn, after once each that doesn't count."""
    ours, theirs = rivals.ours(settings), rivals.theirs(settings)
    difference = np.abs(ours.astype(int) - theirs)
    ways = {"ours": lambda: rivals.ours(settings), "theirs": lambda: rivals.theirs(settings)}
    seconds = alternate(ways, rounds, warmup=0, clock=clock)
    spread = float(ours.std())
    return Comparison(name, seconds["ours"], seconds["theirs"], int(difference.max()), float(difference.mean()), spread)


def on_the_whole(comparisons: Sequence[Comparison]) -> float:
    """The geometric mean of how many times as fast ours is."""
    return statistics.geometric_mean(comparison.ratio for comparison in comparisons)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    backbone, adapter = models()
    rivals = Rivals(backbone, models()[0], tiny_encoder(), adapter)
    rows = []
    for name, (frames, size) in SIZES.items():
        settings = SamplingSettings(frames, size, size, arguments.steps, 8.0, "", 8)
        # Of this process alone, so that other work on the machine counts little.
        rows.append(compare(name, rivals, settings, arguments.rounds, time.process_time))
        print(rows[-1], flush=True)
    print(f"on the whole {on_the_whole(rows):.3f} times as fast")


if __name__ == "__main__":
    main()
