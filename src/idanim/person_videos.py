"""Videos of people from photos and prompts: what `python -m idanim.generate` makes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from idanim.config import Run, build, built_or_plain
from idanim.faces.engine import FaceEngine
from idanim.files import write_bytes
from idanim.generation.control import SparseControl
from idanim.generation.output import check_formats, has_formats
from idanim.generation_inputs import control_images, existing_ckpt, find_person, read_control_images
from idanim.generator import Generator, Person, Progress
from idanim.metrics.grid import slug
from idanim.metrics.picture_grid import GAP_PX, thumbnails, tile, write_picture_grid
from idanim.metrics.prompts import load_prompts
from idanim.metrics.videos import is_made
from idanim.pictures import encode_png
from idanim.recipe import changed_versions, run_of
from idanim.reference_faces import ReferencePerson
from idanim.types import IdanimError, UInt8Array
from idanim.video import read_frames

GRID_FRAMES = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One video of the run: whom and what it shows, and its file."""

    person: Person
    prompt: str
    seed: int
    path: Path


def generate_videos(run: Run) -> list[Path]:
    """Generate a video for each person, prompt and seed; returns their paths.

    Videos that are there already and were made from the same are kept. More than one person or seed also gives
    `grid.png`, a sweep `sweep.png`; its path is printed.

    Raises:
        IdanimError: something is missing or doesn't fit, or no face is found in a photo; the text says what to do.
    """
    if run.config["recipe"] is not None:
        recipe = Path(run.config["recipe"]).expanduser()
        run = run_of(recipe, run.output, run.git_sha)
        for change in changed_versions(recipe):
            _log.warning("the video may differ in some pixels: %s", change)
    config = run.config
    check_formats(config["formats"])
    prompts, seeds = _prompts(config), _seeds(config["seed"])
    existing_ckpt(config)
    if config["control"]["model"] is not None:
        read_control_images(control_images(config["control"]))
    engine: FaceEngine = build(config["faces"])
    found = _found(engine, _sources(config), config)
    generator = Generator(run, engine)  # the large models, once all that is small is known to be right
    control = generator.configured_control()
    people = _people(generator, found, config)
    jobs = [
        Job(person, prompt, seed, run.output / slug(person.name) / f"{slug(prompt)}_s{seed}.mp4")
        for person in people
        for prompt in prompts
        for seed in seeds
    ]
    _tell([note for person in people for note in person.notes])
    _tell(generator.prompt_notes(prompts))
    _make(generator, jobs, control, config["formats"])
    if config["sweep"] is not None:
        write_bytes(picture := run.output / "sweep.png", sweep_strip(jobs))
        print(f"picture   {picture}")
    elif len(people) > 1 or len(seeds) > 1:
        _write_grid(picture := run.output / "grid.png", jobs, prompts)
        print(f"picture   {picture}")
    return [job.path for job in jobs]


def _tell(notes: Sequence[str]) -> None:
    for note in dict.fromkeys(notes):
        _log.warning("%s", note)


# ------------------------------------------------------------------------------------------- what to make


def _prompts(config: Mapping[str, Any]) -> list[str]:
    if config["prompts"] is not None:
        return [prompt.text for prompt in load_prompts(config["prompts"])]
    return list(dict.fromkeys(_listed(config["prompt"], "prompt")))


def _seeds(value: Any) -> list[int]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or any(not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63 for seed in seeds):
        raise IdanimError(f"seed={value}: expected a whole number from 0 on, or a [list] of them")
    return list(dict.fromkeys(seeds))


def _sources(config: Mapping[str, Any]) -> list[list[str]]:
    """The references by identity: each of `people`, each of a mixture, or all of one person."""
    mixed = config["mix"] is not None or config["sweep"] is not None
    if config["people"] is not None:
        if mixed:
            raise IdanimError("people= is a grid of different people; mixtures take reference=[a.jpg,b.jpg]")
        return [[source] for source in _listed(config["people"], "people")]
    given = built_or_plain(config["references"])
    if mixed and isinstance(given, list) and any(isinstance(item, list) for item in given):  # as recipes have them
        return [_listed(item, "reference") for item in given]
    sources = _listed(given, "reference")
    if config["sweep"] is not None:
        if config["mix"] is not None:
            raise IdanimError("give either weights=[…] for one mixture, or sweep=<number> for several")
        if len(sources) != 2 or not isinstance(config["sweep"], int) or config["sweep"] < 2:
            raise IdanimError(f"sweep={config['sweep']}: expected 2 or more steps, and reference=[a.jpg,b.jpg]")
    return [[source] for source in sources] if mixed else [sources]


