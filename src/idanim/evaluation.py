"""The evaluation program: people and prompts → videos → scores → report. See docs/evaluation.md."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from idanim.assembly import (
    attach_identity_guidance,
    chosen_settings,
    guide_file,
    load_sampler,
    loading_device,
    pick_device,
    sampling_overrides,
    save_memory,
    training_config,
    warn_of_settings_left,
)
from idanim.config import Run, build, built_or_plain
from idanim.evaluation_report import log_to_wandb, notes_on, show, systems_by_sampling
from idanim.faces.engine import FaceEngine
from idanim.files import write_json
from idanim.generation.prompt_notes import prompt_notes
from idanim.generation.sampler import Sampler
from idanim.metrics.evaluation_page import write_evaluation_page
from idanim.metrics.grid import NOBODY, grid
from idanim.metrics.manifest import read_manifest
from idanim.metrics.people import Person, people_from_photos, read_people, with_views
from idanim.metrics.people_groups import by_people_group
from idanim.metrics.picture_grid import write_picture_grid
from idanim.metrics.prompts import Prompt, load_prompts
from idanim.metrics.protocols import EvaluationProtocol, Judges, PromptReader
from idanim.metrics.scoring import VideoScore, score_video
from idanim.metrics.summary import protocol_section, report
from idanim.metrics.text_alignment import ClipScorer, clip_folder
from idanim.metrics.video_scorer import ScoredVideo, VideoScorer, remark_counts, require_readable
from idanim.metrics.videos import VideoRecord, find_videos, read_record
from idanim.models.required_files import require_ckpt
from idanim.recipe import hashes_of
from idanim.shard_people import in_short, people_from_shards
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
from idanim.trained_judge import UsedRecogniser, from_record, partial_judgements, refuse_partial_judge, used_recognisers
from idanim.types import IdanimError, UInt8Array

SCHEMA_VERSION = 1
GRID_PROMPTS = 6

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
    # What scores is built before hours of generating; only CLIP waits, for it shares the device with the models.
    protocol: EvaluationProtocol = build(config["protocol"])
    reader: PromptReader | None = built_or_plain(config["scoring"]["prompt_reader"], "prompt_reader")
    if config["scoring"]["clip"] is not None:
        clip_folder(config["scoring"]["clip"])
    if config["videos"] is not None:
        folder = Path(config["videos"]).expanduser()
        filled, people, source = _made_elsewhere(folder, config, engine)
    else:
        folder = run.output / "videos"
        filled, people, source = _generate(run, engine, folder, load)
    clip = None
    if config["scoring"]["clip"] is not None:
        clip = ClipScorer.from_pretrained(config["scoring"]["clip"], pick_device(config["device"]))
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
        "trained_judge": partial_judgements(engine, _recorded_recognisers(filled.videos.values())),
        "sampling": systems_by_sampling(filled.videos.values()),
        "source": source,
        "git_sha": run.git_sha,
        **figures,
    }
    _publish(result, run, people, scored, folder)
    return result


def _publish(
    result: dict[str, Any], run: Run, people: Sequence[Person], scored: Mapping[str, ScoredVideo], folder: Path
) -> None:
    """Write `metrics.json` and the reports, print them, and log them."""
    write_json(run.output / "metrics.json", result)
    show(result, run.output)
    references = {person.identity: person.pictures[0] for person in people if not person.is_stranger}
    strips = {name: video.strip for name, video in scored.items() if video.strip is not None}
    limit = run.config["report"]["max_embedded_mib"]
    write_evaluation_page(run.output / "report.html", result, notes_on(result), folder, references, strips, limit)
    print(f"\n{run.output}: metrics.json, report.html, report.md, grid.png")
    log_to_wandb(build(run.config["logger"], output=run.output), result, folder)


def _require_one_source(config: Mapping[str, Any]) -> None:
    if config["videos"] is None and config["manifest"] is not None:
        raise IdanimError("manifest= lists videos: give videos=<folder>, too")
    generates = config["ckpt"] is not None or config["systems"] is not None
    if generates == (config["videos"] is not None):
        raise IdanimError(
            "give either ckpt=<file> (or systems=[<file>, …]) to generate and score, or videos=<folder> to score"
        )
    if config["ckpt"] is not None:
        require_ckpt(Path(config["ckpt"]).expanduser())


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
    refuse_partial_judge(engine, _recorded_recognisers(videos.values()), config["allow_trained_judge"])
    names = sorted({record.identity for record in videos.values()} - {NOBODY})
    if photos:
        shown = read_people(photos, engine, None, config["scoring"]["reference_size_px"], "photos of the manifest")
        people = shown + _strangers(config, engine, set(photos))
    else:
        people = _people(config, engine, config["data"]["shards"], names or None)
    missing = sorted(set(names) - {person.identity for person in people})
    if missing:
        found = in_short(sorted(person.identity for person in people))
        raise IdanimError(
            f"no reference for {in_short(missing)}, whom the videos were asked to show; people found: {found}. Add "
            "photos named <person>__<anything>.jpg to references=, or name their photos in a manifest="
        )
    return FilledGrid(videos), people, source


def _recorded_recognisers(records: Iterable[VideoRecord]) -> dict[str, list[UsedRecogniser]]:
    """The recognisers with a part in the videos of each system, as far as their records say."""
    used: dict[str, list[UsedRecogniser]] = {}
    for record in records:
        known = used.setdefault(record.system, [])
        known += [recogniser for recogniser in from_record(record.made_with) if recogniser not in known]
    return used


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
    overrides = sampling_overrides(config)
    options = (overrides, loading_device(config["memory"], device), config["scale"], config["backbone"])
    first = ckpt or systems[0].ckpt  # whose settings all systems share
    trained = training_config(first, overrides, config["backbone"])
    settings = chosen_settings(config, trained)
    warn_of_settings_left(first, config, settings)
    prompts = load_prompts(config["prompts"] or trained["backbone"]["prompts"])
    told: set[str] = set()

    def prepare(sampler: Sampler, its_config: Mapping[str, Any]) -> None:
        save_memory(sampler, config["memory"], device)
        attach_identity_guidance(sampler, its_config, engine, settings, config["memory"])
        for note in prompt_notes(sampler.backbone, [prompt.text for prompt in prompts]):
            if note not in told:
                _log.warning("%s", note)
            told.add(note)

    loader = SystemLoader(load, options, prepare)
    models = _configurations(systems, {first: trained}, overrides, config)
    used = {
        system.name: []
        if system.shows_nobody
        else used_recognisers(system.ckpt, models[system.name], guides=settings.identity_guidance > 0)
        for system in systems
    }
    refuse_partial_judge(engine, used, config["allow_trained_judge"])
    for system in systems:
        if not system.shows_nobody:
            guide_file(settings, models[system.name])
    people = _people(config, engine, config["data"]["shards"] or trained["data"]["shards"], None)
    filled, hashes = FilledGrid(), _Hashes()
    for system in systems:
        own = system.is_named and system.ckpt != first and config["backbone"] is None
        backbone = trained["backbone"] if own else None  # for a file that does not say its own
        source = source_of(system, config, overrides, backbone, used[system.name])
        source |= {"weights": hashes.of(models[system.name])}
        cells = grid(system.name, identities_of(system, people), prompts, config["seeds"])
        sampler = functools.partial(_sampler_of, loader, system, backbone)
        filled |= fill_grid(cells, people, folder, sampler, settings, source, config["batch_size"])
    files = {system.name: str(system.ckpt) for system in systems}
    shared = source_of(System(ADAPTER, first), config, overrides)
    return filled, people, shared | {"ckpt": str(first), "systems": files, "sampling": asdict(settings)}


class _Hashes:
    """Names the files that models are made of by their content; systems mostly share them, and they are large."""

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}

    def of(self, models: Mapping[str, Any]) -> list[str]:
        """SHA-256 of all weights that a training configuration names, sorted."""
        nodes = [models["backbone"].get("model"), models.get("encoder"), models.get("adapter")]
        key = json.dumps(nodes, sort_keys=True, default=str)
        if key not in self._known:
            self._known[key] = sorted(set(hashes_of(nodes).values()))
        return self._known[key]


def _configurations(
    systems: Sequence[System],
    known: Mapping[Path, dict[str, Any]],
    overrides: Mapping[str, Any],
    config: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The training configuration of each system; each file is read once.

    Args:
        systems: of the grid.
        known: file → configuration, of the first file, whose backbone a file that names none takes.
        overrides: of the models' configuration.
        config: of the evaluation.
    """
    by_file = dict(known)
    (first,) = known.values()
    for ckpt in dict.fromkeys(system.ckpt for system in systems):
        if ckpt not in by_file:
            by_file[ckpt] = training_config(ckpt, overrides, config["backbone"], first["backbone"])
    return {system.name: by_file[system.ckpt] for system in systems}


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
        "protocol_models": protocol.models,
        "num_frames": scoring["num_frames"],
    }
    scorer = VideoScorer(people, score_frames, settings, run.output / "scores", judges.clip is not None, judges.reader)
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
    result |= protocol_section(protocol, scores, judges)
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
