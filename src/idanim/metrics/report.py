"""The report of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idanim.metrics.table import Table

MEANING = {
    "face_similarity": "↑ ArcFace cosine to the reference, frames without a face count 0",
    "detected_face_similarity": "↑ the same over frames with a face only",
    "face_detection_rate": "↑ share of frames with a face",
    "normalised_similarity": "↑ face_similarity between strangers (0) and real pairs (1)",
    "chance_similarity": "= face_similarity to other people's references: chance",
    "real_pair_similarity": "= real faces of one person: the ceiling",
    "different_person_similarity": "= real faces of different people: the floor",
    "motion": "= optical flow, in frame diagonals a frame",
}
"""Summary name → what it says; ↑ higher is better, = for comparison."""


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """The summary of `metrics.json` as a table: one row a figure."""
    rows = []
    for name, figure in summary.items():
        meaning = MEANING.get(name.rpartition("/")[2], "")
        rows.append((name, number(figure["mean"]), span(figure["low"], figure["high"]), str(figure["n"]), meaning))
    return Table(("metric", "mean", "95 % interval", "n", "meaning"), rows)


def group_table(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Means by system and prompt group: one row a pair."""
    metrics = ("face_similarity", "face_detection_rate", "motion")
    rows = [
        (system, group, *(number(figures[metric]["mean"]) for metric in metrics))
        for system, by_group in groups.items()
        for group, figures in by_group.items()
    ]
    return Table(("system", "prompts", *metrics), rows, num_fixed=2)


def number(value: float | None) -> str:
    """Three significant digits; "–" for None."""
    return "–" if value is None else f"{value:.3g}"


def span(low: float | None, high: float | None) -> str:
    """An interval; "–" where there is none."""
    return "–" if low is None or high is None else f"[{number(low)}, {number(high)}]"
