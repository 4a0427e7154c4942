"""What must stay the same when a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MAY_CHANGE = (
    "ckpt",
    "output",
    "logger",
    "faces",
    "previews",
    "every_n_steps",
    "trainer",
    "watch",
    "blocks",
    "training.optimizer.fused",
    "data.shards",
    "data.latents",
    "data.num_workers",
    "data.val_clips",
    "data.max_broken",
    "weights",
    "adapter.init",
    "adapter.init_attention",
    "backbone.model.base",
    "backbone.model.path",
    "backbone.model.motion",
    "backbone.model.vae",
    "backbone.model.tokenizer",
    "backbone.image_encoder.path",
    "backbone.recogniser",
    "encoder.model.path",
    "encoder.model.clip.path",
    "encoder.model.recogniser.path",
    "encoder.model.arcface.recogniser.path",
    "identity_loss.loss.recogniser.path",
    "identity_loss.face_finder.root",
    "face_weight.face_finder.root",
    "study",
)
"""Where a run lives, how long it goes on, what it shows, and ways to compute the same; all else decides the weights."""


def changed_settings(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ between two stored configurations and may not, as "key: before → now"."""
    before, after = (dict(_flat(config.get("values", {}))) for config in (stored, now))
    return [
        f"{key}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not (key not in before and after[key] is False)  # an option that is younger than the checkpoint, not taken
        and not any(key == k or key.startswith(f"{k}.") for k in MAY_CHANGE)
    ]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _flat(value, f"{prefix}.{name}".lstrip("."))
    else:
        yield prefix, node
