"""How fast videos are scored: all frames of a video in one go against plain per-frame loops.

    python benchmarks/scoring.py [--faces insightface --pack … --root …] [--size 256] [--videos 6] [--rounds 7]
    python benchmarks/scoring.py --device cuda --out <folder>      # the toy engine on a GPU; JSON into the folder

All ways take turns in one process, with the same networks and the same encoded videos. Printed are ratios of the
medians of the rounds. On a CPU time is processor time, everything on one thread, so load beside it changes little; on
a GPU it is time on the clock. The plain loops call the networks frame by frame and measure flow at full size:

- "one pass" decodes a video once: the mildest.
- "frame by frame" fetches each frame by itself with OpenCV (`cap.set(CAP_PROP_POS_FRAMES)`, `cap.read()`), finds its
  face and embeds it, as the published scripts of ConsisID do.
- "pass a family" decodes a video, and looks for its faces, again for each family of metrics (identity, copying,
  motion), as separate scripts for single metrics do.

"networks" is what a video's frames take in the networks alone, in one go: no way that runs every network on every frame
is faster than that.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from idanim.faces.engine import FaceEngine
from idanim.faces.insightface_engine import InsightFaceEngine
from idanim.files import write_json
from idanim.metrics.consistency import identity_drift, temporal_consistency
from idanim.metrics.copying import background_similarity, copy_paste, pose_similarity, view
from idanim.metrics.face_box import box_mask
from idanim.metrics.face_track import FaceTrack, sampled_frames, track_faces
from idanim.metrics.identity import (
    chance_similarity,
    detected_face_similarity,
    face_detection_rate,
    face_similarity,
    retrieval_rank1,
)
from idanim.metrics.people import Person, face_in_crop, with_views
from idanim.metrics.protocols import Judges
from idanim.metrics.scoring import score_video
from idanim.metrics.videos import VideoRecord
from idanim.toyworld.faces import ToyFaceEngine
from idanim.toyworld.make_videos import film
from idanim.toyworld.shipped import shipped
from idanim.types import Face, UInt8Array
from idanim.video import read_frames
from idanim.video_encoding import encode_mp4

NUM_SAMPLED = 16


def fetched(path: Path) -> UInt8Array:
    """All frames of a video, each looked up by its number."""
    video = cv2.VideoCapture(str(path))
    frames = []
    for index in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT))):
        video.set(cv2.CAP_PROP_POS_FRAMES, index)
        frames.append(cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2RGB))
    video.release()
    return np.stack(frames)


def look(
    engine: FaceEngine, path: Path, decode: Callable[[Path], UInt8Array] = read_frames
) -> tuple[UInt8Array, FaceTrack]:
    """Decode a video and find its faces, one frame after the other."""
    frames = decode(path)
    found, vectors, faces = [], [], []
    for index in sampled_frames(len(frames), NUM_SAMPLED):
        detected: list[Face] = engine.detect(frames[index])
        found.append(bool(detected))
        if detected:
            faces.append(detected[0])
            vectors.append(engine.embed(frames[index], detected[0]))
    stacked = np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)
    return frames, FaceTrack(np.array(found), stacked, tuple(faces))


def identity(track: FaceTrack, person: Person, others: list[Person]) -> list[float | None]:
    """The identity metrics."""
    strangers = [other.vectors for other in others]
    return [
        face_similarity(track, person.vectors),
        detected_face_similarity(track, person.vectors),
        face_detection_rate(track),
        chance_similarity(track, strangers),
        retrieval_rank1(track, person.vectors, strangers),
        identity_drift(track, person.vectors),
        temporal_consistency(track),
    ]


def copying(frames: UInt8Array, track: FaceTrack, person: Person) -> list[float | None]:
    """The metrics of copying."""
    seen = sampled_frames(len(frames), NUM_SAMPLED)[track.found]
    views = [view(frames[i], face.box, face.landmarks) for i, face in zip(seen, track.faces, strict=True)]
    return [
        copy_paste(track, person.vectors, person.other_pictures),
        pose_similarity(views, person.views),
        background_similarity(views, person.views),
    ]


def moving(frames: UInt8Array, track: FaceTrack) -> list[float]:
    """Motion of the whole picture and by region, pair by pair at full size."""
    diagonal = float(np.hypot(*frames.shape[1:3]))
    faces = iter(track.faces)
    sums: list[list[float]] = [[], [], []]
    for (a, b), found in zip(pairwise(frames), track.found[:-1], strict=True):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (a, b)]
        no_guess = np.zeros((*grey[0].shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(grey[0], grey[1], no_guess, 0.5, 3, 15, 3, 5, 1.2, 0)
        lengths = np.linalg.norm(flow, axis=-1) / diagonal
        sums[0].append(float(lengths.mean()))
        if found:
            mask = box_mask(lengths.shape, next(faces).box)
            sums[1].append(float(lengths[mask].mean()))
            sums[2].append(float(lengths[~mask].mean()))
    return [float(np.mean(part)) if part else 0.0 for part in sums]


def one_pass(
    engine: FaceEngine,
    path: Path,
    person: Person,
    others: list[Person],
    decode: Callable[[Path], UInt8Array] = read_frames,
) -> None:
    """All figures of a video, its faces looked for once, frame by frame."""
    frames, track = look(engine, path, decode)
    identity(track, person, others)
    copying(frames, track, person)
    moving(frames, track)


def pass_a_family(engine: FaceEngine, path: Path, person: Person, others: list[Person]) -> None:
    """All figures of a video, as one script for each family of metrics makes them."""
    identity(look(engine, path)[1], person, others)
    copying(*look(engine, path), person)
    moving(*look(engine, path))


def make_people(engine: FaceEngine, films: list[UInt8Array], strangers: int) -> dict[str, Person]:
    """A person for each pair of clips, and strangers with random vectors."""
    people = {}
    for number, (first, second) in enumerate(zip(films[::2], films[1::2], strict=True)):
        vectors = []
        for frames in (first, second):
            found = face_in_crop(engine, frames[0])
            if found is None:
                raise SystemExit(f"{engine.name} finds no face in the benchmark's videos")
            vectors.append(engine.embed(*found[:2])[None])
        name = f"person{number}"
        people[name] = with_views(Person(name, (first[0],), vectors[0], tuple(vectors), "made"), engine)
    random = np.random.default_rng(0).normal(size=(strangers, 1, vectors[0].shape[1])).astype(np.float32)
    for number, vector in enumerate(random):
        name = f"stranger{number}"
        people[name] = Person(name, (), vector, (vector,), "made", is_stranger=True)
    return people


def seconds(function: Callable[[], object], on_gpu: bool) -> float:
    """Processor time of a call; on a GPU time on the clock, as the processor waits there."""
    clock = time.perf_counter if on_gpu else time.process_time
    start = clock()
    function()
    return clock() - start


def real_films(folder: Path, size: int, count: int) -> list[UInt8Array]:
    """The first 16 frames of mp4 files, two clips of each person `<person>__<clip>.mp4`, shrunk to a square."""
    people: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*__*.mp4")):
        people.setdefault(path.name.partition("__")[0], []).append(path)
    chosen = [path for paths in people.values() if len(paths) > 1 for path in paths[:2]][: 2 * count]
    return [
        np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in read_frames(p, range(16))])
        for p in chosen
    ]


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", choices=["toy", "insightface"], default="toy")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pack", default="buffalo_l")
    parser.add_argument("--root", default="~/.insightface")
    parser.add_argument("--clips", type=Path, help="folder of real clips, for insightface")
    parser.add_argument("--size", type=int, default=32, help="side of the videos in pixels")
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--strangers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for scoring.json")
    return parser.parse_args()


def engine_and_films(options: argparse.Namespace) -> tuple[FaceEngine, list[UInt8Array]]:
    """The engine, and two films of each person."""
    if options.faces == "toy":
        films = [v.frames for v in film(options.videos, 2, NUM_SAMPLED, options.size, seed=20_500)]
        return ToyFaceEngine(shipped("faces"), device=options.device), films
    if options.clips is None:
        raise SystemExit("--faces insightface needs --clips <folder of clips of real people>")
    engine = InsightFaceEngine(options.pack, options.root, device=options.device)
    return engine, real_films(options.clips, options.size, options.videos)


def measure(
    engine: FaceEngine, paths: list[Path], people: dict[str, Person], rounds: int, on_gpu: bool
) -> dict[str, float]:
    """Median seconds of each way for all videos."""
    shown = [person for person in people.values() if not person.is_stranger]
    decoded = [read_frames(path) for path in paths]

    def one_go() -> None:
        for path, person in zip(paths, shown, strict=True):
            record = VideoRecord("a person", person.identity)
            score_video(path.name, record, read_frames(path), people, Judges(engine), NUM_SAMPLED)

    def networks() -> None:
        for frames in decoded:
            track_faces(engine, frames, NUM_SAMPLED)

    def plain(score: Callable[[FaceEngine, Path, Person, list[Person]], None]) -> None:
        for path, person in zip(paths, shown, strict=True):
            score(engine, path, person, [other for other in people.values() if other is not person])

    ways = {
        "in one go": one_go,
        "one pass": functools.partial(plain, one_pass),
        "frame by frame": functools.partial(plain, functools.partial(one_pass, decode=fetched)),
        "pass a family": functools.partial(plain, pass_a_family),
        "networks": networks,
    }
    for way in ways.values():
        way()
    times = [[seconds(way, on_gpu) for way in ways.values()] for _ in range(rounds)]
    return dict(zip(ways, map(statistics.median, zip(*times, strict=True)), strict=True))


def main() -> None:
    """Measure and print."""
    options = arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    engine, films = engine_and_films(options)
    people = make_people(engine, films, options.strangers)
    names = [person.identity for person in people.values() if not person.is_stranger]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{name}.mp4") for name in names]
        for path, frames in zip(paths, films[1::2], strict=True):
            path.write_bytes(encode_mp4(frames, 8))
        medians = measure(engine, paths, people, options.rounds, options.device != "cpu")
    count = len(paths)
    print(f"{engine.name} on {options.device}, {count} videos of {NUM_SAMPLED} frames at {options.size} px, ", end="")
    print(f"{len(people)} people, medians of {options.rounds} rounds")
    for name, median in medians.items():
        ratio = median / medians["in one go"]
        print(f"{name:15} {count / median:8.2f} videos/s {1e3 * median / count:8.1f} ms   {ratio:5.2f} × the time")
    if options.out is not None:
        content = {"engine": engine.name, "device": options.device, "size": options.size, "videos": count}
        write_json(
            options.out / "scoring.json", content | {"seconds_a_video": {n: m / count for n, m in medians.items()}}
        )


if __name__ == "__main__":
    main()
