"""Clips as training samples: latents, reference pictures and caption of one running number."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from idanim.data.landmarks import LandmarkFolder
from idanim.data.latents import LatentFolder
from idanim.data.order import Order
from idanim.data.references import NoReferenceError, ReferenceStrategy
from idanim.data.sample import CAPTION_KINDS, ClipMeta, parse_meta
from idanim.data.shards import ShardIndex
from idanim.pictures import decode_picture, square
from idanim.types import ClipBatch, IdanimError
from idanim.video import to_float

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 200
MAX_CROP_PIXELS = 40_000_000
"""Of a picture in a shard; the first frame of an 8K video has 33 million."""


class ClipItem(NamedTuple):
    """One sample: the fields of `ClipBatch` without the batch dimension; pictures are still bytes."""

    latents: Tensor
    references: Tensor
    """[R, H, W, 3] uint8."""
    caption: str
    seed: int
    key: str
    identity: str
    landmarks: Tensor | None


class ClipDataset(Dataset[ClipItem]):
    """Reads the sample of a running number.

    All randomness of a sample comes from (seed, running number), never from a global state: the result does
    not depend on batch size, workers or devices. A clip that can't be read, or that has no picture for the
    strategy, is replaced by another one, chosen by the same rule.

    Args:
        shards: indexed shards.
        latents: their encoded latents.
        landmarks: where the faces are; None = not needed.
        order: running number → place.
        strategy: chooses the reference pictures.
        reference_size: side of the reference pictures in pixels.
        caption: "attribute", "action", "unified" or "mixed" (one of those that the clip has, each as likely). A
            clip without the asked kind gives the richest that it has: unified, else action, else attribute.
        null_text_prob: how often the caption is replaced by the null text.
        seed: of everything random.
        max_broken: share of broken clips among those read at which reading stops with an error.
    """

    def __init__(
        self,
        shards: Sequence[ShardIndex],
        latents: LatentFolder,
        landmarks: LandmarkFolder | None,
        order: Order,
        strategy: ReferenceStrategy,
        reference_size: int,
        caption: str,
        null_text_prob: float,
        seed: int,
        max_broken: float,
    ) -> None:
        if caption not in (*CAPTION_KINDS, "mixed"):
            raise IdanimError(f"data.caption={caption!r}: expected one of {', '.join(CAPTION_KINDS)}, mixed")
        self.shards = shards
        self.latents = latents
        self.landmarks = landmarks
        self.order = order
        self.strategy = strategy
        self.reference_size = reference_size
        self.caption = caption
        self.null_text_prob = null_text_prob
        self.seed = seed
        self.max_broken = max_broken
        self.total = sum(shard.num_clips for shard in shards)
        self.broken: Counter[str] = Counter()
        self.unsuited: set[str] = set()

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, number: int) -> ClipItem:
        reason = "no clip"
        for attempt in range(_MAX_ATTEMPTS):
            rng = np.random.default_rng([self.seed, number, attempt])
            place = number if attempt == 0 else number - number % self.total + int(rng.integers(self.total))
            shard_number, position = self.order[place]
            shard = self.shards[shard_number]
            key = shard.keys[position]
            try:
                return self._read(shard, key, rng)
            except NoReferenceError as error:
                reason = str(error)
                if key not in self.unsuited:
                    log.warning("another clip takes its place: %s", reason)
                    self.unsuited.add(key)
            except IdanimError as error:
                reason = str(error)
                self._count_broken(key, reason)
        raise IdanimError(f"no usable clip among {_MAX_ATTEMPTS} tried; the last: {reason}")

    def identity(self, number: int) -> str:
        """The person of sample `number`, from its record alone; "" where that can't be read."""
        shard_number, position = self.order[number]
        shard = self.shards[shard_number]
        key = shard.keys[position]
        try:
            return parse_meta(shard.read(key, ["json"]).get("json", b""), key).identity
        except IdanimError:
            return ""  # reading the whole sample names what is wrong

    def _count_broken(self, key: str, reason: str) -> None:
        if key not in self.broken:
            log.warning("clip %s is left out: %s", key, reason)
        self.broken[key] += 1
        if len(self.broken) > max(1, self.max_broken * self.total):
            raise IdanimError(
                f"{len(self.broken)} of {self.total} clips are broken, more than data.max_broken="
                f"{self.max_broken:g} allows; the last: {reason}"
            )

    def _read(self, shard: ShardIndex, key: str, rng: np.random.Generator) -> ClipItem:
        content = shard.read(key, ["json"])
        if "json" not in content:
            raise IdanimError(f"sample {key!r}: no member 'json'")
        meta = parse_meta(content["json"], key)
        mean, std = self.latents.read(shard, key)
        # Drawn in a fixed order with the strategy last, so that runs that differ only in the strategy are paired.
        seed = int(rng.integers(2**63))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))  # takes half as long as numpy's
        posterior_noise = torch.randn(mean.shape, generator=generator)
        caption = self._caption(meta, rng)
        names = self.strategy(meta, rng)
        pictures = shard.read(key, names)
        missing = [name for name in names if name not in pictures]
        if missing:
            raise IdanimError(f"sample {key!r}: no member {missing[0]!r}")
        crops = [
            square(decode_picture(pictures[name], f"sample {key!r}, {name}", MAX_CROP_PIXELS), self.reference_size)
            for name in names
        ]
        landmarks = self.landmarks.read(shard, key) if self.landmarks else None
        latents = mean.addcmul_(std, posterior_noise)
        return ClipItem(latents, torch.from_numpy(np.stack(crops)), caption, seed, key, meta.identity, landmarks)

    def _caption(self, meta: ClipMeta, rng: np.random.Generator) -> str:
        is_null, pick = rng.random(2)
        if is_null < self.null_text_prob:
            return ""
        present = [kind for kind in CAPTION_KINDS if meta.captions.get(kind)]
        if self.caption == "mixed":
            return meta.captions[present[int(pick * len(present))]]
        return meta.captions[self.caption if self.caption in present else present[-1]]


def collate(items: Sequence[ClipItem]) -> ClipBatch:
    """Stack samples to a batch.

    Raises:
        IdanimError: see `stack`.
    """
    return with_floats(stack(items))


def with_floats(stacked: ClipBatch) -> ClipBatch:
    """The batch that `stack` began."""
    return stacked._replace(references=to_float(stacked.references))


def stack(items: Sequence[ClipItem]) -> ClipBatch:
    """A batch but for its references, which are [B, R, H, W, 3] uint8: a quarter of what floats are to send.

    Raises:
        IdanimError: the samples have different numbers of references.
    """
    numbers = {len(item.references) for item in items}
    if len(numbers) > 1:
        raise IdanimError(f"one batch has {sorted(numbers)} references a clip; mix only strategies of equal number")
    landmarks = [item.landmarks for item in items if item.landmarks is not None]
    return ClipBatch(
        latents=torch.stack([item.latents for item in items]),
        references=torch.stack([item.references for item in items]),
        captions=[item.caption for item in items],
        seeds=torch.tensor([item.seed for item in items]),
        keys=[item.key for item in items],
        identities=[item.identity for item in items],
        landmarks=torch.stack(landmarks) if landmarks else None,
    )
