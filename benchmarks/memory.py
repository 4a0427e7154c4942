"""Peak memory of a generated video and of a training step at full size, computed by following every allocation: no
weights, no GPU. Measured on a GPU: `benchmarks/generation_gpu.py`, `benchmarks/training_step.py`.

    python benchmarks/memory.py [generation] [--frames 21] [--size 512]
    python benchmarks/memory.py training [--clips 1 2] [--presets low balanced full] [--output outputs/bench]

Every tensor is fake (sizes only); when each is made and freed is followed. What it can't see: workspaces of the GPU's
libraries, fragmentation, and the CUDA context (about half a gigabyte). Kernels are those of a CPU but for the choices
of `models/attention.py`, which are those of a GPU. Of a training step its time is estimated too (`roofline.py`).
"""

from __future__ import annotations

import argparse
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import AutoencoderKL, UNetMotionModel
from full_size import FULL, Sizes
from measure import table, write_json
from roofline import Roofline, largest
from step_systems import Ours
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from training_step import RECOMPUTE
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from idanim.config import restore
from idanim.models import sd15
from idanim.models.adapter import FaceAdapter
from idanim.models.animatediff import AnimateDiffBackbone, animatediff_scheduler
from idanim.models.attention import ContextCache
from idanim.models.backbone import DTYPES
from idanim.models.blocks import BlockPlan, run_blocks
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


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step.

    Attributes:
        resident: before and after it: weights of all models, the moving average, what the optimiser keeps.
        saved: what the graph keeps from the forward for the backward pass, weights not among it.
        most: the most at once.
        work: what the step computes and moves, and how long that might take.
    """

    resident: int
    saved: int
    most: int
    work: Roofline

    def row(self) -> dict[str, float]:
        """In GB (10⁹ bytes); the transient is what comes on top of the others, the time is an estimate."""
        transient = self.most - self.resident - self.saved
        parts = {"resident": self.resident, "saved": self.saved, "transient": transient, "most": self.most}
        work = {"moved, GB": self.work.bytes / GB, "TFLOP": self.work.flop / 1e12, "ms": 1e3 * self.work.seconds}
        return {f"{name}, GB": size / GB for name, size in parts.items()} | work


def saved_bytes(loss: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """What the graph of a loss keeps for its backward pass, each piece of memory once; weights don't count."""
    known = {tensor.untyped_storage()._cdata for tensor in weights}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor.detach()  # an output that its own node keeps would never be freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss()
    del result
    return sum(storage.nbytes() for storage in kept.values())


_KEPT: list[Ours] = []
"""Never freed: torch 2.13 aborts (a damaged heap) when fake models that took a step are collected as garbage."""


def training_memory(
    sizes: Sizes,
    presets: Sequence[str],
    clips: Sequence[int],
    dtype: torch.dtype = torch.bfloat16,
    like_a_gpu: bool = True,
) -> dict[tuple[int, str], StepMemory]:
    """Bytes of the second training step of so many clips under each `memory=`; attention as chosen on a GPU or not."""
    found = {}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # by `copy.deepcopy`
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        allocations = stack.enter_context(Allocations())
        # Fake tensors can't be converted; everything is made where and as it stays.
        stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_, **__: module))
        stack.enter_context(mock.patch.object(FakeTensor, "is_cuda", like_a_gpu))
        system = Ours(sizes, torch.device("cpu"), dtype)
        _KEPT.append(system)
        weights = [*system.module.parameters(), *system.module.buffers()]
        for number in clips:
            batch = system.batch(number)._replace(seeds=np.arange(number))  # which can be read
            for preset in presets:
                run_blocks(system.module.backbone.unet, BlockPlan(RECOMPUTE[preset].value))
                system.step(batch)  # the optimiser makes its states
                resident = allocations.most = allocations.now
                system.step(batch)
                most = allocations.most
                with Roofline() as work:
                    system.step(batch)
                saved = saved_bytes(lambda batch=batch: system.loss(batch), weights)
                found[number, preset] = StepMemory(resident, saved, most, work)
    return found


def print_generation(frames: int, size: int) -> None:
    """A row a preset."""
    print(f"computed peak in GB (10⁹ bytes), {frames} frames of {size}², guidance on")
    for preset in ("low", "balanced", "full"):
        peaks = stages(preset, frames, size)
        columns = "  ".join(f"{name} {value / GB:5.2f}" for name, value in peaks.items())
        print(f"memory={preset:<9} {columns}   most {max(peaks.values()) / GB:5.2f}", flush=True)


def main() -> None:
    """Print, and of training write too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["generation", "training"], default="generation")
    parser.add_argument("--frames", type=int, default=21, help="of generation")
    parser.add_argument("--size", type=int, default=512, help="of generation")
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2], help="of a training step")
    parser.add_argument("--presets", nargs="+", choices=list(RECOMPUTE), default=list(RECOMPUTE), help="of training")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    if options.what == "generation":
        print_generation(options.frames, options.size)
        return
    found = training_memory(FULL, options.presets, options.clips)
    rows = [{"clips": clips, "memory": preset} | memory.row() for (clips, preset), memory in found.items()]
    print(f"computed, a training step of {FULL.frames} frames of {FULL.side_px}² in bfloat16", table(rows), sep="\n")
    work = {f"{clips}, {preset}": largest(memory.work, 12) for (clips, preset), memory in found.items()}
    for name, kinds in work.items():
        print(f"what takes most of the estimated time ({name})", table(kinds), sep="\n")
    write_json(options.output / "memory_training.json", {"rows": rows, "work": work})


if __name__ == "__main__":
    main()
