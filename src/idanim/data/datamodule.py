"""The LightningDataModule: shards → latents → batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from idanim.data.clip_cache import FrameWindow
from idanim.data.dataset import ClipDataset, ClipItem, collate
from idanim.data.landmarks import FaceFinder, LandmarkFolder
from idanim.data.latents import LatentFolder, VideoEncoder
from idanim.data.order import InOrder, Order, ShuffledOrder, StepSampler
from idanim.data.parcel import Sender
from idanim.data.references import ReferenceStrategy
from idanim.data.shards import ShardIndex, find_shards, require_clips
from idanim.types import ClipBatch, IdanimError


class ClipDataModule(LightningDataModule):
    """Streams training batches; encodes missing latents first.

    Args:
        shards: folder or tar files with clip shards.
        encoder: the backbone, for latents.
        strategy: chooses the reference pictures.
        reference_size: side of the reference pictures in pixels.
        face_finder: finds the landmarks that an identity loss needs; None = no batch has any.
        face_settings: how it finds them, as text; landmarks found with other settings don't count.
        latents: folder for latents; None puts them beside the shards.
        num_frames: frames of a training clip.
        frame_stride: every how many frames one is taken.
        height: pixels of a training clip.
        width: pixels of a training clip.
        batch_size: clips of a batch over all devices together (a step has `accumulate_grad_batches` of them).
        caption: "attribute", "action", "unified" or "mixed".
        null_text_prob: how often the caption is dropped (0.2 in the paper).
        num_workers: loader processes on each device.
        val_clips: at most so many validation clips.
        max_broken: share of unreadable clips at which a run stops.
        seed: of order, references, captions and noise.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        encoder: VideoEncoder,
        strategy: ReferenceStrategy,
        reference_size: int,
        face_finder: FaceFinder | None = None,
        face_settings: str = "",
        latents: str | None = None,
        num_frames: int = 16,
        frame_stride: int = 1,
        height: int = 512,
        width: int = 512,
        batch_size: int = 2,
        caption: str = "unified",
        null_text_prob: float = 0.2,
        num_workers: int = 0,
        val_clips: int = 64,
        max_broken: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.location = shards
        self.encoder = encoder
        self.strategy = strategy
        self.reference_size = reference_size
        self.face_finder = face_finder
        self.face_settings = face_settings
        self.latents_folder = Path(latents).expanduser() if latents else None
        self.window = FrameWindow(num_frames, frame_stride, height, width)
        self.batch_size = batch_size
        self.caption = caption
        self.null_text_prob = null_text_prob
        self.num_workers = num_workers
        self.val_clips = val_clips
        self.max_broken = max_broken
        self.seed = seed
        self._indexed: dict[str, list[ShardIndex]] = {}

    def _shards(self, split: str) -> list[ShardIndex]:
        if split not in self._indexed:
            paths = find_shards(self.location, split)
            scanned = [ShardIndex.kept(path) for path in tqdm(paths, desc=f"{split} shards", disable=len(paths) < 50)]
            self._indexed[split] = [shard for shard in scanned if shard.num_clips]
        return self._indexed[split]

    def _latents(self) -> LatentFolder:
        return LatentFolder(self.latents_folder, self.encoder.latent_fingerprint, self.window)

    def _landmarks(self) -> LandmarkFolder | None:
        if self.face_finder is None:
            return None
        return LandmarkFolder(None, self.face_finder, self.window, self.face_settings)

    def prepare_data(self) -> None:
        """Encode the clips that have no latents yet, on the trainer's device, and look for faces where needed.

        Lightning calls it on one process of each machine, before it moves the models there itself.

        Raises:
            IdanimError: no training clips, or too many that can't be read.
        """
        require_clips(self._shards("train"), self.location)
        if self.trainer is not None:
            self.encoder.to(self.trainer.strategy.root_device)
        landmarks = self._landmarks()
        for split in ("train", "val"):
            self._latents().encode_missing(self._shards(split), self.encoder, self.max_broken)
            if landmarks:
                landmarks.find_missing(self._shards(split), self.max_broken)

    def _dataset(self, split: str, order: Order, null_text_prob: float) -> ClipDataset:
        return ClipDataset(
            self._shards(split),
            self._latents(),
            self._landmarks(),
            order,
            self.strategy,
            self.reference_size,
            self.caption,
            null_text_prob,
            self.seed,
            self.max_broken,
        )

    def train_dataloader(self) -> DataLoader[ClipItem]:
        """Batches from the trainer's current step to its last one."""
        assert self.trainer is not None
        world_size, accumulate = self.trainer.world_size, self.trainer.accumulate_grad_batches
        if self.batch_size % world_size:
            raise IdanimError(f"data.batch_size={self.batch_size} must be a multiple of the {world_size} devices")
        counts = [shard.num_clips for shard in self._shards("train")]
        dataset = self._dataset("train", ShuffledOrder(counts, self.seed), self.null_text_prob)
        per_step = self.batch_size * accumulate
        sampler = StepSampler(
            self.trainer.global_step * per_step,
            self.trainer.max_steps * per_step,
            self.batch_size,
            self.trainer.global_rank,
            world_size,
        )
        return self._loader(dataset, sampler, self.batch_size // world_size)

    def val_dataloader(self) -> DataLoader[ClipItem] | list[DataLoader[ClipItem]]:
        """A fixed list of clips, the same on every device; none when there are no validation shards."""
        counts = [shard.num_clips for shard in self._shards("val")]
        if not counts:
            return []
        dataset = self._dataset("val", InOrder(counts), 0.0)
        return self._loader(dataset, range(min(self.val_clips, sum(counts))), self.batch_size)

    def _loader(
        self, dataset: Dataset[ClipItem], sampler: Sequence[int] | StepSampler, size: int
    ) -> DataLoader[ClipItem]:
        return DataLoader(
            dataset,
            batch_size=size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=Sender(self.num_workers),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        """Move all but the seeds: numbers are drawn from them on the CPU, and reading them back waits for a GPU."""
        return super().transfer_batch_to_device(batch, device, dataloader_idx)._replace(seeds=batch.seeds)

    def reference_batch(self, split: str, count: int) -> ClipBatch:
        """References of up to `count` different persons, the first clip of each; for figures during training.

        Looks at the first clips of the split only, so that a large dataset costs no more than a small one.

        Raises:
            IdanimError: the split has no usable clip.
        """
        counts = [shard.num_clips for shard in self._shards(split)]
        dataset = self._dataset(split, InOrder(counts), 0.0)
        chosen: dict[str, int] = {}
        for number in range(min(sum(counts), 32 * count)):
            if len(chosen) < count:
                chosen.setdefault(dataset.identity(number), number)
        if not chosen:
            raise IdanimError(f"no {split} clip with a reference picture")
        return collate([dataset[number] for number in chosen.values()])
