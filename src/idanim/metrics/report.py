"""The report of an evaluation on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from idanim.metrics.table import Table

MEANING = {
    "face_similarity": "↑ ArcFace cosine to the reference, frames without a face count 0",
    "detected_face_similarity": "↑ the same over frames with a face only",
    "face_detection_rate": "↑ share of frames with a face",
    "normalised_similarity": "↑ face_similarity between strangers (0) and real pairs (1)",
    "retrieval_rank1": "↑ share of videos that are most similar to the right person's reference, of all people's",
    "chance_similarity": "= face_similarity to other people's references: chance",
    "real_pair_similarity": "= real faces of one person: the ceiling",
    "different_person_similarity": "= real faces of different people: the floor",
    "copy_paste": "= nearer to the reference (1) or to other pictures of the person (-1)",
    "pose_similarity": "= cosine between where video and reference look",
    "background_similarity": "= colours around the face as around the reference's (1)",
    "identity_drift": "0 best, change of face_similarity from the first frame to the last",
    "motion": "= optical flow, in frame diagonals a frame",
    "face_motion": "= the same inside the face's box",
    "background_motion": "= the same outside of it",
    "temporal_consistency": "↑ cosine of the faces of neighbouring frames, without a face 0",
    "text_alignment": "↑ 100 × CLIP cosine of frames and prompt",
    "prompt_attributes": "↑ share of the asked attributes that are read right",
    "prompt_action": "↑ share of videos whose action is read as asked",
    "frame_consistency": "↑ CLIP cosine of neighbouring frames",
}
"""Summary name → what it says; ↑ higher is better, = for comparison."""


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """The summary of `metrics.json` as a table: one row a figure."""
    rows = []
    for name, figure in summary.items():
        meaning = MEANING.get(name.rpartition("/")[2], "")
        rows.append((name, number(figure["mean"]), span(figure["low"], figure["high"]), str(figure["n"]), meaning))
    return Table(("metric", "mean", "95 % interval", "n", "meaning"), rows)


def system_table(summary: Mapping[str, Mapping[str, Any]], systems: Sequence[str]) -> Table:
    """What each system reaches between floor and ceiling: one row a system, the first of which has plain names."""

    def figures(prefix: str) -> tuple[str, ...]:
        similarity = summary[f"{prefix}face_similarity"]
        rest = ("normalised_similarity", "retrieval_rank1", "face_detection_rate", "motion")
        return (
            number(similarity["mean"]),
            span(similarity["low"], similarity["high"]),
            *(number(summary[prefix + name]["mean"]) for name in rest),
            str(similarity["n"]),
        )

    rows = [(system, *figures("" if index == 0 else f"{system}/")) for index, system in enumerate(systems)]
    for name, figure, position in (
        ("ceiling: real pairs", "real_pair_similarity", "1"),
        ("floor: strangers", "different_person_similarity", "0"),
    ):
        real = summary[figure]
        interval = span(real["low"], real["high"])
        rows.append((name, number(real["mean"]), interval, position, "–", "–", "–", str(real["n"])))
    header = ("system", "face similarity", "95 % interval", "position", "rank-1", "face found", "motion", "people")
    return Table(header, rows)


REAL = ("real_pair_similarity", "different_person_similarity")
"""Figures of real people, which belong to no system."""


def ranking_table(summary: Mapping[str, Mapping[str, Any]], systems: Sequence[str]) -> Table:
    """Every figure of every system with its interval, best face similarity first; then ceiling and floor.

    Args:
        summary: of `metrics.json`.
        systems: the first has plain names in the summary.
    """
    prefixes = [f"{system}/" for system in systems[1:]]
    names = [name for name in summary if name not in REAL and not name.startswith(tuple(prefixes))]

    def similarity(row: tuple[str, dict[str, Any]]) -> float:
        mean = row[1]["face_similarity"]["mean"]
        return -1.0 if mean is None else mean

    rows = []
    for system, prefix in zip(systems, ["", *prefixes], strict=True):
        rows.append((system, {name: summary[prefix + name] for name in names if prefix + name in summary}))
    rows.sort(key=similarity, reverse=True)
    for label, name in zip(("ceiling: real pairs", "floor: strangers"), REAL, strict=True):
        rows.append((label, {"face_similarity": summary[name]} if name in summary else {}))
    cells = [(label, *(with_span(figures.get(name)) for name in names)) for label, figures in rows]
    return Table(("system", *names), cells)


def all_groups(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """System → group of prompts, or "people: <group>" → metric → figure, of the content of `metrics.json`."""
    people = result.get("people_groups", {})
    return {
        system: dict(groups) | {f"people: {name}": figures for name, figures in people.get(system, {}).items()}
        for system, groups in result["groups"].items()
    }


def difference_table(differences: Sequence[Mapping[str, Any]]) -> Table:
    """Paired differences between systems: one row a pair of systems and a figure."""
    rows = [
        (
            f"{row['system']} − {row['minus']}",
            row["metric"],
            number(row["mean"]),
            span(row["low"], row["high"]),
            number(row["p"]),
            str(row["n"]),
        )
        for row in differences
    ]
    return Table(("paired difference", "metric", "mean", "95 % interval", "p", "people"), rows, num_fixed=2)


def protocol_table(protocol: Mapping[str, Any]) -> Table:
    """Figures by another benchmark's definitions: one row a system; "–" where a model is missing."""
    figures = protocol["figures"]
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    rows = [(system, *(number(row[name]["mean"]) for name in names)) for system, row in figures.items()]
    return Table((f"by {protocol['name']}", *names), rows)


def protocol_notes(protocol: Mapping[str, Any]) -> list[str]:
    """What is wrong with those definitions, and what is not as there."""
    return [
        f"Figures by {protocol['name']}'s definitions have its flaws: {'; '.join(protocol['flaws'])}.",
        f"Not as there: {'; '.join(protocol['departures'])}.",
    ]


def group_table(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Means by system and group, of prompts or people: one row a pair."""
    metrics = ("face_similarity", "face_detection_rate", "motion")
    rows = [
        (system, group, *(number(figures[metric]["mean"]) for metric in metrics))
        for system, by_group in groups.items()
        for group, figures in by_group.items()
    ]
    return Table(("system", "group", *metrics), rows, num_fixed=2)


def number(value: float | None) -> str:
    """Three significant digits; "–" for None."""
    return "–" if value is None else f"{value:.3g}"


def with_span(figure: Mapping[str, Any] | None) -> str:
    """A mean with its interval, if there is one."""
    if figure is None or figure["mean"] is None:
        return "–"
    text = number(figure["mean"])
    return text if figure["low"] is None else f"{text} {span(figure['low'], figure['high'])}"


def span(low: float | None, high: float | None) -> str:
    """An interval; "–" where there is none."""
    return "–" if low is None or high is None else f"[{number(low)}, {number(high)}]"
