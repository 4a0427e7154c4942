"""Latents of every clip: is encoding bound by the VAE, and are the next videos decoded meanwhile?

    python benchmarks/latents.py [--clips 32] [--size small|full] [--device cpu|cuda] [--output outputs/bench]

Shards of random clips (mp4, 16 frames of 512²) go through the project's own data module, in turns without reading
ahead, with one decoder beside the encoder, and with `--decoders` of them. Two encoders: the VAE (at `small`,
scaled-down widths and 64 px), and one that takes the time of a VAE but no processor, as a GPU looks to its host:
simulated, for machines without one. Written are a JSON and a picture of when what was busy. First of all, all ways
must write the same latents byte for byte.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from full_size import FULL, SMALL, build_backbone
from loader import make_shards
from measure import Ratio, alternate, ratio, table, wall_clock, write_json
from torch import Tensor

from idanim.data import clip_cache, references
from idanim.data.clip_cache import FrameWindow
from idanim.data.datamodule import ClipDataModule
from idanim.data.latents import VideoEncoder
from idanim.data.read_ahead import read_ahead
from idanim.video_encoding import encode_mp4

matplotlib.use("Agg")
from matplotlib import pyplot  # after its backend was chosen

VIDEO_PX, NUM_FRAMES, SMALL_PX = 512, 16, 64
AHEAD, ONE, AT_ONCE = "read ahead", "read ahead by one decoder", "one after the other"
FULL_WINDOW = FrameWindow(NUM_FRAMES, 1, VIDEO_PX, VIDEO_PX)
Interval = tuple[float, float]


@dataclass
class Trace:
    """When what was busy, in seconds of one clock."""

    decoding: list[Interval] = field(default_factory=list)
    encoding: list[Interval] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Clips a second, and shares of the time from the first to the last busy moment."""
        begin = min(start for start, _ in self.decoding)
        total = max(end for _, end in self.encoding) - begin
        decoding, encoding = length(self.decoding), length(self.encoding)
        return {
            "clips/s": len(self.encoding) / total,
            "encoder busy": encoding / total,
            "decoders busy": decoding / total,
            "of decoding, beside the encoder": overlap(self.decoding, self.encoding) / decoding,
        }


def length(intervals: Sequence[Interval]) -> float:
    """Seconds in all."""
    return sum(end - start for start, end in intervals)


def overlap(some: Sequence[Interval], others: Sequence[Interval]) -> float:
    """Seconds of `some` that lie in `others`, of which none overlap."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in some for b in others)


@dataclass(frozen=True)
class TimedWindow(FrameWindow):
    """Notes when clips are decoded."""

    trace: Trace = field(default_factory=Trace, compare=False)

    def read(self, video: bytes) -> Tensor:
        """As its base class."""
        start = time.perf_counter()
        pixels = super().read(video)
        self.trace.decoding.append((start, time.perf_counter()))
        return pixels


class TimedEncoder:
    """Notes when an encoder is busy."""

    def __init__(self, encoder: VideoEncoder, trace: Trace) -> None:
        self.encoder, self.trace = encoder, trace
        self.latent_fingerprint = encoder.latent_fingerprint

    def to(self, device: torch.device) -> None:
        """It stays where it is."""

    def encode_video(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """As the encoder, to the end of its work."""
        start = wall_clock()
        mean, std = self.encoder.encode_video(pixels)
        self.trace.encoding.append((start, wall_clock()))
        return mean, std


class WaitingEncoder:
    """Takes a set time without a processor, and every eighth pixel."""

    latent_fingerprint = "waiting"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def to(self, device: torch.device) -> None:
        """It has no weights."""

    def encode_video(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std, each [B, 3, F, h, w]."""
        cells = pixels[..., ::8, ::8]
        time.sleep(self.seconds)
        return cells.transpose(1, 2), torch.ones_like(cells.transpose(1, 2))


def encode(shards: Path, encoder: VideoEncoder, side_px: int, decoders: int) -> tuple[Trace, list[bytes]]:
    """Encode all clips as a training run does; what was busy when, and what was written."""
    depth = decoders and decoders + 1
    clip_cache.read_ahead = lambda clips, read, *_: read_ahead(clips, read, depth, max(1, decoders))
    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        timed = TimedEncoder(encoder, trace)
        data = ClipDataModule(str(shards), timed, references.random_reference, 224, latents=folder)
        data.window = TimedWindow(NUM_FRAMES, 1, side_px, side_px, trace)
        with redirect_stderr(StringIO()):  # a progress bar a round
            data.prepare_data()
        return trace, [file.read_bytes() for file in sorted(Path(folder).rglob("*.safetensors"))]


