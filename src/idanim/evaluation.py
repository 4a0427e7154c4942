"""The evaluation program: people and prompts → videos → scores → report. See docs/evaluation.md."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import wandb
from tqdm import tqdm

from idanim.assembly import load_sampler, pick_device, sampling_settings
from idanim.config import Run, build, built_or_plain
from idanim.faces.engine import FaceEngine
from idanim.files import write_json, write_text
from idanim.generation.sampler import Sampler
from idanim.metrics.evaluation_page import write_evaluation_page
from idanim.metrics.grid import NOBODY, grid
from idanim.metrics.manifest import read_manifest
from idanim.metrics.people import Person, people_from_photos, read_people, with_views
from idanim.metrics.people_groups import by_people_group
from idanim.metrics.picture_grid import write_picture_grid
from idanim.metrics.prompts import Prompt, load_prompts
from idanim.metrics.protocols import EvaluationProtocol, Judges, PromptReader
from idanim.metrics.report import (
    all_groups,
    difference_table,
    group_table,
    protocol_notes,
    protocol_table,
    summary_table,
    system_table,
)
from idanim.metrics.scoring import VideoScore, score_video
from idanim.metrics.summary import protocol_section, report
from idanim.metrics.text_alignment import ClipScorer
from idanim.metrics.video_scorer import ScoredVideo, VideoScorer, remark_counts, require_readable
from idanim.metrics.videos import VideoRecord, find_videos, read_record
from idanim.shard_people import people_from_shards
from idanim.systems import (
    ADAPTER,
    NO_ADAPTER,
    FilledGrid,
    Loader,
    System,
    SystemLoader,
    fill_grid,
    identities_of,
    parse_systems,
    source_of,
)
from idanim.types import IdanimError, UInt8Array

SCHEMA_VERSION = 1
GRID_PROMPTS = 6
LOGGED_VIDEOS = 32
NAMED_PROBLEMS = 20

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
    _require_one_source(config)
    engine: FaceEngine = build(config["faces"])
    if config["videos"] is not None:
        folder = Path(config["videos"]).expanduser()
        filled, people, source = _made_elsewhere(folder, config, engine)
    else:
        folder = run.output / "videos"
        filled, people, source = _generate(run, engine, folder, load)
    clip = None
    if config["scoring"]["clip"] is not None:
        clip = ClipScorer.from_pretrained(config["scoring"]["clip"], pick_device(config["device"]))
    protocol: EvaluationProtocol = build(config["protocol"])
    reader: PromptReader | None = built_or_plain(config["scoring"]["prompt_reader"])
    figures, scored = _score(filled, folder, people, Judges(engine, clip, reader), protocol, run)
    result = {
        "schema": SCHEMA_VERSION,
        "summary": figures.pop("summary"),
        "face_engine": engine.name,
        "text_model": None if clip is None else clip.name,
        "prompt_reader": None if reader is None else reader.name,
        "num_sampled_frames": config["scoring"]["num_frames"],
        "num_people_compared": len(people),
        "people_from": _people_from(people),
        "source": source,
        "git_sha": run.git_sha,
        **figures,
    }
    write_json(run.output / "metrics.json", result)
    _show(result, run.output)
    references = {person.identity: person.pictures[0] for person in people if not person.is_stranger}
    strips = {name: video.strip for name, video in scored.items() if video.strip is not None}
    limit = config["report"]["max_embedded_mib"]
    write_evaluation_page(run.output / "report.html", result, _notes(result), folder, references, strips, limit)
    print(f"\n{run.output}: metrics.json, report.html, report.md, grid.png")
    _log_to_wandb(build(config["logger"], output=run.output), result, folder)
    return result


def _require_one_source(config: Mapping[str, Any]) -> None:
    if config["videos"] is None and config["manifest"] is not None:
        raise IdanimError("manifest= lists videos: give videos=<folder>, too")
    generates = config["ckpt"] is not None or config["systems"] is not None
    if generates == (config["videos"] is not None):
        raise IdanimError(
            "give either ckpt=<file> (or systems=[<file>, …]) to generate and score, or videos=<folder> to score"
        )
    if config["ckpt"] is not None and not Path(config["ckpt"]).expanduser().is_file():
        raise IdanimError(f"ckpt={config['ckpt']!r}: there is no such file")


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


def _made_elsewhere(
    folder: Path, config: Mapping[str, Any], engine: FaceEngine
) -> tuple[FilledGrid, list[Person], dict[str, Any]]:
    """Videos of other systems, the people they show, and where they come from."""
    source: dict[str, Any] = {"videos": str(folder)}
    photos: dict[str, list[Path]] = {}
    if config["manifest"] is None:
        videos = {path: read_record(path) for path in find_videos(folder)}
    else:
        manifest = read_manifest(Path(config["manifest"]).expanduser(), folder)
        videos, photos = manifest.videos, manifest.references
        unlisted = len([path for path in find_videos(folder) if path not in videos])
        source |= {"manifest": config["manifest"], "repeated_rows": manifest.num_repeated, "unlisted_videos": unlisted}
    names = sorted({record.identity for record in videos.values()} - {NOBODY})
    if photos:
        shown = read_people(photos, engine, None, config["scoring"]["reference_size_px"], "photos of the manifest")
        people = shown + _strangers(config, engine, set(photos))
    else:
        people = _people(config, engine, config["data"]["shards"], names or None)
    missing = sorted(set(names) - {person.identity for person in people})
    if missing:
        raise IdanimError(f"no reference for {', '.join(missing)}, whom the videos were asked to show")
    return FilledGrid(videos), people, source


def _strangers(config: Mapping[str, Any], engine: FaceEngine, shown: Collection[str]) -> list[Person]:
    """People of `references=` or `data.shards=`, if any, to compare those with whom a manifest names."""
    if config["references"] is None and config["data"]["shards"] is None:
        return []
    everybody = _people(dict(config) | {"num_identities": 1}, engine, config["data"]["shards"], None)
    return [replace(person, is_stranger=True) for person in everybody if person.identity not in shown]


# --------------------------------------------------------------------------------------- generation


def _generate(
    run: Run, engine: FaceEngine, folder: Path, load: Loader
) -> tuple[FilledGrid, list[Person], dict[str, Any]]:
    """Generate what is missing of the grid.

    Returns:
        The grid, the people, and what made the videos.
    """
    config = run.config
    ckpt = None if config["ckpt"] is None else Path(config["ckpt"]).expanduser()
    systems = parse_systems(config["systems"] or [ADAPTER], ckpt)
    device = pick_device(config["device"])
    loader = SystemLoader(load, (config["model"], device, config["scale"], config["backbone"]))
    main = systems[0]
    _, trained = loader(main)
    settings = sampling_settings(trained, **config["sampling"])
    prompts = load_prompts(config["prompts"] or trained["backbone"]["prompts"])
    people = _people(config, engine, config["data"]["shards"] or trained["data"]["shards"], None)
    filled = FilledGrid()
    for system in systems:
        own = system.is_named and system != main and config["backbone"] is None
        backbone = trained["backbone"] if own else None  # for a file that does not say its own
        cells = grid(system.name, identities_of(system, people), prompts, config["seeds"])
        sampler = functools.partial(_sampler_of, loader, system, backbone)
        made_by = source_of(system, config, backbone)
        filled |= fill_grid(cells, people, folder, sampler, settings, made_by, config["batch_size"])
    files = {system.name: str(system.ckpt) for system in systems}
    source = source_of(main, config) | {"ckpt": str(main.ckpt), "systems": files, "sampling": asdict(settings)}
    return filled, people, source


def _sampler_of(loader: SystemLoader, system: System, backbone: Mapping[str, Any] | None) -> Sampler:
    return loader(system, backbone)[0]


# ------------------------------------------------------------------------------------------- scoring


def _score(
    filled: FilledGrid,
    folder: Path,
    people: Sequence[Person],
    judges: Judges,
    protocol: EvaluationProtocol,
    run: Run,
) -> tuple[dict[str, Any], dict[str, ScoredVideo]]:
    """Score all videos and draw the picture grid.

    Returns:
        The figures for `metrics.json`, and what is known of each video by its name.
    """
    scoring = run.config["scoring"]
    by_name = {person.identity: with_views(person, judges.engine) for person in people}

    def score_frames(name: str, record: VideoRecord, frames: UInt8Array) -> list[VideoScore]:
        return score_video(name, record, frames, by_name, judges, scoring["num_frames"], protocol)

    settings = {
        "face_engine": judges.engine.name,
        "faces": run.config["faces"],  # its thresholds and sizes, too
        "text_model": None if judges.clip is None else judges.clip.name,
        "prompt_reader": None if judges.reader is None else judges.reader.name,
        "protocol": run.config["protocol"],
        "num_frames": scoring["num_frames"],
    }
    scorer = VideoScorer(people, score_frames, settings, run.output / "scores")
    scored: dict[str, ScoredVideo] = {}
    for path, record in tqdm(filled.videos.items(), desc="score", unit="video"):
        name = path.relative_to(folder).as_posix()
        scored[name] = scorer.score(name, path, record, filled.failures.get(path))
    if scorer.num_stored:
        _log.info("%d of %d videos were scored already", scorer.num_stored, len(scored))
    require_readable(folder, scored)
    _draw_grid(run.output / "grid.png", filled, people, scored)
    scores = [score for video in scored.values() for score in video.scores]
    clips = {person.identity: person.clips for person in people}
    names = list(dict.fromkeys(record.system for record in filled.videos.values()))
    main_system = ADAPTER if ADAPTER in names else _first_system(run.config, names)
    result = report(scores, clips, main_system, scoring["seed"])
    for row in result["videos"]:
        row["people_group"] = by_name[row["identity"]].group
        row["remarks"] = scored[row["video"]].remarks
    result["people_groups"] = by_people_group(scores, {p.identity: p.group for p in people}, scoring["seed"])
    result |= protocol_section(protocol, scores)
    return result | {"remarks": remark_counts(list(scored.values()))}, scored


def _first_system(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """The system whose figures have plain names where none is "adapter": the first that was generated as asked for."""
    shown = [name for name in names if name != NO_ADAPTER]
    return shown[0] if config["videos"] is None and shown else min(names)


def _draw_grid(path: Path, filled: FilledGrid, people: Sequence[Person], scored: Mapping[str, ScoredVideo]) -> None:
    columns = _grid_columns(list(filled.videos.values()))
    tiles: dict[tuple[str, str], list[UInt8Array]] = {}
    for video, record in zip(scored.values(), filled.videos.values(), strict=True):
        place = (record.identity, record.prompt)
        if record.prompt in columns and record.identity != NOBODY and video.strip and place not in tiles:
            tiles[place] = video.tiles
    references = {person.identity: person.pictures[0] for person in people if not person.is_stranger}
    write_picture_grid(path, references, columns, tiles)


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
    groups = all_groups(result)
    if any(len(by_group) > 1 for by_group in groups.values()):
        tables.append(group_table(groups))
    notes = _notes(result)
    if result["protocol"]["figures"]:
        tables.append(protocol_table(result["protocol"]))
    width = shutil.get_terminal_size((160, 40)).columns
    print("\n" + "\n\n".join([*(table.text(width) for table in tables), *notes]))
    tables.append(summary_table(result["summary"]))
    write_text(output / "report.md", "\n\n".join(["# Evaluation", *(t.markdown() for t in tables), *notes]) + "\n")


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


def _log_to_wandb(logger: Any, result: Mapping[str, Any], folder: Path) -> None:
    """Summary, tables of scores and of groups, and some videos; nothing without a logger."""
    if logger is None:
        return
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
