"""Face adapters in the formats of others: official ID-Animator and the IP-Adapter family for SD1.5.

Inside, every adapter has the official key names: `image_proj_model.*` for the projection and
`adapter_modules.<i>.*` for the attention layer of number i. The formats:

| layout | keys |
|---|---|
| official | `image_proj_model.*`, `adapter_modules.<i>.*`, perhaps with `module.` before, in {"state_dict": …} |
| official, split | {"image_proj": …, "face_adapter": {"<i>.…"}} |
| ip_adapter | {"image_proj": …, "ip_adapter": {"<i>.to_k_ip.weight", …}}, or flat with a dot in safetensors |

(tencent-ailab/IP-Adapter `ip_adapter/ip_adapter.py`; ID-Animator/ID-Animator `faceadapter/face_adapter.py`.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from idanim.files import atomic_path
from idanim.models.projections import FaceIdPlusProjection, FaceIdProjection, ImageProjection
from idanim.models.resampler import Resampler
from idanim.models.weight_file import PARALLEL_PREFIX, WeightFile, read_weights
from idanim.models.weight_kind import ADAPTER, IP_ADAPTER, require_kind
from idanim.types import IdanimError

PROJECTION, MODULES = "image_proj_model.", "adapter_modules."
_SPLIT = (("image_proj.", PROJECTION), ("face_adapter.", MODULES))
_IP = (("image_proj.", PROJECTION), ("ip_adapter.", MODULES))
_LAYER = re.compile(r"adapter_modules\.(\d+)\.(.+)")


class ProjectionKind(StrEnum):
    """How a file's adapter makes tokens."""

    RESAMPLER = "resampler"
    IMAGE = "image projection"
    FACE_ID = "FaceID projection"
    FACE_ID_PLUS = "FaceID projection with resampler"


