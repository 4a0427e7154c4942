"""AnimateDiff's motion modules: from the key names of the official files to those of diffusers.

The files (mm_sd_v14, mm_sd_v15, mm_sd_v15_v2, v3_sd15_mm) hold, for each module,
`<block>.motion_modules.<j>.temporal_transformer.…`; see guoyww/AnimateDiff `animatediff/models/motion_module.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from torch import Tensor

from idanim.types import IdanimError

_POSITION = re.compile(r"(.*)\.temporal_transformer(\.transformer_blocks\.\d+)\.attention_blocks\.\d+\.pos_encoder\.pe")


def to_diffusers(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Rename the keys of motion modules; other keys stay as they are.

    Unlike diffusers' converter, which drops the position tables, this keeps them: one for each block, since
    diffusers shares it between the two attentions of a block.

    Args:
        state: tensors by official key name.
        source: what to call their file in an error.

    Raises:
        IdanimError: two attentions of one block have different position tables.
    """
    result = convert_animatediff_checkpoint_to_diffusers(state)
    for key, table in state.items():
        match = _POSITION.fullmatch(key)
        if match is None:
            continue
        name = f"{match[1]}{match[2]}.pos_embed.pe"
        if not torch.equal(result.setdefault(name, table), table):
            raise IdanimError(f"{source}: {key} differs from the table of the block's other attention")
    return result
