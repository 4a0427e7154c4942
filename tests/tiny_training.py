"""A tiny training run through Lightning, for tests."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from drawn_people import NUM_FRAMES, SIZE_PX
from lightning import Trainer

from idanim.data import references
from idanim.data.datamodule import ClipDataModule
from idanim.models.adapter import FaceAdapter
from idanim.models.tiny import tiny_backbone, tiny_encoder
from idanim.training.callbacks import AdapterFile
from idanim.training.checkpoints import Checkpoints
from idanim.training.module import AdapterTraining

CONFIG = {"choices": {}, "values": {"seed": 0}}


def make_module(lr: float = 1e-3, num_queries: int = 4, **changes) -> AdapterTraining:
    backbone, encoder = tiny_backbone(), tiny_encoder(image_size=32)
    torch.manual_seed(0)
    adapter = FaceAdapter(backbone, encoder.feature_dim, num_queries, depth=1, dim_head=8, heads=2)
    optimizer = partial(torch.optim.AdamW, lr=lr)
    return AdapterTraining(backbone, encoder, adapter, optimizer, **{"stored_config": CONFIG} | changes)


def make_data(shards: Path, **changes) -> ClipDataModule:
    options = {"batch_size": 2, "num_frames": NUM_FRAMES, "height": SIZE_PX, "width": SIZE_PX}
    module = tiny_backbone()
    return ClipDataModule(str(shards), module, references.random_reference, 32, **options | changes)


def fit(
    module: AdapterTraining, data: ClipDataModule, steps: int, folder: Path, ckpt: Path | None = None, **options
) -> Trainer:
    default = [Checkpoints(folder, every_n_steps=1), AdapterFile(folder)]
    callbacks = options.pop("own_callbacks", default) + options.pop("callbacks", [])
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        default_root_dir=folder,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **{"logger": False, "limit_val_batches": 0} | options,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return trainer


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
