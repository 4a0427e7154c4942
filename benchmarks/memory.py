"""Peak memory of one generated video at full size, computed by following every allocation: no weights, no GPU.
Measured on a GPU: `benchmarks/generation_gpu.py`.

    python benchmarks/memory.py [--frames 21] [--size 512]

Every tensor is fake (sizes only); when each is made and freed is followed. What it can't see:
workspaces of the GPU's libraries, fragmentation, and the CUDA context (about half a gigabyte).
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNetMotionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.config import restore
from idanim.models import sd15
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.attention import ContextCache
from idanim.models.backbone import DTYPES
from idanim.models.encoder import ClipFaceEncoder
from idanim.models.tiny import byte_tokenizer

GB = 10**9


class Allocations(TorchDispatchMode):
    """Follows the storage of every tensor that is made while it is active.

    Attributes:
        most: the most bytes that were there at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count what it made."""
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, size)
        return tensor

    def _free(self, size: int) -> None:
        self.now -= size


def peak_bytes(resident: Sequence[nn.Module], work: Callable[[], object]) -> int:
    """The most bytes at once while `work` runs with these models on the device."""
    with torch.no_grad(), Allocations() as allocations:
        work()
    weights = {id(t): t.nbytes for model in resident for t in (*model.parameters(), *model.buffers())}
    return sum(weights.values()) + allocations.most


def full_size_models(
    dtype: torch.dtype, lora_rank: int = 128
) -> tuple[AnimateDiffBackbone, ClipFaceEncoder, FaceAdapter]:
    """SD1.5 with motion modules v2, CLIP ViT-H and an adapter, by default of the official one's size."""
    torch.set_default_dtype(dtype)  # fake tensors can't be converted afterwards
    backbone = AnimateDiffBackbone(
        UNetMotionModel(**sd15.UNET, use_motion_mid_block=True),
        AutoencoderKL(**sd15.VAE),
        CLIPTextModel(CLIPTextConfig(**sd15.TEXT)),
        byte_tokenizer(),
        animatediff_scheduler(),
    )
    encoder = ClipFaceEncoder(CLIPVisionModelWithProjection(CLIPVisionConfig(**sd15.IMAGE_ENCODER)))
    torch.set_default_dtype(torch.float32)
    adapter = FaceAdapter(backbone, encoder.feature_dim, lora_rank=lora_rank).requires_grad_(False)
    return backbone, encoder, adapter


def stages(preset: str, frames: int, size: int) -> dict[str, int]:
    """Peak of each stage of one video under a memory preset, in bytes."""
    memory = restore("generate", {"choices": {"memory": preset}, "values": {}})["memory"]
    public = restore("train", {"choices": {"backbone": "public"}, "values": {}})["backbone"]["model"]
    dtype = DTYPES[memory["dtype"] or public["dtype"]]
    with FakeTensorMode(allow_non_fake_inputs=True):
        backbone, encoder, adapter = full_size_models(dtype)
        backbone.decode_in(memory["vae_chunk_frames"], memory["vae_tiling"])
        cache = ContextCache()
        adapter.attach(backbone, cache)
        parts = backbone.parts
        everything = (backbone, encoder, adapter)
        cells = size // 8
        latents = torch.zeros(2, 4, frames, cells, cells, dtype=dtype)
        context = torch.zeros(2, 93, 768, dtype=dtype).repeat_interleave(frames, dim=0)
        face = torch.zeros(1, 1, 3, 224, 224)
        time = torch.tensor([500, 500])

        def steps() -> None:
            with cache.video(frames):
                backbone.predict(latents, time, context)
                backbone.predict(latents, time, context)

        def resident(*modules: nn.Module) -> Sequence[nn.Module]:
            return modules if memory["offload"] else everything

        ids = torch.zeros(2, 77, dtype=torch.long)
        return {
            "text": peak_bytes(resident(parts.text), lambda: parts.text(ids)),
            "face": peak_bytes(resident(encoder, adapter), lambda: adapter.id_tokens(encoder.encode(face).float())),
            "steps": peak_bytes(resident(parts.denoiser, adapter), steps),
            "decode": peak_bytes(resident(parts.autoencoder), lambda: backbone.decode_video(latents[:1])),
        }


def main() -> None:
    """Print a row a preset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=21)
    parser.add_argument("--size", type=int, default=512)
    arguments = parser.parse_args()
    print(f"computed peak in GB (10⁹ bytes), {arguments.frames} frames of {arguments.size}², guidance on")
    for preset in ("low", "balanced", "full"):
        peaks = stages(preset, arguments.frames, arguments.size)
        columns = "  ".join(f"{name} {value / GB:5.2f}" for name, value in peaks.items())
        print(f"memory={preset:<9} {columns}   most {max(peaks.values()) / GB:5.2f}", flush=True)


if __name__ == "__main__":
    main()
