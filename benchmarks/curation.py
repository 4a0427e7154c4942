"""How fast curation is before captions, against two plain ways, and how much memory a worker takes.

    python benchmarks/curation.py <folder of face videos> --root <faces.root> --pack <faces.pack>

- `ours`: the pipeline as it is.
- `every frame`: the same code, but faces are looked for on every frame.
- `libraries`: what one writes with the libraries alone, in their default settings: PySceneDetect over the file, then
  insightface's `FaceAnalysis.get` (detection and vector) on every frame, crops by Pillow, x264's own preset.

All run in this process, on one thread, alternating, on the same clips, which are made first: the folder's videos
brought to 1280 × 720, h264 with the usual long groups of pictures. Times are of the processor, so that other load on
the machine matters less; wall times are written beside them. Memory is that of a process of its own for each video.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from idanim.config import CONF_DIR
from idanim.curate import make_curator
from idanim.curation.decision import Decision
from idanim.curation.run import curate_one
from idanim.curation.scan import FrameSampling
from idanim.curation.sources import SourceVideo, clip_key, find_videos
from idanim.faces.align import aligned_crop
from idanim.metrics.intervals import bootstrap_interval
from idanim.pictures import encode_jpeg
from idanim.video import decode, read_frames
from idanim.video_encoding import encode_mp4

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
    parser.add_argument("--long-s", type=float, default=600.0, help="length of the long video for the memory")
    parser.add_argument("--det-size", type=int, default=640, help="faces.det_size, of all ways")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = _settings(options.root, options.pack, options.det_size)
    ours = make_curator(settings)
    every_frame = replace(ours, sampling=FrameSampling(detect_fps=1000, min_frames=1))
    ways: dict[str, Callable[[SourceVideo], object]] = {
        "libraries": PlainWay(settings).curate,
        "every frame": functools.partial(curate_one, every_frame),
        "ours": functools.partial(curate_one, ours),
    }
    with tempfile.TemporaryDirectory() as folder:
        suited = (video for video in find_videos(options.videos) if not isinstance(curate_one(ours, video), Decision))
        clips = _make_clips(islice(suited, options.rounds), Path(folder), options.seconds)
        if not clips:
            parser.error(f"{options.videos}: no video in it is accepted by curation")
        print(f"{len(clips)} clips of {WIDTH} × {HEIGHT}, {options.seconds:g} s, {FPS} a second; medians of rounds")
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number, clip in enumerate(clips):
            for name in sorted(ways, reverse=bool(number % 2)):
                times[name].append(_time(ways[name], clip))
            print(json.dumps({"clip": clip.name} | {name: times[name][-1] for name in ways}), flush=True)
        _print_summary(times, options.seconds)
        long = _repeated(clips[0].path, Path(folder) / "long.mp4", options.long_s)
        real = [video.path for video in find_videos(options.videos)]
        for title, path in (
            (f"{WIDTH} × {HEIGHT}, {options.seconds:g} s", clips[0].path),
            (f"{WIDTH} × {HEIGHT}, {options.long_s:g} s", long),
            ("largest file of the folder", max(real, key=lambda path: path.stat().st_size)),
        ):
            start_mb, peak_mb = _memory(settings, path)
            print(f"memory of a worker, {title}: {start_mb:.0f} MiB with models loaded, {peak_mb:.0f} MiB at most")


def _settings(root: str, pack: str, det_size: int) -> dict[str, Any]:
    import yaml

    config = yaml.safe_load((CONF_DIR / "curate.yaml").read_text())
    faces = yaml.safe_load((CONF_DIR / "faces" / "insightface.yaml").read_text())
    return config | {"faces": faces | {"root": root, "pack": pack, "det_size": det_size}}


def _make_clips(videos: Iterable[SourceVideo], folder: Path, seconds: float) -> list[SourceVideo]:
    """The beginnings of videos, back and forth to the length wanted, in the middle of a 720p picture."""
    num_frames = round(seconds * FPS)
    made = []
    for video in videos:
        frames = read_frames(video.path)[:48]
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


class PlainWay:
    """Curation by the libraries alone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import onnxruntime
        from insightface.app import FaceAnalysis

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        faces = settings["faces"]
        folder = Path(faces["root"]).expanduser() / "models" / faces["pack"]
        modules = ["detection", "recognition"]
        self._faces = FaceAnalysis(
            str(folder), allowed_modules=modules, providers=["CPUExecutionProvider"], sess_options=options
        )
        self._faces.prepare(-1, det_thresh=faces["det_threshold"], det_size=(faces["det_size"], faces["det_size"]))
        self._clip = settings["clip"]

    def curate(self, clip: SourceVideo) -> object:
        """The clip's mp4 and five face crops."""
        import scenedetect

        scenedetect.detect(str(clip.path), scenedetect.AdaptiveDetector())
        size, frames, crops = self._clip["size"], [], []
        for _, rgb in decode(clip.path):
            found = self._faces.get(rgb[..., ::-1])
            if len(found) == 1:
                crops.append(aligned_crop(rgb, found[0].kps, 224))
            if len(frames) < self._clip["max_frames"]:
                side = min(rgb.shape[:2])
                left, top = (rgb.shape[1] - side) // 2, (rgb.shape[0] - side) // 2
                box = (left, top, left + side, top + side)
                frames.append(Image.fromarray(rgb).resize((size, size), Image.Resampling.BICUBIC, box=box))
        assert len(crops) >= 5
        pictures = [encode_jpeg(crop, 95) for crop in crops[:: len(crops) // 5]]
        return encode_mp4(np.stack([np.asarray(frame) for frame in frames]), FPS), pictures


def _time(curate: Callable[[SourceVideo], object], clip: SourceVideo) -> tuple[float, float]:
    """(processor seconds, wall seconds) of one clip, which must be accepted."""
    wall, processor = time.perf_counter(), time.process_time()
    outcome = curate(clip)
    result = round(time.process_time() - processor, 3), round(time.perf_counter() - wall, 3)
    assert not isinstance(outcome, Decision), outcome
    return result


def _repeated(source: Path, target: Path, seconds: float) -> Path:
    """A video of the length wanted: the packets of a short one again and again."""
    with av.open(str(source)) as given, av.open(str(target), "w") as container:
        stream = given.streams.video[0]
        copy = container.add_stream_from_template(stream)
        packets = [
            (packet.pts, packet.dts, bytes(packet), packet.is_keyframe) for packet in given.demux(stream) if packet.size
        ]
        length = max(pts for pts, *_ in packets) + int(1 / FPS / stream.time_base)
        for i in range(round(seconds / (length * stream.time_base))):
            for pts, dts, content, is_keyframe in packets:
                packet = av.Packet(content)
                packet.stream, packet.time_base, packet.is_keyframe = copy, stream.time_base, is_keyframe
                packet.pts, packet.dts = pts + i * length, dts + i * length
                container.mux(packet)
    return target


def _memory(settings: dict[str, Any], path: Path) -> tuple[float, float]:
    """(with models loaded, at most) of a process that curates one video, in MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, settings, path).result()


def _peak(settings: dict[str, Any], path: Path) -> tuple[float, float]:
    torch.set_num_threads(1)
    curator = make_curator(settings)
    before = _memory_mb("VmRSS")
    outcome = curate_one(curator, SourceVideo(path, path.name, clip_key(path.name)))
    assert not isinstance(outcome, Decision) or outcome.reason != "internal_error", outcome
    return before, _memory_mb("VmHWM")


def _memory_mb(what: str) -> float:
    # Not from getrusage, whose maximum counts the parent process before this one took its place.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def _print_summary(times: dict[str, list[tuple[float, float]]], seconds: float) -> None:
    for name, pairs in times.items():
        core = statistics.median(pair[0] for pair in pairs)
        wall = statistics.median(pair[1] for pair in pairs)
        print(
            f"{name:>11}: {core:.2f} core-seconds a clip ({wall:.2f} s wall), {1 / core:.3f} clips per core-second, "
            f"{seconds / core:.2f} seconds of video per core-second"
        )
    for other in ("every frame", "libraries"):
        ratios = [plain[0] / ours[0] for plain, ours in zip(times[other], times["ours"], strict=True)]
        line = f"core-seconds of {other} over ours: median {statistics.median(ratios):.2f}"
        if len(ratios) > 1:
            interval = bootstrap_interval(ratios, np.random.default_rng(0))
            line += f", mean {interval.mean:.2f} [{interval.low:.2f}, {interval.high:.2f}], n = {interval.n}"
        print(line)
    core = statistics.median(pair[0] for pair in times["ours"])
    print(f"{CELEBV_HQ_CLIPS:,} clips at this rate: {CELEBV_HQ_CLIPS * core / 3600:.0f} core-hours")


if __name__ == "__main__":
    main()
