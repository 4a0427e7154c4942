"""How fast curation is before captions, against the plain way: look for faces on every frame.

    python benchmarks/curation.py <folder of face videos> --root <faces.root> --pack <faces.pack>

Both ways run in this process, on one thread, alternating, on the same clips, which are made first: the folder's videos
brought to 1280 × 720, h264 with the usual long groups of pictures. Both have the same stages after detection. Times
are of the processor, so that other load on the machine matters less; wall times are written beside them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from idanim.config import CONF_DIR
from idanim.curate import make_curator
from idanim.curation.pipeline import Curator
from idanim.curation.run import curate_one
from idanim.curation.scan import FrameSampling
from idanim.curation.sources import SourceVideo, find_videos
from idanim.data.sample import ClipSample
from idanim.metrics.intervals import bootstrap_interval
from idanim.video import read_frames

WIDTH, HEIGHT, FPS = 1280, 720, 25
CELEBV_HQ_CLIPS = 35_666


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", type=Path)
    parser.add_argument("--root", required=True, help="faces.root")
    parser.add_argument("--pack", required=True, help="faces.pack")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of a clip")
    parser.add_argument("--det-size", type=int, default=640, help="faces.det_size, of both ways")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = make_curator(_settings(options.root, options.pack, options.det_size))
    plain = replace(ours, sampling=FrameSampling(detect_fps=1000, min_frames=1))
    with tempfile.TemporaryDirectory() as folder:
        clips = list(_make_clips(options.videos, Path(folder), options.rounds, options.seconds))
        print(f"{len(clips)} clips of {WIDTH} × {HEIGHT}, {options.seconds:g} s, {FPS} a second; medians of rounds")
        times: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
        for number, clip in enumerate(clips):
            order = [("plain", plain), ("ours", ours)]
            for name, curator in order if number % 2 else order[::-1]:
                times[name].append(_time(curator, clip))
            print(json.dumps({"clip": clip.name} | {name: times[name][-1] for name in times}), flush=True)
    _print_summary(times, options.seconds)


def _settings(root: str, pack: str, det_size: int) -> dict[str, object]:
    import yaml

    config = yaml.safe_load((CONF_DIR / "curate.yaml").read_text())
    faces = yaml.safe_load((CONF_DIR / "faces" / "insightface.yaml").read_text())
    return config | {"faces": faces | {"root": root, "pack": pack, "det_size": det_size}}


def _make_clips(source: Path, folder: Path, count: int, seconds: float) -> list[SourceVideo]:
    """Videos of the folder with one person, looped to the length wanted, in the middle of a 720p picture."""
    names = [video for video in find_videos(source) if video.name.startswith("person")]
    num_frames = round(seconds * FPS)
    made = []
    for video in islice(names, count):
        frames = read_frames(video.path, range(48))
        path = folder / f"{video.key}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(FPS), options={"threads": "1", "preset": "veryfast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for i in range(num_frames):
                back_and_forth = abs((i + len(frames)) % (2 * len(frames)) - len(frames))
                rgb = _fitted(frames[min(back_and_forth, len(frames) - 1)])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode(None))
        made.append(SourceVideo(path, path.name, video.key))
    return made


def _fitted(rgb: np.ndarray) -> np.ndarray:
    image = Image.fromarray(rgb)
    scale = min(WIDTH / image.width, HEIGHT / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    canvas = Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90))
    canvas.paste(image, ((WIDTH - image.width) // 2, (HEIGHT - image.height) // 2))
    return np.asarray(canvas)


def _time(curator: Curator, clip: SourceVideo) -> tuple[float, float]:
    """(processor seconds, wall seconds) of one clip, which must be accepted."""
    wall, processor = time.perf_counter(), time.process_time()
    outcome = curate_one(curator, clip)
    result = round(time.process_time() - processor, 3), round(time.perf_counter() - wall, 3)
    assert isinstance(outcome, ClipSample), outcome
    return result


def _print_summary(times: dict[str, list[tuple[float, float]]], seconds: float) -> None:
    for name, pairs in times.items():
        core = statistics.median(pair[0] for pair in pairs)
        wall = statistics.median(pair[1] for pair in pairs)
        print(
            f"{name:>6}: {core:.2f} core-seconds a clip ({wall:.2f} s wall), {1 / core:.3f} clips per core-second, "
            f"{seconds / core:.2f} seconds of video per core-second"
        )
    ratios = [plain[0] / ours[0] for plain, ours in zip(times["plain"], times["ours"], strict=True)]
    interval = bootstrap_interval(ratios, np.random.default_rng(0))
    print(f"ratio of core-seconds: median {statistics.median(ratios):.2f}, mean {interval.mean:.2f} "
          f"[{interval.low:.2f}, {interval.high:.2f}], n = {interval.n}")  # fmt: skip
    core = statistics.median(pair[0] for pair in times["ours"])
    print(
        f"{CELEBV_HQ_CLIPS:,} clips at this rate: {CELEBV_HQ_CLIPS * core / 3600:.0f} core-hours; "
        f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