def _listed(value: Any, key: str) -> list[str]:
    """One text or a list of them, as a list."""
    texts = ["" if item is None else str(item).strip() for item in (value if isinstance(value, list) else [value])]
    if not texts or "" in texts:
        raise IdanimError(f"{key}= is empty")
    return texts


def _found(engine: FaceEngine, groups: Sequence[Sequence[str]], config: Mapping[str, Any]) -> list[ReferencePerson]:
    """The faces of each identity."""
    indices = config["face_index"] if isinstance(config["face_index"], list) else [config["face_index"]] * len(groups)
    if len(indices) != len(groups):
        raise IdanimError(f"face_index={indices}: {len(indices)} numbers for {len(groups)} people; give one each")
    return [find_person(sources, engine, config, index) for sources, index in zip(groups, indices, strict=True)]


def _people(generator: Generator, found: Sequence[ReferencePerson], config: Mapping[str, Any]) -> list[Person]:
    people = [generator.person_of(person) for person in found]
    if config["mix"] is not None:
        return [generator.mixture(people, config["mix"])]
    if config["sweep"] is not None:
        shares = np.linspace(0, 1, config["sweep"]).round(6).tolist()
        return [generator.mixture(people, [1 - share, share]) for share in shares]
    names = [person.name for person in people]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise IdanimError(f"people=: {', '.join(twice)} twice; name photos <person>__<anything>, a person in one entry")
    return people


# ------------------------------------------------------------------------------------------- making it


def _make(generator: Generator, jobs: Sequence[Job], control: SparseControl | None, formats: Sequence[str]) -> None:
    """Make the videos one by one; each is whole on disk before the next begins."""
    num_steps = generator.settings.num_inference_steps
    finished = 0
    with (
        tqdm(total=len(jobs), desc="videos", unit="video", disable=len(jobs) == 1) as videos,
        tqdm(total=len(jobs) * num_steps, desc="generate", unit="step") as steps,
    ):

        def on_progress(_progress: Progress) -> None:
            steps.update()

        try:
            for job in jobs:
                record = generator.record(job.person, job.prompt, job.seed, control)
                if is_made(job.path, record) and has_formats(job.path, formats):
                    steps.update(num_steps)
                else:
                    video = generator.generate(job.person, job.prompt, job.seed, control, on_progress)
                    video.save(job.path, formats)
                finished += 1
                videos.update()
        except KeyboardInterrupt:
            _log.warning("%d of %d videos are finished; the same output= goes on there", finished, len(jobs))
            raise


# ------------------------------------------------------------------------------------------- pictures


def _write_grid(path: Path, jobs: Sequence[Job], prompts: Sequence[str]) -> None:
    """One row a person and seed, the reference first, then frames of the video of each prompt."""
    rows = {f"{job.person.name} {job.seed}": job.person.faces[0].crop for job in jobs}
    tiles = {
        (f"{job.person.name} {job.seed}", job.prompt): thumbnails(read_frames(job.path), GRID_FRAMES) for job in jobs
    }
    write_picture_grid(path, rows, prompts, tiles)


def sweep_strip(jobs: Sequence[Job]) -> bytes:
    """A PNG with a row for each prompt and seed: first face, middle frames from one identity to the other, second face.

    Args:
        jobs: by mixture, from the first identity to the second.
    """
    rows: dict[tuple[str, int], list[UInt8Array]] = {}
    for job in jobs:
        frames = read_frames(job.path)
        rows.setdefault((job.prompt, job.seed), []).append(tile(frames[len(frames) // 2]))
    faces = jobs[0].person.faces
    ends = tile(faces[0].crop), tile(faces[-1].crop)
    strips = [_row([ends[0], *tiles, ends[1]]) for tiles in rows.values()]
    gap = np.full((GAP_PX, strips[0].shape[1], 3), 255, np.uint8)
    return encode_png(np.concatenate([part for strip in strips for part in (strip, gap)][:-1]))


def _row(tiles: Sequence[UInt8Array]) -> UInt8Array:
    gap = np.full((tiles[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for picture in tiles for part in (picture, gap)][:-1], axis=1)
