"""AnimateDiff's motion modules: from the key names of the official files to those of diffusers.

The files (mm_sd_v14, mm_sd_v15, mm_sd_v15_v2, v3_sd15_mm) hold, for each module,
`<block>.motion_modules.<j>.temporal_transformer.…`; see guoyww/AnimateDiff `animatediff/models/motion_module.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from torch import Tensor

from idanim.models.weight_file import PARALLEL_PREFIX, WeightFile, read_weights
from idanim.models.weight_kind import MOTION, MOTION_DIFFUSERS, require_kind
from idanim.types import IdanimError

_POSITION = re.compile(r"(.*)\.temporal_transformer(\.transformer_blocks\.\d+)\.attention_blocks\.\d+\.pos_encoder\.pe")
POSITION_TABLE = ".pos_embed.pe"
_OFFICIAL_NAMES = (
    (".norm1.", ".norms.0."),
    (".norm2.", ".norms.1."),
    (".norm3.", ".ff_norm."),
    (".attn1.", ".attention_blocks.0."),
    (".attn2.", ".attention_blocks.1."),
)


@dataclass(frozen=True)
class MotionFile:
    """Motion modules as read.

    Attributes:
        path: where they were read.
        state: tensors by diffusers' key names.
    """

    path: Path
    state: dict[str, Tensor]

    @property
    def has_mid_block(self) -> bool:
        """Whether there is a motion module in the middle (v2 only)."""
        return any(key.startswith("mid_block.") for key in self.state)

    @property
    def max_frames(self) -> int | None:
        """Length of the position tables; None where the file has none."""
        lengths = {tensor.shape[1] for key, tensor in self.state.items() if key.endswith(POSITION_TABLE)}
        if len(lengths) > 1:
            raise IdanimError(f"{self.path}: position tables of several lengths {sorted(lengths)}, expected one")
        return lengths.pop() if lengths else None

    @property
    def version(self) -> str:
        """v1 (24 frames), v2 (a module in the middle) or v3."""
        if self.has_mid_block:
            return "v2"
        return "v1" if self.max_frames == 24 else "v3"


def read_motion(path: str | Path, version: str | None = None) -> MotionFile:
    """Read a motion module file; of a file that holds a whole UNet, only its motion modules.

    Args:
        path: .ckpt or .safetensors.
        version: "v1", "v2" or "v3" when it must be that one.

    Raises:
        IdanimError: damaged, something else, or of another version.
    """
    file = parse_motion(read_weights(path))
    if version is not None and file.version != version:
        raise IdanimError(f"{file.path}: these are motion modules {file.version}, but {version} is configured")
    return file


def parse_motion(file: WeightFile) -> MotionFile:
    """See `read_motion`."""
    require_kind(file, MOTION, MOTION_DIFFUSERS)
    state = {k.removeprefix(PARALLEL_PREFIX): t for k, t in file.tensors.items() if "motion_modules." in k}
    return MotionFile(file.path, to_diffusers(state, str(file.path)))


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
        name = f"{match[1]}{match[2]}{POSITION_TABLE}"
        first = result.setdefault(name, table)
        if first.shape != table.shape or not (table.is_meta or torch.equal(first, table)):
            raise IdanimError(f"{source}: {key} differs from the table of the block's other attention")
    return result


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_diffusers`; position tables are written for each attention of a block."""
    result = {}
    for key, tensor in state.items():
        head, modules, tail = key.partition(".motion_modules.")
        if not modules:
            result[key] = tensor
            continue
        number, _, name = tail.partition(".")
        for ours, theirs in _OFFICIAL_NAMES:
            name = name.replace(ours, theirs)
        blocks = [0, 1] if key.replace(POSITION_TABLE, ".attn2.to_q.weight") in state else [0]
        for block in blocks:
            theirs = name.replace(POSITION_TABLE, f".attention_blocks.{block}.pos_encoder.pe")
            result[f"{head}.motion_modules.{number}.temporal_transformer.{theirs}"] = tensor
    return result


def diffusers_key(key: str) -> str:
    """One key or module name of a motion module by diffusers' names."""
    (renamed,) = convert_animatediff_checkpoint_to_diffusers({key: torch.empty(0)})
    return renamed
