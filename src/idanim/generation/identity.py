"""Id tokens of a person, computed once and used for every video; mixed by weighted averages (paper §4.4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from idanim.types import IdanimError

WEIGHTS_TOLERANCE = 1e-3


class IdTokens(NamedTuple):
    """What the backbone attends to for a person, and for nobody where guidance leads away; each [1, Q, D]."""

    person: Tensor
    nobody: Tensor


def mix(identities: Sequence[IdTokens], weights: Sequence[float]) -> IdTokens:
    """Weighted average of the id tokens of several identities.

    Args:
        identities: of one adapter.
        weights: one each, none negative, with the sum 1.

    Raises:
        IdanimError: other weights; the text says what was got and expected.
    """
    check_weights(weights, len(identities))
    tokens = torch.stack([identity.person for identity in identities])
    shares = torch.tensor(weights, dtype=torch.float32, device=tokens.device).view(-1, 1, 1, 1)
    return IdTokens((tokens.float() * shares).sum(0).to(tokens.dtype), identities[0].nobody)


def check_weights(weights: Sequence[float], num_identities: int) -> None:
    """Refuse weights that can't be an average; see `mix`."""
    if len(weights) != num_identities:
        raise IdanimError(f"weights={list(weights)}: {len(weights)} weights for {num_identities} references")
    if any(not isinstance(weight, int | float) or not math.isfinite(weight) for weight in weights):
        raise IdanimError(f"weights={list(weights)}: expected numbers, for instance [0.7,0.3]")
    if min(weights) < 0:
        raise IdanimError(f"weights={list(weights)}: none may be negative")
    if abs(sum(weights) - 1) > WEIGHTS_TOLERANCE:
        raise IdanimError(f"weights={list(weights)}: they sum to {sum(weights):g}, expected 1")
