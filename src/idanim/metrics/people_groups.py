"""Figures by group of people, for instance celebrities and ordinary people (Figs. 5 and 6 of the paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from idanim.metrics.scoring import VideoScore
from idanim.metrics.summary import summarise


def by_people_group(scores: Sequence[VideoScore], groups: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Each system's figures over the people of each group.

    Args:
        scores: of all videos.
        groups: identity → group; "" for none.
        seed: of the bootstrap.

    Returns:
        system → group → metric → {mean, low, high, n}; empty where nobody has a group.
    """
    names = sorted({groups[score.identity] for score in scores} - {""})
    systems = list(dict.fromkeys(score.system for score in scores)) if names else []
    return {
        system: {
            name: _figures([s for s in scores if s.system == system and groups[s.identity] == name], seed)
            for name in names
        }
        for system in systems
    }


def _figures(scores: Sequence[VideoScore], seed: int) -> dict[str, Any]:
    return {metric: asdict(interval) for metric, interval in summarise(scores, seed).items()}
