"""Weights to start an adapter from that were trained at other sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from idanim.models.adapter_file import PROJECTION

QUERIES = f"{PROJECTION}latents"
FEATURES = f"{PROJECTION}proj_in.weight"


def resized(state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit the resampler of a file to another number of queries and to wider features.

    - Queries: the first ones of the file; those that it lacks stay fresh.
    - Features: FaceID-plus puts a face vector in front of the encoder's tokens; what the file lacks starts at zero, so
      that the adapter gives the tokens it gave without the vector.

    Args:
        state: the file's tensors by key.
        fresh: the adapter's own.

    Returns:
        The file's tensors, those two in the adapter's sizes.
    """
    result = dict(state)
    if QUERIES in fresh and QUERIES in state and state[QUERIES].shape[2:] == fresh[QUERIES].shape[2:]:
        own = state[QUERIES].to(fresh[QUERIES])
        result[QUERIES] = torch.cat([own, fresh[QUERIES][:, own.shape[1] :]], 1)[:, : fresh[QUERIES].shape[1]]
    if FEATURES in fresh and FEATURES in state and state[FEATURES].shape[1] < fresh[FEATURES].shape[1]:
        own = state[FEATURES].to(fresh[FEATURES])
        missing = torch.zeros(own.shape[0], fresh[FEATURES].shape[1] - own.shape[1]).to(own)
        result[FEATURES] = torch.cat([missing, own], 1)
    return result
