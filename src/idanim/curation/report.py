"""The report of a run: what was accepted, what was rejected and why, as JSON, as Markdown and for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from idanim.captioning.caption import STATES
from idanim.curation.decision import REASONS, Decision
from idanim.curation.link import Leak
from idanim.curation.pack import ShardPlan
from idanim.files import write_json, write_text

LISTED_LEAKS = 20


def write_report(
    output: Path,
    decisions: Sequence[Decision],
    plans: Sequence[ShardPlan],
    leaks: Sequence[Leak],
    engine: str,
    captions: Mapping[str, Any],
) -> None:
    """Write `report.json` and `report.md`.

    Args:
        output: the folder of the shards.
        decisions: one a video.
        plans: what each shard holds.
        leaks: people who seem to be in both splits, most similar first.
        engine: name of the face engine.
        captions: what `caption_summary` returned.
    """
    write_json(output / "report.json", summary(decisions, plans, leaks, engine) | {"captions": captions})
    write_text(
        output / "report.md",
        "# Curation\n\n" + _markdown(decisions, plans, leaks, engine) + _captions_markdown(captions),
    )


def summary(
    decisions: Sequence[Decision], plans: Sequence[ShardPlan], leaks: Sequence[Leak], engine: str
) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "face_engine": engine,
        "videos": len(decisions),
        "accepted": sum(decision.accepted for decision in decisions),
        "rejected": dict(_reasons(decisions)),
        "clips": {split: sum(len(plan.keys) for plan in plans if plan.split == split) for split in ("train", "val")},
        "shards": [{"name": plan.name, "split": plan.split, "clips": len(plan.keys)} for plan in plans],
        "possible_leaks": {"count": len(leaks), "most_similar": [asdict(leak) for leak in leaks[:LISTED_LEAKS]]},
        "decisions": [decision.to_dict() for decision in decisions],
    }


def terminal_table(decisions: Sequence[Decision], leaks: Sequence[Leak], captions: Mapping[str, Any]) -> str:
    """Counts by reason, each rejected video with its reason, captions, and people who seem to be in both splits."""
    accepted = sum(decision.accepted for decision in decisions)
    lines = [f"{accepted:>6} accepted", f"{len(decisions) - accepted:>6} rejected"]
    lines += [f"{count:>12} {reason}: {REASONS[reason]}" for reason, count in _reasons(decisions)]
    lines += [f"  {d.source}: {d.reason} ({d.text})" for d in decisions if not d.accepted]
    for kind, counts in captions["states"].items():
        lines.append(f"{kind} captions: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if captions["troubles"]:
        first = captions["troubles"][0]
        lines.append(f"  e.g. {first['source']}, {first['kind']}: {first['state']} ({first['text']})")
    if leaks:
        lines += ["", f"warning: {_leak_warning(leaks)}"]
        lines += [f"  {leak.train} – {leak.val}: {leak.similarity:.2f}" for leak in leaks[:LISTED_LEAKS]]
    return "\n".join(lines)


def _leak_warning(leaks: Sequence[Leak]) -> str:
    pairs = "one pair" if len(leaks) == 1 else f"{len(leaks)} pairs"
    listed = f" (the {LISTED_LEAKS} most similar are listed)" if len(leaks) > LISTED_LEAKS else ""
    return (
        f"{pairs} of a training and a validation video with different names seem to show one person{listed}. If they "
        'do, give them one name (identity.pattern, or "identity" in <video>.json) and curate again'
    )


def _reasons(decisions: Sequence[Decision]) -> list[tuple[str, int]]:
    counts = Counter(decision.reason for decision in decisions if decision.reason)
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _markdown(decisions: Sequence[Decision], plans: Sequence[ShardPlan], leaks: Sequence[Leak], engine: str) -> str:
    accepted = [decision for decision in decisions if decision.accepted]
    lines = [
        f"{len(accepted)} of {len(decisions)} videos accepted; faces by {engine}.",
        "",
        "| reason for rejection | videos | meaning |",
        "|---|---:|---|",
        *(f"| {reason} | {count} | {REASONS[reason]} |" for reason, count in _reasons(decisions)),
        "",
        "| shard | clips |",
        "|---|---:|",
        *(f"| {plan.name} | {len(plan.keys)} |" for plan in plans),
        "",
        "| rejected video | reason | measured | threshold | in words |",
        "|---|---|---:|---:|---|",
        *(_row(decision) for decision in decisions if not decision.accepted),
    ]
    if leaks:
        lines += ["", f"**Warning**: {_leak_warning(leaks)}.", "", "| train | val | similarity |", "|---|---|---:|"]
        lines += [
            f"| {_cell(leak.train)} | {_cell(leak.val)} | {leak.similarity:.2f} |" for leak in leaks[:LISTED_LEAKS]
        ]
    return "\n".join(lines) + "\n"


def _captions_markdown(captions: Mapping[str, Any]) -> str:
    lines = ["", "| caption | state | clips | meaning |", "|---|---|---:|---|"]
    for kind, counts in captions["states"].items():
        lines += [f"| {kind} | {state} | {count} | {STATES[state]} |" for state, count in counts.items()]
    lines += ["", f"{captions['without_text']} clips have no caption but the template."]
    if captions["troubles"]:
        lines += ["", "| video | caption | state | in words |", "|---|---|---|---|"]
        rows = ([row[key] for key in ("source", "kind", "state", "text")] for row in captions["troubles"])
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _row(decision: Decision) -> str:
    values = (decision.source, decision.reason, decision.measured, decision.threshold, decision.text)
    return f"| {' | '.join(_cell(value) for value in values)} |"
