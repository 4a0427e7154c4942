"""The evaluation program: people and prompts → videos → scores → report. See docs/evaluation.md."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb
from tqdm import tqdm

from idanim.assembly import load_sampler, pick_device, sampling_settings
from idanim.config import Run, build
from idanim.faces.engine import FaceEngine
from idanim.files import sha256, write_json, write_text
from idanim.generation.sampler import Sampler, SamplingSettings
from idanim.metrics.grid import NOBODY, Cell, grid
from idanim.metrics.people import Person, people_from_photos, with_views
from idanim.metrics.picture_grid import thumbnails, write_picture_grid
from idanim.metrics.prompts import Prompt, load_prompts
from idanim.metrics.protocols import EvaluationProtocol, Judges
from idanim.metrics.report import (
    difference_table,
    group_table,
    protocol_notes,
    protocol_table,
    summary_table,
    system_table,
)
from idanim.metrics.scoring import VideoScore, score_unreadable, score_video
from idanim.metrics.summary import protocol_section, report
from idanim.metrics.text_alignment import ClipScorer
from idanim.metrics.videos import VideoRecord, find_videos, is_made, read_record, write_video
from idanim.shard_people import people_from_shards
from idanim.types import IdanimError, UInt8Array
from idanim.video import UnreadableVideoError, read_frames

SCHEMA_VERSION = 1
ADAPTER, NO_ADAPTER, INIT = SYSTEMS = ("adapter", "no_adapter", "init")
GRID_PROMPTS = 6
GRID_FRAMES = 3
LOGGED_VIDEOS = 32

Loader = Callable[..., tuple[Sampler, dict[str, Any]]]
_log = logging.getLogger(__name__)


def evaluate(run: Run, load: Loader = load_sampler) -> dict[str, Any]:
    """Run `evaluate.py`; returns what it wrote to `metrics.json`.

    Args:
        run: configuration and output folder.
        load: rebuilds a sampler from a checkpoint, see `load_sampler`.

    Raises:
        IdanimError: something is missing or doesn't fit; the text says what to do.
    """
    config = run.config
    if (config["ckpt"] is None) == (config["videos"] is None):
        raise IdanimError("give either ckpt=<file> to generate and score, or videos=<folder> to score")
    if config["ckpt"] is not None and not Path(config["ckpt"]).expanduser().is_file():
        raise IdanimError(f"ckpt={config['ckpt']!r}: there is no such file")
    engine: FaceEngine = build(config["faces"])
    if config["videos"] is not None:
        folder = Path(config["videos"]).expanduser()
        videos = {path: read_record(path) for path in find_videos(folder)}
        people = _people_of(videos, config, engine)
        source: dict[str, Any] = {"videos": str(folder)}
    else:
        folder = run.output / "videos"
        videos, people, source = _generate(run, engine, folder, load)
    path = config["scoring"]["clip"]
    clip = None if path is None else ClipScorer.from_pretrained(path, pick_device(config["device"]))
    protocol: EvaluationProtocol = build(config["protocol"])
    result = _score(videos, folder, people, Judges(engine, clip), protocol, config, run.output)
    result = {
        "schema": SCHEMA_VERSION,
        "summary": result.pop("summary"),
        "face_engine": engine.name,
        "text_model": None if clip is None else clip.name,
        "num_sampled_frames": config["scoring"]["num_frames"],
        "num_people_compared": len(people),
        "people_from": _people_from(people),
        "source": source,
        "git_sha": run.git_sha,
        **result,
    }
    write_json(run.output / "metrics.json", result)
    _show(result, run.output)
    _log_to_wandb(build(config["logger"], output=run.output), result, folder)
    return result


# ------------------------------------------------------------------------------------------- people


def _people(
    config: Mapping[str, Any], engine: FaceEngine, shards: str | Sequence[str] | None, names: Sequence[str] | None
) -> list[Person]:
    """The people of the evaluation, from photos or shards; with `names` all of those, and others as strangers."""
    counts = config["num_identities"], config["num_references"], config["num_strangers"]
    if config["references"] is not None:
        folder = Path(config["references"]).expanduser()
        return people_from_photos(folder, engine, names, *counts, config["scoring"]["reference_size_px"])
    if shards is None:
        raise IdanimError("no references: give data.shards=<folder of shards> or references=<folder of photos>")
    return people_from_shards(shards, engine, names, *counts)


def _people_from(people: Sequence[Person]) -> dict[str, list[str]]:
    """Where those come from whom the videos show, and where strangers do, for the report."""
    return {
        "shown": sorted({person.origin for person in people if not person.is_stranger}),
        "strangers": sorted({person.origin for person in people if person.is_stranger}),
    }


def _people_of(videos: Mapping[Path, VideoRecord], config: Mapping[str, Any], engine: FaceEngine) -> list[Person]:
    """The people whom videos made elsewhere were asked to show."""
    names = sorted({record.identity for record in videos.values()} - {NOBODY})
    people = _people(config, engine, config["data"]["shards"], names or None)
    missing = sorted(set(names) - {person.identity for person in people})
    if missing:
        raise IdanimError(f"no reference for {', '.join(missing)}, whom the videos were asked to show")
    return people


# --------------------------------------------------------------------------------------- generation


def _generate(
    run: Run, engine: FaceEngine, folder: Path, load: Loader
) -> tuple[dict[Path, VideoRecord], list[Person], dict[str, Any]]:
    """Generate what is missing of the grid.

    Returns:
        All videos of the grid, the people, and what made the videos.
    """
    config = run.config
    ckpt = Path(config["ckpt"]).expanduser()
    unknown = sorted(set(config["systems"]) - set(SYSTEMS))
    if unknown or not config["systems"]:
        raise IdanimError(f"systems={config['systems']}: expected some of {', '.join(SYSTEMS)}")
    options = (config["model"], pick_device(config["device"]), config["scale"], config["backbone"])
    sampler, trained = load(ckpt, *options)
    settings = sampling_settings(trained, **config["sampling"])
    prompts = load_prompts(config["prompts"] or trained["backbone"]["prompts"])
    people = _people(config, engine, config["data"]["shards"] or trained["data"]["shards"], None)
    source = {"checkpoint": sha256(ckpt), "scale": config["scale"], "model": config["model"]}
    if config["backbone"] is not None:
        source["backbone"] = config["backbone"]
    shown = [person.identity for person in people if not person.is_stranger]
    videos: dict[Path, VideoRecord] = {}
    for system in sorted(config["systems"], key=lambda name: name == INIT):
        if system == INIT:  # the last one: it takes the place of the trained weights
            sampler, _ = load(ckpt, *options, initial=True)
        cells = grid(system, [NOBODY] if system == NO_ADAPTER else shown, prompts, config["seeds"])
        videos |= fill_grid(cells, people, folder, sampler, settings, source)
    return videos, people, source | {"ckpt": str(ckpt), "sampling": asdict(settings)}


def fill_grid(
    cells: Sequence[Cell],
    people: Sequence[Person],
    folder: Path,
    sampler: Sampler,
    settings: SamplingSettings,
    source: Mapping[str, Any],
) -> dict[Path, VideoRecord]:
    """Generate the cells whose video is not there yet, or was made from something else.

    Args:
        cells: the grid.
        people: everybody in it.
        folder: of the videos.
        sampler: generates.
        settings: of the sampler.
        source: what else decides the pixels, for the record of each video.

    Returns:
        Path of each cell's mp4 and what it was made from, in the order of the cells.
    """
    by_name = {person.identity: person for person in people}
    videos, done = {}, 0
    for cell in tqdm(cells, desc=f"generate {cells[0].system}", unit="video"):
        person = by_name.get(cell.identity)
        made_with = dict(source) | {"sampling": asdict(settings), "references": person.digest if person else None}
        record = VideoRecord(cell.prompt.text, cell.identity, cell.seed, cell.system, cell.prompt.group, made_with)
        path = folder / cell.path
        if is_made(path, record):
            done += 1
        else:
            pictures = person.pictures if person else ()
            clip = sampler.generate(pictures, cell.prompt.text, cell.seed, settings, cell.identity)
            write_video(path, clip, record)
        videos[path] = record
    if done:
        _log.info("%d of %d videos were there already", done, len(cells))
    return videos


# ------------------------------------------------------------------------------------------- scoring


def _score(
    videos: Mapping[Path, VideoRecord],
    folder: Path,
    people: Sequence[Person],
    judges: Judges,
    protocol: EvaluationProtocol,
    config: Mapping[str, Any],
    output: Path,
) -> dict[str, Any]:
    """Score all videos and draw the picture grid; returns the figures for `metrics.json`."""
    by_name = {person.identity: with_views(person, judges.engine) for person in people}
    columns = _grid_columns(list(videos.values()))
    tiles: dict[tuple[str, str], list[UInt8Array]] = {}
    scores: list[VideoScore] = []
    for path, record in tqdm(videos.items(), desc="score", unit="video"):
        name = path.relative_to(folder).as_posix()
        try:
            frames = read_frames(path)
        except UnreadableVideoError as error:
            scores += score_unreadable(name, record, by_name, str(error))
            continue
        scores += score_video(name, record, frames, by_name, judges, config["scoring"]["num_frames"], protocol)
        place = (record.identity, record.prompt)
        if record.prompt in columns and record.identity != NOBODY and place not in tiles:
            tiles[place] = thumbnails(frames, GRID_FRAMES)
    references = {person.identity: person.pictures[0] for person in people if not person.is_stranger}
    write_picture_grid(output / "grid.png", references, columns, tiles)
    clips = {person.identity: person.clips for person in people}
    systems = {record.system for record in videos.values()}
    main_system = ADAPTER if ADAPTER in systems else min(systems)
    return report(scores, clips, main_system, config["scoring"]["seed"]) | protocol_section(protocol, scores)


def _grid_columns(records: Sequence[VideoRecord]) -> list[str]:
    """Prompts that the picture grid shows: the first of every group, then others, at most `GRID_PROMPTS`."""
    prompts = list(dict.fromkeys(Prompt(record.prompt, record.group) for record in records))
    first = {prompt.group: prompt for prompt in reversed(prompts)}
    ranked = sorted(prompts, key=lambda prompt: prompt is not first[prompt.group])
    chosen = set(ranked[:GRID_PROMPTS])
    return [prompt.text for prompt in prompts if prompt in chosen]


# -------------------------------------------------------------------------------------------- report


def _show(result: Mapping[str, Any], output: Path) -> None:
    """Print the tables and write them, and every figure with its interval, to `report.md`."""
    tables = [system_table(result["summary"], list(result["groups"]))]
    if result["differences"]:
        tables.append(difference_table(result["differences"]))
    if any(len(by_group) > 1 for by_group in result["groups"].values()):
        tables.append(group_table(result["groups"]))
    notes = _notes(result)
    if result["protocol"]["figures"]:
        tables.append(protocol_table(result["protocol"]))
        notes += protocol_notes(result["protocol"])
    width = shutil.get_terminal_size((160, 40)).columns
    print("\n" + "\n\n".join([*(table.text(width) for table in tables), *notes]))
    tables.append(summary_table(result["summary"]))
    write_text(output / "report.md", "\n\n".join(["# Evaluation", *(t.markdown() for t in tables), *notes]) + "\n")
    print(f"\n{output}: metrics.json, report.md, grid.png")


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    notes = [f"Face engine {result['face_engine']}; compare only with scores of the same one."]
    shown, strangers = (result["people_from"][who] for who in ("shown", "strangers"))
    compared = f", strangers to compare with from: {', '.join(strangers)}" if strangers else ""
    notes.append(f"People from: {', '.join(shown)}{compared}.")
    compared_with = result["num_people_compared"]
    if compared_with > 1:
        notes.append(f"Rank-1 among {compared_with} people: chance is {1 / compared_with:.3f}.")
    if any(origin.startswith("train split") for origin in shown):
        notes.append("The adapter may have been trained on people of the train split: no measure of new people.")
    if not any(video["num_faces"] for video in result["videos"]):
        notes.append("No face was found in any video, so face_similarity is 0 by definition.")
    if result["summary"]["real_pair_similarity"]["n"] == 0:
        notes.append("No person has two real faces made with this engine: no ceiling, no normalised figure.")
    elif result["real_pairs"] == "same clip":
        notes.append("Real pairs are frames of one clip, so the ceiling is too high: nobody has two clips.")
    unreadable = sorted({video["problem"] for video in result["videos"] if video["problem"]})
    if unreadable:
        notes.append(f"Unreadable, scored as showing nobody: {'; '.join(unreadable)}")
    return notes


def _log_to_wandb(logger: Any, result: Mapping[str, Any], folder: Path) -> None:
    """Summary, table of scores and some videos; nothing without a logger."""
    if logger is None:
        return
    rows = result["videos"]
    run = logger.experiment
    for name, figure in result["summary"].items():
        run.summary.update({name: figure["mean"], f"{name}/low": figure["low"], f"{name}/high": figure["high"]})
    table = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
    captions = {row["video"]: f"{row['shown']}: {row['prompt']}" for row in rows if not row["problem"]}
    videos = [
        wandb.Video(str(folder / name), caption=caption) for name, caption in list(captions.items())[:LOGGED_VIDEOS]
    ]
    run.log({"scores": table, "videos": videos})
    run.finish()
