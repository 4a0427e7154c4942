"""Film people of the toy world: `python -m idanim.toyworld.make_videos <folder>`, as input for curation.

Every video `<person>__<clip>.mp4` comes with a JSON file of its captions and of everything that is true of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from idanim.toyworld.captions import caption, looks
from idanim.toyworld.people import ACTIONS, Scene, sample_identities, sample_scene
from idanim.toyworld.renderer import locate, render
from idanim.types import UInt8Array
from idanim.video_encoding import encode_mp4

FPS = 8.0
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


def film(num_people: int, clips_per_person: int, num_frames: int, size_px: int, seed: int) -> list[ToyVideo]:
    """Film every person several times, in other clothes and places.

    Args:
        num_people: persons.
        clips_per_person: videos of each.
        num_frames: frames of a video.
        size_px: width and height.
        seed: of people and everything else; above LARGEST_TRAINING_SEED for people unknown to the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    person = torch.arange(num_people).repeat_interleave(clips_per_person)
    scene = sample_scene(sample_identities(num_people, generator)[person], num_frames, generator)
    videos = []
    for index in range(scene.num_clips):
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
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for video in tqdm(videos, desc="film", unit="video"):
        (partial / f"{video.name}.mp4").write_bytes(encode_mp4(video.frames, FPS))
        (partial / f"{video.name}.json").write_text(json.dumps(video.facts), encoding="utf-8")
    partial.rename(folder)


def main() -> None:
    """Write videos from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--clips", type=int, default=3, help="of each person")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=128, help="width and height in pixels")
    parser.add_argument("--seed", type=int, default=LARGEST_TRAINING_SEED + 1)
    arguments = parser.parse_args()
    if arguments.folder.is_dir() and any(arguments.folder.iterdir()):
        print(f"{arguments.folder} is there already")
        return
    videos = film(arguments.people, arguments.clips, arguments.frames, arguments.size, arguments.seed)
    write_videos(arguments.folder, videos)


if __name__ == "__main__":
    main()
