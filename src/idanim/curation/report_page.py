"""`report.html`: one file that shows what a run did, with histograms and pictures; it needs no network."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from idanim.curation.chance import place
from idanim.curation.decision import REASONS
from idanim.curation.results import Result
from idanim.data.sample import ClipMeta, ClipSample
from idanim.files import write_text

MAX_ACCEPTED = 24
MAX_REJECTED = 6
"""Videos shown for each reason."""
NUM_BINS = 30
_FRAME_PX, _FACE_PX = 128, 56

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Histogram:
    """Counts of a measured value.

    Attributes:
        title: what is measured.
        counts: values in each of `NUM_BINS` bins of equal width.
        low: left end of the first bin.
        high: right end of the last bin.
        median: of all values.
    """

    title: str
    counts: tuple[int, ...]
    low: float
    high: float
    median: float

    @classmethod
    def of(cls, title: str, values: Sequence[float]) -> Histogram:
        """Count values, at least one."""
        counts, edges = np.histogram(values, NUM_BINS)
        return cls(title, tuple(counts.tolist()), float(edges[0]), float(edges[-1]), float(np.median(values)))


def write_page(output: Path, results: Sequence[Result], engine: str) -> None:
    """Write `report.html`.

    Args:
        output: the folder of the shards.
        results: one a video.
        engine: name of the face engine.

    Raises:
        OSError: it can't be written.
    """
    accepted = [result for result in results if result.decision.accepted]
    by_reason: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if result.decision.reason:
            by_reason[result.decision.reason].append(result)
    rejected = [
        {
            "reason": reason,
            "meaning": REASONS[reason],
            "count": len(of_reason),
            "videos": [_rejected(result) for result in _some(of_reason, MAX_REJECTED)],
        }
        for reason, of_reason in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    page = _TEMPLATES.get_template("report.html.j2").render(
        engine=engine,
        num_videos=len(results),
        num_accepted=len(accepted),
        rejected=rejected,
        histograms=histograms(result.meta() for result in accepted),
        accepted=[_accepted(result.sample()) for result in _some(accepted, MAX_ACCEPTED)],
    )
    write_text(output / "report.html", page)


def histograms(metas: Iterable[ClipMeta]) -> list[Histogram]:
    """Face size, pose, blur and likeness within a clip over the faces of accepted clips, and the clips' length."""
    values: dict[str, list[float]] = defaultdict(list)
    for meta in metas:
        own = [face for face in meta.faces if face.clip == meta.key and face.role == "pool"]
        vectors = np.array([face.embedding for face in own])
        values["clip length (frames)"].append(meta.num_frames)
        values["face size (px, shorter side of the box)"] += [face.size_px for face in own]
        values["yaw (degrees)"] += [face.yaw_deg for face in own]
        values["pitch (degrees)"] += [face.pitch_deg for face in own]
        values["sharpness (variance of the Laplacian)"] += [face.blur for face in own]
        if len(own) > 1:
            pairs = np.triu_indices(len(own), 1)
            values["similarity of two faces of one clip (cosine)"] += (vectors @ vectors.T)[pairs].tolist()
    return [Histogram.of(title, numbers) for title, numbers in values.items() if numbers]


def _some(results: Sequence[Result], limit: int) -> list[Result]:
    """So many at random, but the same ones each time."""
    return sorted(results, key=lambda result: place(0, f"shown {result.decision.key}"))[:limit]


def _accepted(sample: ClipSample) -> dict[str, object]:
    meta = sample.meta
    own = [i for i, face in enumerate(meta.faces) if face.clip == meta.key and face.role == "pool"]
    return {
        "source": meta.source,
        "identity": meta.identity,
        "frame": _data_uri(_shrunk(sample.first_frame, _FRAME_PX)),
        "faces": [_data_uri(_shrunk(sample.faces[i], _FACE_PX)) for i in own[:5]],
        "captions": meta.captions,
    }


def _rejected(result: Result) -> dict[str, object]:
    picture = _data_uri(result.picture.read_bytes()) if result.picture.is_file() else None
    return {"source": result.decision.source, "text": result.decision.text, "picture": picture}


def _shrunk(jpeg: bytes, side_px: int) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(jpeg)) as image:
        image.draft("RGB", (2 * side_px, 2 * side_px))
        image.thumbnail((side_px, side_px))
        image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
