"""Speed of our sampler against diffusers' AnimateDiffPipeline with its IP-Adapter processors, on the same weights.

    python benchmarks/generation.py [--rounds 3] [--steps 4]

Both make the same video (same noise, same id tokens); they alternate, so that other work on the machine hits both.
Random weights, sizes small enough for a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import AnimateDiffPipeline
from torch import Tensor

from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone
from idanim.models.tiny import tiny_backbone, tiny_encoder

PROMPT = "a person on a beach"
SIZES = {"8 frames of 64²": (8, 64), "16 frames of 64²": (16, 64), "16 frames of 128²": (16, 128)}


def models(seed: int = 0) -> tuple[AnimateDiffBackbone, FaceAdapter]:
    """A backbone and an adapter of random weights; equal seeds give equal weights."""
    backbone = tiny_backbone(seed, channels=(64, 128), context_dim=96)  # whose frames both normalise one by one
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = FaceAdapter(backbone, 48, num_queries=16, depth=4, dim_head=64, heads=2, scale=0.8)
    return backbone, adapter.requires_grad_(False)


def diffusers_pipeline(adapter: FaceAdapter) -> AnimateDiffPipeline:
    """diffusers' own pipeline on the same weights, with the adapter loaded as an IP-Adapter-Plus."""
    backbone, _ = models()
    pipeline = AnimateDiffPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.unet,
        motion_adapter=None,
        scheduler=backbone.scheduler,
    )
    state = adapter.state_dict()
    projection = {k.removeprefix("image_proj_model."): v for k, v in state.items() if k.startswith("image_proj_model.")}
    faces = {k.removeprefix("adapter_modules."): v for k, v in state.items() if k.startswith("adapter_modules.")}
    faces = {k.replace("_face.", "_ip."): v for k, v in faces.items()}
    pipeline.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": faces}], low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(adapter.scale)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def compare(rounds: int, steps: int) -> None:
    """Print seconds a video for both, and how far their videos are apart."""
    backbone, adapter = models()
    encoder = tiny_encoder()
    sampler, theirs = Sampler(backbone, encoder, adapter), diffusers_pipeline(adapter)
    face = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8).numpy()
    features = encoder.encode(torch.as_tensor(face).permute(2, 0, 1)[None, None].float() / 127.5 - 1)
    embeds = [torch.cat([encoder.null_features(), features])]
    tokens = sampler.id_tokens([face])  # once a person, as the features for diffusers are
    ratios = []
    for name, (frames, size) in SIZES.items():
        settings = SamplingSettings(frames, size, size, steps, 8.0, "", 8)

        def ours(settings: SamplingSettings = settings) -> object:
            return sampler.generate_from(tokens, PROMPT, 0, settings)

        def stock(frames: int = frames, size: int = size) -> Tensor:
            return theirs(
                PROMPT,
                negative_prompt="",
                num_frames=frames,
                height=size,
                width=size,
                num_inference_steps=steps,
                guidance_scale=8.0,
                generator=torch.Generator().manual_seed(0),
                ip_adapter_image_embeds=embeds,
                output_type="pt",
            ).frames[0]

        video = sampler.denoise(*sampler.guidance_contexts([face], PROMPT, ""), 0, settings)
        difference = float((video - stock()).abs().max())
        seconds = alternating(rounds, ours, stock)
        ratios.append(seconds[1] / seconds[0])
        print(
            f"{name:<18} ours {seconds[0]:6.2f} s   diffusers {seconds[1]:6.2f} s   {ratios[-1]:.2f} times as fast   "
            f"largest difference {difference:.1e} of 1",
            flush=True,
        )
    print(f"on the whole {statistics.geometric_mean(ratios):.2f} times as fast")


def alternating(rounds: int, *works: Callable[[], object]) -> list[float]:
    """The fastest of each, in seconds of this process' CPU time; they take turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, own in zip(works, times, strict=True):
            start = time.process_time()
            work()
            own.append(time.process_time() - start)
    return [min(own) for own in times]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    compare(arguments.rounds, arguments.steps)


if __name__ == "__main__":
    main()
