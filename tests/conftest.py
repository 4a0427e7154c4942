"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from drawn_people import make_shards

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_dir() -> Path:
    """The folder of real clips, photos and face models; tests that need it are skipped without it."""
    default = Path(__file__).parents[2] / "shared" / "real"
    folder = Path(os.environ.get("IDANIM_REAL_DIR", default))
    if not folder.is_dir():
        pytest.skip(f"no real input at {folder}; set IDANIM_REAL_DIR")
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards that tests only read; latents may be added beside them."""
    return make_shards(tmp_path_factory.mktemp("shards"))