def compare(
    shards: Path, encoder: VideoEncoder, side_px: int, rounds: int, decoders: int
) -> tuple[dict[str, list[Trace]], dict[str, Ratio]]:
    """All ways in turns; their traces, and how many times as fast as one after the other those ahead are."""
    written: list[list[bytes]] = []
    ways = {AT_ONCE: 0, ONE: 1, AHEAD: decoders}
    traces: dict[str, list[Trace]] = {name: [] for name in ways}

    def way(name: str) -> None:
        trace, files = encode(shards, encoder, side_px, ways[name])
        traces[name].append(trace)
        written.append(files)

    times = alternate({name: partial(way, name) for name in ways}, rounds)
    if any(files != written[0] for files in written):
        raise SystemExit("the latents depend on whether clips are read ahead")
    ratios = {name: ratio(times[AT_ONCE], times[name]) for name in (ONE, AHEAD)}
    return {name: all_of[-rounds:] for name, all_of in traces.items()}, ratios


def lanes(intervals: Sequence[Interval]) -> list[list[Interval]]:
    """The fewest rows in which none overlap."""
    rows: list[list[Interval]] = []
    for start, end in sorted(intervals):
        free = next((row for row in rows if row[-1][1] <= start), None)
        if free is None:
            rows.append(free := [])
        free.append((start, end))
    return rows


def draw(traces: dict[str, dict[str, Trace]], path: Path, most_clips: int = 8) -> None:
    """When decoders and encoder were busy with the first clips: a column for each encoder, a row for each way."""
    num_ways = len(next(iter(traces.values())))
    size = (5 * len(traces), 1.2 * num_ways + 0.4)
    figure, axes = pyplot.subplots(num_ways, len(traces), figsize=size, squeeze=False, sharex="col")
    for column, (what, ways) in enumerate(traces.items()):
        for axis, (way, trace) in zip(axes[:, column], ways.items(), strict=True):
            begin = min(trace.decoding)[0]
            rows = [sorted(trace.encoding)[:most_clips], *lanes(sorted(trace.decoding)[:most_clips])]
            for height, intervals in enumerate(rows):
                bars = [(start - begin, end - start) for start, end in intervals]
                axis.broken_barh(bars, (height + 0.1, 0.8), facecolors=f"C{min(height, 1)}", edgecolor="white")
            axis.set_yticks([0.5, 0.5 + len(rows) / 2], ["VAE", "decoding"])
            axis.set_title(f"{what}: {way}", fontsize=9, loc="left")
        axes[-1, column].set_xlabel("seconds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> None:
    """Measure, print, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--waiting-ms", type=float, default=50.0, help="time of the simulated encoder for a clip")
    parser.add_argument("--decoders", type=int, default=clip_cache.num_decoders(FULL_WINDOW), help="as a run has them")
    parser.add_argument("--name", default="latents")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, side_px = (SMALL, SMALL_PX) if options.size == "small" else (FULL, FULL.side_px)
    device = torch.device(options.device)
    backbone = build_backbone(sizes, device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    encoders: dict[str, tuple[VideoEncoder, int]] = {
        f"{options.size} VAE, {options.device}": (backbone, side_px),
        f"simulated, {options.waiting_ms:g} ms": (WaitingEncoder(options.waiting_ms / 1000), side_px),
    }
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Ratio] = {}
    drawn: dict[str, dict[str, Trace]] = {}
    with tempfile.TemporaryDirectory() as name:
        noise = np.random.default_rng(0).integers(0, 255, (VIDEO_PX // 8, VIDEO_PX // 8, 3), dtype=np.uint8)
        picture = noise.repeat(8, 0).repeat(8, 1)
        video = encode_mp4(np.stack([np.roll(picture, i, 1) for i in range(NUM_FRAMES)]), 25)
        make_shards(Path(name), options.clips, FrameWindow(NUM_FRAMES, 1, 8, 8), video)
        for what, (encoder, side) in encoders.items():
            traces, faster = compare(Path(name), encoder, side, options.rounds, options.decoders)
            ratios |= {f"{what}: {way}": value for way, value in faster.items()}
            for way, all_of in traces.items():
                figures = [trace.figures() for trace in all_of]
                medians = {key: statistics.median(f[key] for f in figures) for key in figures[0]}
                rows.append({"encoder": what, "way": way} | medians)
                drawn.setdefault(what, {})[way] = all_of[-1]
            shown = "; ".join(f"{way} {value}" for way, value in faster.items())
            print(table(rows[-3:]), f"times as fast: {shown}", sep="\n", flush=True)
    picture_path = options.output / f"{options.name}.png"
    draw(drawn, picture_path)
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} core(s), {options.decoders} decoder(s); {picture_path}")
    write_json(
        options.output / f"{options.name}.json",
        {"cores": cores, "decoders": options.decoders, "rows": rows, "ratios": ratios},
    )


if __name__ == "__main__":
    main()
