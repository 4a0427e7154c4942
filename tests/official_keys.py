"""Our models' tensors under the key names of the official files: the way back of what `idanim.models.motion` reads."""

from __future__ import annotations

import torch
from torch import Tensor

_NAMES = {
    ".norm1.": ".norms.0.",
    ".norm2.": ".norms.1.",
    ".norm3.": ".ff_norm.",
    ".attn1.": ".attention_blocks.0.",
    ".attn2.": ".attention_blocks.1.",
}


def official_motion(unet: torch.nn.Module) -> dict[str, Tensor]:
    """The motion modules of a UNet or a SparseCtrl network."""
    state, result = unet.state_dict(), {}
    for key, tensor in state.items():
        if "motion_modules." not in key:
            continue
        head, _, tail = key.partition(".motion_modules.")
        number, _, rest = tail.partition(".")
        attentions = 2 if key.replace("pos_embed.pe", "attn2.to_q.weight") in state else 1
        for ours, theirs in _NAMES.items():
            rest = rest.replace(ours, theirs)
        names = [rest.replace("pos_embed.pe", f"attention_blocks.{i}.pos_encoder.pe") for i in range(attentions)]
        for name in dict.fromkeys(names):
            result[f"{head}.motion_modules.{number}.temporal_transformer.{name}"] = tensor.clone()
    return result


def official_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """Every tensor of a UNet or a SparseCtrl network."""
    return official_motion(model) | {k: t for k, t in model.state_dict().items() if "motion_modules." not in k}
