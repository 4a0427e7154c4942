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
    """What is known of a person for sampling.

    Attributes:
        person: what the backbone attends to, [1, Q, D].
        nobody: the same where guidance leads away, [1, Q, D].
        face_vector: what identity guidance leads to, [1, E]; None without it.
    """

    person: Tensor
    nobody: Tensor
    face_vector: Tensor | None = None


def mix(identities: Sequence[IdTokens], weights: Sequence[float]) -> IdTokens:
    """Weighted average of the id tokens, and of the face vectors, of several identities.

    Args:
        identities: of one adapter.
        weights: one each, none negative, with the sum 1.

    Raises:
        IdanimError: other weights, or face vectors of only some; the text says what was got and expected.
    """
    check_weights(weights, len(identities))
    vectors = [identity.face_vector for identity in identities if identity.face_vector is not None]
    if len(vectors) not in (0, len(identities)):
        raise IdanimError(
            "some of these people were read with identity guidance and some without; read them again by one generator"
        )
    person = _average([identity.person for identity in identities], weights)
    return IdTokens(person, identities[0].nobody, _average(vectors, weights) if vectors else None)


def _average(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    stacked = torch.stack(list(tensors))
    shares = torch.tensor(weights, dtype=torch.float32, device=stacked.device).view(-1, *[1] * tensors[0].dim())
    return (stacked.float() * shares).sum(0).to(stacked.dtype)


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