@dataclass(frozen=True)
class AdapterFile:
    """A face adapter as read.

    Attributes:
        path: where it was read.
        layout: "official" or "ip_adapter".
        projection: how it makes tokens.
        state: tensors by our key names, in the file's own types.
    """

    path: Path
    layout: str
    projection: ProjectionKind
    state: dict[str, Tensor]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor that sizes are told from.

        Raises:
            IdanimError: the file has no such key.
        """
        if key not in self.state:
            raise IdanimError(f"{self.path}: missing key {key} of an adapter with {self.projection}")
        return tuple(self.state[key].shape)

    @property
    def feature_dim(self) -> int:
        """Width of the face features that the projection takes."""
        names = {
            ProjectionKind.RESAMPLER: ["proj_in"],
            ProjectionKind.IMAGE: ["proj"],
            ProjectionKind.FACE_ID: ["proj.0"],
            ProjectionKind.FACE_ID_PLUS: ["proj.0", "perceiver_resampler.proj_in"],
        }
        return sum(self.shape(f"{PROJECTION}{name}.weight")[1] for name in names[self.projection])

    @property
    def lora_rank(self) -> int:
        """Rank of the low-rank additions; 0 = it has none."""
        ranks = {t.shape[0] for key, t in self.state.items() if key.endswith("_lora.down.weight")}
        if len(ranks) > 1:
            raise IdanimError(f"{self.path}: low-rank additions of several ranks {sorted(ranks)}, expected one")
        return ranks.pop() if ranks else 0

    @property
    def lora_layers(self) -> frozenset[int]:
        """Numbers of the attention layers that have low-rank additions."""
        matches = (_LAYER.fullmatch(key) for key in self.state)
        return frozenset(int(m[1]) for m in matches if m is not None and "_lora." in m[2])


def read_adapter_file(path: str | Path) -> AdapterFile:
    """Read an adapter of any of the formats above; which one is told from its keys.

    Raises:
        IdanimError: damaged, or something else than an adapter, named for what it is.
    """
    return parse_adapter(read_weights(path))


def parse_adapter(file: WeightFile) -> AdapterFile:
    """See `read_adapter_file`."""
    if require_kind(file, ADAPTER, IP_ADAPTER) == IP_ADAPTER:
        layout, pairs = "ip_adapter", _IP
    else:
        layout, pairs = "official", _SPLIT
    state = {_renamed(key, pairs): tensor for key, tensor in file.tensors.items()}
    return AdapterFile(file.path, layout, _projection_of(state), state)


def _renamed(key: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in pairs:
        if key.startswith(theirs):
            key = ours + key.removeprefix(theirs)
    return re.sub(r"\.to_([kv])_ip\.", r".to_\1_face.", key)


def _projection_of(state: Mapping[str, Tensor]) -> ProjectionKind:
    if any(key.startswith(f"{PROJECTION}perceiver_resampler.") for key in state):
        return ProjectionKind.FACE_ID_PLUS
    if f"{PROJECTION}proj.0.weight" in state:
        return ProjectionKind.FACE_ID
    if f"{PROJECTION}proj.weight" in state:
        return ProjectionKind.IMAGE
    return ProjectionKind.RESAMPLER


def build_projection(file: AdapterFile, dim_head: int = 64) -> nn.Module:
    """A projection with the sizes of a file, not yet its weights.

    Args:
        file: what `read_adapter_file` returned.
        dim_head: width of a head in a resampler, which the shapes don't tell.

    Raises:
        IdanimError: the file lacks a key that sizes are told from.
    """
    if file.projection is ProjectionKind.RESAMPLER:
        return _build_resampler(file, PROJECTION, dim_head, file.shape(f"{PROJECTION}latents")[1])
    width = file.shape(f"{PROJECTION}norm.weight")[0]
    if file.projection is ProjectionKind.IMAGE:
        out, feature_dim = file.shape(f"{PROJECTION}proj.weight")
        return ImageProjection(feature_dim, width, out // width)
    hidden, feature_dim = file.shape(f"{PROJECTION}proj.0.weight")
    queries = file.shape(f"{PROJECTION}proj.2.weight")[0] // width
    if file.projection is ProjectionKind.FACE_ID:
        return FaceIdProjection(feature_dim, width, queries, hidden)
    inner = _build_resampler(file, f"{PROJECTION}perceiver_resampler.", dim_head, 0)
    return FaceIdPlusProjection(feature_dim, hidden, queries, inner)


def _build_resampler(file: AdapterFile, prefix: str, dim_head: int, num_queries: int) -> Resampler:
    dim, feature_dim = file.shape(f"{prefix}proj_in.weight")
    inner = file.shape(f"{prefix}layers.0.0.to_q.weight")[0]
    hidden = file.shape(f"{prefix}layers.0.1.1.weight")[0]
    layers = {key.removeprefix(f"{prefix}layers.").split(".")[0] for key in file.state if key.startswith(prefix)}
    return Resampler(
        feature_dim,
        file.shape(f"{prefix}proj_out.weight")[0],
        num_queries,
        dim,
        depth=sum(layer.isdecimal() for layer in layers),
        dim_head=dim_head,
        heads=max(1, inner // dim_head),
        ff_mult=max(1, hidden // dim),
    )


# -------------------------------------------------------------------------------------------- writing


def write_adapter_file(path: Path, state: Mapping[str, Tensor], layout: str) -> None:
    """Write an adapter for other programs.

    Args:
        path: file to write.
        state: tensors by our key names.
        layout: "official" (animator.ckpt) or "ip_adapter" (.bin or .safetensors).

    Raises:
        IdanimError: there is no such layout, or it can't hold this adapter.
    """
    writers = {"official": write_official, "ip_adapter": write_ip_adapter}
    if layout not in writers:
        raise IdanimError(f"layout={layout!r}: expected one of {', '.join(writers)}")
    writers[layout](path, state)


def write_official(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write as the official `animator.ckpt`: {"state_dict": {"module.image_proj_model.…", …}}."""
    _write_torch(path, {"state_dict": {f"{PARALLEL_PREFIX}{key}": tensor for key, tensor in state.items()}})


def write_ip_adapter(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write for IP-Adapter loaders such as diffusers' `load_ip_adapter`: `.safetensors` flat, else `.bin`.

    Raises:
        IdanimError: low-rank additions beside a projection that has none in that family: the loaders would
            leave them out, which changes the videos.
    """
    has_lora = any("_lora." in key for key in state)
    if has_lora and _projection_of(state) is not ProjectionKind.FACE_ID_PLUS:
        raise IdanimError(f"{path}: this adapter has low-rank additions, which IP-Adapter loaders would leave out")
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in state.items():
        if key.startswith(PROJECTION):
            parts["image_proj"][key.removeprefix(PROJECTION)] = tensor
        else:
            name = re.sub(r"\.to_([kv])_face\.", r".to_\1_ip.", key.removeprefix(MODULES))
            parts["ip_adapter"][name] = tensor
    if path.suffix == ".safetensors":
        flat = {f"{part}.{key}": _plain(t) for part, tensors in parts.items() for key, t in tensors.items()}
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(flat, temporary)
    else:
        _write_torch(path, parts)


def _write_torch(path: Path, content: Any) -> None:
    plain = {group: {key: _plain(t) for key, t in tensors.items()} for group, tensors in content.items()}
    with atomic_path(path) as temporary:
        torch.save(plain, temporary)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
