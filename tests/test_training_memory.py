"""Memory of a training step that is computed without allocating is that of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from idanim.models.blocks import BlockPlan, run_blocks

TINY_UNET = {
    "sample_size": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "use_motion_mid_block": True,
}


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import memory

    return memory


@pytest.mark.slow
def test_what_is_kept_is_what_hooks_count_in_a_real_step(memory: Any) -> None:
    from full_size import SMALL, Sizes
    from step_systems import Ours

    encoder = SMALL.image_encoder | {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vae = SMALL.vae | {"block_out_channels": (32, 32), "down_block_types": ("DownEncoderBlock2D",) * 2}
    vae |= {"up_block_types": ("UpDecoderBlock2D",) * 2}
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = Sizes(TINY_UNET, vae, text, encoder, SMALL.resampler, 3, 64, 0)
    # Kept by the CPU's kernels, which the accounting without its patch follows too.
    computed = memory.training_memory(sizes, ["low", "balanced", "full"], [1], torch.float32, like_a_gpu=False)
    system = Ours(sizes, torch.device("cpu"), torch.float32)
    weights = [*system.module.parameters(), *system.module.buffers()]
    for (clips, preset), found in computed.items():
        run_blocks(system.module.backbone.unet, BlockPlan(memory.RECOMPUTE[preset].value))
        batch = system.batch(clips)
        with memory.Allocations() as allocations:
            system.step(batch)
            resident = allocations.most = allocations.now
            system.step(batch)
        assert found.saved == memory.saved_bytes(lambda batch=batch: system.loss(batch), weights)
        assert found.most - found.resident == pytest.approx(allocations.most - resident, rel=0.01)
        assert found.saved > 0
        states = sum(t.nbytes for state in system.optimizer.state.values() for t in state.values())
        inputs = batch.latents.nbytes + batch.references.nbytes
        assert found.resident == pytest.approx(sum(t.nbytes for t in weights) + states + inputs, rel=0.02)
    assert computed[1, "low"].saved < 0.5 * computed[1, "full"].saved
