"""A timestep that a folder does not store: found among those it names elsewhere, else by its errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from golden_folder import GoldenFolder


class Timestep(NamedTuple):
    """A timestep and, in words, where it is from."""

    value: int
    origin: str


def named_timesteps(golden: GoldenFolder) -> list[int]:
    """Every timestep that the folder's network calls name."""
    found: set[int] = set()
    for name, keys in {"unet3d_io": ("timesteps", "train.timesteps"), "sparse_controlnet_io": ("timestep",)}.items():
        if golden.has(name):
            tensors = golden.tensors(name)
            found |= {int(t) for key in keys if key in tensors for t in tensors[key].flatten()}
    return sorted(found)


def find_timestep(error_at: Callable[[int], float], named: Iterable[int], tolerance: float, steps: int) -> Timestep:
    """The timestep at which our prediction errs least.

    Args:
        error_at: error of our prediction at a timestep.
        named: candidates; the best of them is taken if it stays below the tolerance.
        tolerance: largest error of a right timestep.
        steps: there are timesteps 0 to `steps` − 1.

    Returns:
        It may be wrong if our prediction is; then its error tells.
    """
    errors = {t: error_at(t) for t in named}
    best = min(errors, key=errors.__getitem__, default=0)
    if errors and errors[best] <= tolerance:
        return Timestep(best, "not stored, one of those named elsewhere")
    for spacing in (steps // 40 or 1, 5, 1):
        around = range(best - 5 * spacing, best + 5 * spacing + 1, spacing)
        wanted = range(0, steps, spacing) if spacing > 5 else around
        errors |= {t: error_at(t) for t in wanted if 0 <= t < steps and t not in errors}
        best = min(errors, key=errors.__getitem__)
    return Timestep(best, "not stored, searched for")
