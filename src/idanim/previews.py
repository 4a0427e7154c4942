"""Previews while training: generate a few videos, store them, measure how alike they are. Entry-point glue."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from idanim.assembly import sampling_settings
from idanim.config import build
from idanim.faces.engine import FaceEngine
from idanim.files import write_bytes
from idanim.generation.sampler import Sampler
from idanim.generation.settings import SamplingSettings
from idanim.metrics.face_track import track_faces
from idanim.metrics.grid import slug
from idanim.metrics.identity import face_similarity
from idanim.metrics.mean_over_videos import MeanOverVideos
from idanim.training.callbacks import data_of
from idanim.training.module import AdapterTraining
from idanim.types import ClipBatch, FloatArray, IdanimError
from idanim.video import to_uint8
from idanim.video_encoding import encode_mp4

log = logging.getLogger(__name__)

SCORED_FRAMES = 8


class PreviewMaker:
    """Generates the persons × prompts of a preview and scores them.

    Args:
        num_identities: how many persons, of the validation clips where there are any.
        prompts: what to show.
        seed: of the initial noise.
        settings: length, size and steps.
        faces: finds and embeds faces; None = no similarity.
        folder: videos go to `<folder>/step_<n>/`.
        loggers: W&B gets the videos.
    """

    def __init__(
        self,
        num_identities: int,
        prompts: Sequence[str],
        seed: int,
        settings: SamplingSettings,
        faces: FaceEngine | None,
        folder: Path,
        loggers: Sequence[Logger],
    ) -> None:
        self.num_identities = num_identities
        self.prompts = prompts
        self.seed = seed
        self.settings = settings
        self.faces = faces
        self.folder = folder
        self.loggers = loggers
        self._batch: ClipBatch | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], output: Path, loggers: Sequence[Logger]) -> PreviewMaker:
        """Build from a training configuration; without a usable face engine it warns and leaves out similarity."""
        try:
            faces = build(config["faces"])
        except IdanimError as error:
            log.warning("previews are made without face similarity: %s", error)
            faces = None
        return cls(
            **config["previews"],
            settings=replace(sampling_settings(config), identity_guidance=0.0),  # what the adapter can do by itself
            faces=faces,
            folder=output / "previews",
            loggers=loggers,
        )

    def __call__(self, module: AdapterTraining, step: int) -> dict[str, float]:
        """Generate with the averaged adapter; returns the figures to log."""
        batch = self._batch = self._batch or self._choose_persons(module)
        paths, similarity = [], MeanOverVideos(face_similarity)
        vectors = self._reference_vectors(batch)
        with module.averaged_adapter() as adapter:
            sampler = Sampler(module.backbone, module.encoder, adapter)
            for identity, references in zip(batch.identities, batch.references, strict=True):
                crops = list(to_uint8(references))
                for number, prompt in enumerate(self.prompts):
                    clip = sampler.generate(crops, prompt, self.seed, self.settings, identity)
                    path = self.folder / f"step_{step:06d}" / f"{slug(identity)}_{number}.mp4"
                    write_bytes(path, encode_mp4(clip.frames, clip.fps))
                    paths.append((path, f"{identity}: {prompt}"))
                    if self.faces is not None and len(vectors[identity]):
                        track = track_faces(self.faces, clip.frames, SCORED_FRAMES)
                        similarity.update(track, vectors[identity])
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video("previews", [str(p) for p, _ in paths], step=step, caption=[c for _, c in paths])
        return {"preview/face_similarity": float(similarity.compute())} if similarity.count else {}

    def _reference_vectors(self, batch: ClipBatch) -> dict[str, FloatArray]:
        """Vectors of the references in which the engine finds a face, by person."""
        if self.faces is None:
            return {}
        return {
            identity: track_faces(self.faces, to_uint8(references), len(references)).embeddings
            for identity, references in zip(batch.identities, batch.references, strict=True)
        }

    def _choose_persons(self, module: AdapterTraining) -> ClipBatch:
        data = data_of(module.trainer)
        try:
            return data.reference_batch("val", self.num_identities)
        except IdanimError:  # no validation clips
            return data.reference_batch("train", self.num_identities)
