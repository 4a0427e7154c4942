"""What an evaluation says: tables on the terminal and in `report.md`, notes, and the W&B run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from idanim.files import write_text
from idanim.generation.settings import sampling_in_words
from idanim.metrics.grid import NOBODY
from idanim.metrics.report import (
    all_groups,
    difference_table,
    group_table,
    protocol_notes,
    protocol_table,
    summary_table,
    system_table,
)
from idanim.metrics.videos import VideoRecord

LOGGED_VIDEOS = 32
NAMED_PROBLEMS = 20


def show(result: Mapping[str, Any], output: Path) -> None:
    """Print the tables and write them, and every figure with its interval, to `report.md`."""
    tables = [system_table(result["summary"], list(result["groups"]))]
    if result["differences"]:
        tables.append(difference_table(result["differences"]))
    groups = all_groups(result)
    if any(len(by_group) > 1 for by_group in groups.values()):
        tables.append(group_table(groups))
    notes = notes_on(result)
    if result["protocol"]["figures"]:
        tables.append(protocol_table(result["protocol"]))
    width = shutil.get_terminal_size((160, 40)).columns
    print("\n" + "\n\n".join([*(table.text(width) for table in tables), *notes]))
    tables.append(summary_table(result["summary"]))
    write_text(output / "report.md", "\n\n".join(["# Evaluation", *(t.markdown() for t in tables), *notes]) + "\n")


def notes_on(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    notes = [f"Face engine {result['face_engine']}; compare only with scores of the same one."]
    shown, strangers = (result["people_from"][who] for who in ("shown", "strangers"))
    compared = f", strangers to compare with from: {', '.join(strangers)}" if strangers else ""
    notes.append(f"People from: {', '.join(shown)}{compared}.")
    notes += [f"{', '.join(systems)}: sampled with {words}." for words, systems in result["sampling"].items()]
    compared_with = result["num_people_compared"]
    if compared_with > 1:
        notes.append(f"Rank-1 among {compared_with} people: chance is {1 / compared_with:.3f}.")
    if result["trained_judge"]:
        notes.append(f"The judge is no impartial one, its figures flatter: {'; '.join(result['trained_judge'])}.")
    if any(origin.startswith("train split") for origin in shown):
        notes.append("The adapter may have been trained on people of the train split: no measure of new people.")
    if not any(video["num_faces"] for video in result["videos"]):
        notes.append("No face was found in any video, so face_similarity is 0 by definition.")
    if result["summary"]["real_pair_similarity"]["n"] == 0:
        notes.append("No person has two real faces made with this engine: no ceiling, no normalised figure.")
    elif result["real_pairs"] == "same clip":
        notes.append("Real pairs are frames of one clip, so the ceiling is too high: nobody has two clips.")
    if result["remarks"]:
        counted = ", ".join(f"{kind} {count}" for kind, count in result["remarks"].items())
        notes.append(f"Videos with a remark: {counted}; the report names them.")
    problems = sorted({f"{video['video']}: {video['problem']}" for video in result["videos"] if video["problem"]})
    if problems:
        more = f"; and {len(problems) - NAMED_PROBLEMS} more" if len(problems) > NAMED_PROBLEMS else ""
        notes.append(f"Unreadable or missing, scored as showing nobody: {'; '.join(problems[:NAMED_PROBLEMS])}{more}")
    if result["protocol"]["figures"]:
        notes += protocol_notes(result["protocol"])
    source = result["source"]
    if source.get("repeated_rows") or source.get("unlisted_videos"):
        notes.append(
            f"Rows of the manifest that repeat another and count once: {source['repeated_rows']}; "
            f"videos in the folder that it does not list and that are not scored: {source['unlisted_videos']}."
        )
    return notes


def systems_by_sampling(records: Iterable[VideoRecord]) -> dict[str, list[str]]:
    """Settings of sampling in words → the systems some of whose videos were made so, as far as the records say."""
    found: dict[str, list[str]] = {}
    for record in records:
        sampling = record.made_with.get("sampling")
        if isinstance(sampling, dict) and record.identity == NOBODY:
            sampling = sampling | {"identity_guidance": 0}  # nobody to be led to
        systems = found.setdefault(sampling_in_words(sampling), [])
        if record.system not in systems:
            systems.append(record.system)
    return {words: systems for words, systems in found.items() if words}


def log_to_wandb(logger: Any, result: Mapping[str, Any], folder: Path) -> None:
    """Summary, tables of scores and of groups, and some videos; nothing without a logger."""
    if logger is None:
        return
    import wandb

    run = logger.experiment
    for name, figure in result["summary"].items():
        run.summary.update({name: figure["mean"], f"{name}/low": figure["low"], f"{name}/high": figure["high"]})
    rows = [row | {"remarks": "; ".join(row["remarks"])} | row["protocol"] for row in result["videos"]]
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "protocol"]
    table = wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
    groups = [
        [system, group, metric, figure["mean"], figure["low"], figure["high"], figure["n"]]
        for system, figures_by_group in all_groups(result).items()
        for group, figures in figures_by_group.items()
        for metric, figure in figures.items()
    ]
    captions = {row["video"]: f"{row['system']}: {row['shown']}: {row['prompt']}" for row in rows if not row["problem"]}
    # Evenly from the whole grid, so that every system and many people are among them.
    names = list(captions)[:: max(1, -(-len(captions) // LOGGED_VIDEOS))]
    videos = [wandb.Video(str(folder / name), caption=captions[name]) for name in names]
    by_group = wandb.Table(columns=["system", "group", "metric", "mean", "low", "high", "n"], data=groups)
    run.log({"scores": table, "groups": by_group, "videos": videos})
    run.finish()
