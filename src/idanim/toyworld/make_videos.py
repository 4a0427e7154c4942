"""Film people of the toy world: `python -m idanim.toyworld.make_videos <folder>`, as input for curation.

Every video `<person>__<clip>.mp4` comes with a JSON file of its captions and of everything that is true of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from idanim.freed_memory import keep_freed_memory
from idanim.toyworld.captions import caption, looks
from idanim.toyworld.people import ACTIONS, Scene, sample_identities, sample_scene
from idanim.toyworld.renderer import locate, render
from idanim.types import IdanimError, UInt8Array
from idanim.video_encoding import encode_mp4

FPS = 8.0
CLIPS_AT_ONCE = 16
LARGEST_TRAINING_SEED = 10_000
"""Seeds up to here may be those of people the shipped weights were trained on."""


@dataclass(frozen=True)
class ToyVideo:
    """One filmed clip.

    Attributes:
        name: `<person>__<clip>`.
        frames: [F, H, W, 3] uint8.
        facts: captions by kind, the person's name, and the ground truth.
    """

    name: str
    frames: UInt8Array
    facts: dict[str, object]


def film(
    num_people: int, clips_per_person: int, num_frames: int, size_px: int, seed: int, only: slice = slice(None)
) -> list[ToyVideo]:
    """Film every person several times, in other clothes and places.

    Args:
        num_people: persons.
        clips_per_person: videos of each.
        num_frames: frames of a video.
        size_px: width and height.
        seed: of people and everything else; above LARGEST_TRAINING_SEED for people unknown to the weights.
        only: which of the clips to film; each is the same whatever else is filmed.
    """
    generator = torch.Generator().manual_seed(seed)
    person = torch.arange(num_people).repeat_interleave(clips_per_person)
    scene = sample_scene(sample_identities(num_people, generator)[person], num_frames, generator)
    videos = []
    for index in range(scene.num_clips)[only]:
        part = scene.select(slice(index, index + 1))
        frames = np.ascontiguousarray(render(part, size_px)[0].permute(0, 2, 3, 1).numpy())
        who = f"person{seed:05d}-{int(person[index]):04d}"
        name = f"{who}__{index % clips_per_person:02d}"
        videos.append(ToyVideo(name, frames, {"identity": who, **_facts(part, size_px)}))
    return videos


def _facts(scene: Scene, size_px: int) -> dict[str, object]:
    """Say everything that is true of a scene of one clip."""
    boxes, landmarks = locate(scene.identity.expand(scene.pose.shape[1], -1), scene.pose[0], size_px)
    return {
        "attribute": looks(scene.attributes, 0),
        "action": f"a person {ACTIONS[scene.attributes.action[0]]}",
        "unified": caption(scene.attributes, 0),
        "truth": {
            "identity_vector": scene.identity[0].tolist(),
            "attributes": {name: int(value[0]) for name, value in scene.attributes._asdict().items()},
            "pose": scene.pose[0].tolist(),
            "boxes_px": boxes.tolist(),
            "landmarks_px": landmarks.tolist(),
        },
    }


def write_videos(folder: Path, videos: list[ToyVideo]) -> None:
    """Write `<name>.mp4` and `<name>.json` of every video into a new folder, which appears when all are there."""
    partial = _new_partial(folder)
    _write(partial, tqdm(videos, desc="film", unit="video"))
    partial.rename(folder)


def film_into(folder: Path, num_clips: int, make: Callable[[slice], list[ToyVideo]], workers: int) -> None:
    """Film and write with several processes; the folder appears when all videos are there.

    Args:
        folder: new.
        num_clips: how many there are.
        make: films a slice of them; must pickle.
        workers: processes, each of one thread.

    Raises:
        IdanimError: a process was lost; the folder does not appear.
    """
    partial = _new_partial(folder)
    parts = [slice(start, start + CLIPS_AT_ONCE) for start in range(0, num_clips, CLIPS_AT_ONCE)]
    # Spawned, not forked: torch has threads, which a forked child would inherit half-alive.
    context = multiprocessing.get_context("spawn")
    bar = tqdm(desc="film", unit="video", total=num_clips)
    try:
        with bar, ProcessPoolExecutor(min(workers, len(parts)), context, _start_worker) as pool:
            for number in pool.map(functools.partial(_film_and_write, partial, make), parts):
                bar.update(number)
    except BrokenProcessPool as error:
        raise IdanimError(
            f"{folder} is not made: a process was lost, perhaps for want of memory; try fewer --workers"
        ) from error
    partial.rename(folder)


def _start_worker() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)  # or each would take all cores


def _film_and_write(folder: Path, make: Callable[[slice], list[ToyVideo]], only: slice) -> int:
    videos = make(only)
    _write(folder, videos)
    return len(videos)


def _new_partial(folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _write(folder: Path, videos: Iterable[ToyVideo]) -> None:
    for video in videos:
        (folder / f"{video.name}.mp4").write_bytes(encode_mp4(video.frames, FPS))
        (folder / f"{video.name}.json").write_text(json.dumps(video.facts), encoding="utf-8")


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected 1 or more")
    return number


def main() -> None:
    """Write videos from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=_count, default=64)
    parser.add_argument("--clips", type=_count, default=3, help="of each person")
    parser.add_argument("--frames", type=_count, default=16)
    parser.add_argument("--size", type=_count, default=128, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=LARGEST_TRAINING_SEED + 1)
    parser.add_argument("--workers", type=_count, default=1, help="processes; the videos are the same for any number")
    arguments = parser.parse_args()
    if arguments.size % 2:
        parser.error(f"--size {arguments.size}: expected an even number of pixels, as H.264 needs")
    if arguments.folder.is_dir() and any(arguments.folder.iterdir()):
        print(f"{arguments.folder} is there already")
        return
    sizes = (arguments.people, arguments.clips, arguments.frames, arguments.size, arguments.seed)
    make = functools.partial(film, *sizes)
    if arguments.workers > 1:
        try:
            film_into(arguments.folder, arguments.people * arguments.clips, make, arguments.workers)
        except IdanimError as error:
            sys.exit(f"error: {error}")
    else:
        keep_freed_memory()
        write_videos(arguments.folder, make())


if __name__ == "__main__":
    main()
