"""Other benchmarks' definitions, with their flaws, so that figures can stand beside published ones. F frames.

What is wrong with a definition is kept, because the published figures have it, and is said beside every figure.
A figure whose model can't be had is None. For figures to trust take idanim's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol

import cv2
import numpy as np

from idanim.faces.engine import FaceEngine
from idanim.metrics.identity import unit
from idanim.metrics.text_alignment import ClipScorer
from idanim.types import FloatArray, UInt8Array

Figures = dict[str, float | None]
CURRICULAR_MISSING = "FaceSim-Cur needs CurricularFace IR-101 (glint360k), whose weights are not part of idanim"
ALIGNMENT = (
    "faces are aligned by this engine's antialiased crop, theirs by insightface's bilinear one: expect differences in "
    "the third decimal"
)


class PromptReader(Protocol):
    """Reads in a video what a prompt asks for: a classifier in place of CLIP, for worlds whose words are few."""

    @property
    def name(self) -> str:
        """Reader and weights; figures of different names never compare."""
        ...

    def read(self, frames: UInt8Array, prompt: str) -> tuple[float | None, float | None]:
        """Compare a video with its prompt.

        Args:
            frames: [F, H, W, 3] uint8 RGB.
            prompt: what it was asked to show.

        Returns:
            Share of the asked attributes that are read right, mean over frames; and 1 or 0, whether the action is.
            Each in [0, 1], None where nothing is asked.
        """
        ...


@dataclass(frozen=True)
class Judges:
    """The models that a protocol may use.

    Attributes:
        engine: finds and embeds faces.
        clip: scores texts; None where none is configured.
        reader: reads what prompts ask for; None where none is configured.
    """

    engine: FaceEngine
    clip: ClipScorer | None = None
    reader: PromptReader | None = None


class EvaluationProtocol(Protocol):
    """Somebody's definitions of metrics."""

    @property
    def name(self) -> str:
        """Of the benchmark."""
        ...

    @property
    def flaws(self) -> tuple[str, ...]:
        """What is wrong with its definitions, kept here."""
        ...

    @property
    def departures(self) -> tuple[str, ...]:
        """What is not as there: models to choose, and figures that are None."""
        ...

    def score(
        self, frames: UInt8Array, prompt: str, references: Mapping[str, FloatArray], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video against each of some people.

        Args:
            frames: [F, H, W, 3] uint8 RGB, all of them.
            prompt: what it was asked to show.
            references: person → face vector [D] of the first reference.
            judges: the models.

        Returns:
            Person → figure → value.
        """
        ...


@dataclass(frozen=True)
class Idanim:
    """The project's own definitions: every evaluation reports them, so there is nothing to add."""

    name: ClassVar[str] = "idanim"
    flaws: ClassVar[tuple[str, ...]] = ()
    departures: ClassVar[tuple[str, ...]] = ()

    def score(
        self, frames: UInt8Array, prompt: str, references: Mapping[str, FloatArray], judges: Judges
    ) -> dict[str, Figures]:
        """Nothing; see `EvaluationProtocol.score`."""
        return {person: {} for person in references}


@dataclass(frozen=True)
class ConsisId:
    """ConsisID (arXiv 2411.17440): `eval/get_facesim_fid.py` and `eval/get_clipscore.py` of its repository.

    - `face_sim_arc`: max(0, cos) of the largest face and the reference, mean over 16 frames with a face; 0 for none.
      A frame without a face is tried again with a grey border of a quarter of its sides.
    - `clip_score`: logit scale · cos, mean over 16 frames, fed with red and blue swapped.
    - `face_sim_cur`, `fid`: None.
    """

    num_frames: int = 16
    name: ClassVar[str] = "consisid"
    flaws: ClassVar[tuple[str, ...]] = (
        "frames without a face are dropped: a video with one good frame scores like one of sixteen",
        "negative similarities count 0, which lifts videos of nobody in particular",
        "CLIP sees the frames with red and blue swapped",
        "FID compares one face with one reference, a squared distance of features and no FID; without a face it is 0, "
        "the best value",
        "a video shorter than sixteen frames counts some frames twice",
    )
    departures: ClassVar[tuple[str, ...]] = (
        "the published figures are of insightface/buffalo_l: faces=insightface faces.pack=buffalo_l "
        "faces.det_size=320 faces.det_threshold=0.5; and of CLIP ViT-B/32: scoring.clip=<folder>",
        ALIGNMENT,
        CURRICULAR_MISSING,
        "FID needs torchvision's Inception v3, which is not part of idanim",
    )

    def score(
        self, frames: UInt8Array, prompt: str, references: Mapping[str, FloatArray], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video; see `EvaluationProtocol.score`."""
        faces = _face_vectors(frames[_truncated_linspace(len(frames), self.num_frames)], judges.engine)
        clip_score = None
        if judges.clip is not None:
            chosen = [int(i * len(frames) / self.num_frames) for i in range(self.num_frames)]
            swapped = np.ascontiguousarray(frames[chosen][..., ::-1])
            cosines = judges.clip.picture_features(swapped) @ judges.clip.text_features(prompt)
            clip_score = float(judges.clip.logit_scale * cosines.mean(dtype=np.float64))
        return {
            person: {
                "face_sim_arc": _mean(_clamped_similarities(faces, reference)),
                "face_sim_cur": None,
                "fid": None,
                "clip_score": clip_score,
            }
            for person, reference in references.items()
        }


@dataclass(frozen=True)
class OpenS2V:
    """OpenS2V-Eval, human domain (arXiv 2505.20292): `eval/get_facesim.py` and `eval/get_motionscore.py`.

    - `face_sim_arc`: as ConsisID's, over 32 frames.
    - `motion_amplitude`: |mean over frames, places and both directions of the signed flow|, in pixels, of flow maps
      shrunk to a width of 16; the grey pictures are made with the weights of red and blue swapped.
    - `face_sim_cur`, the leaderboard's FaceSim, and the other parts of its total: None.
    """

    num_frames: int = 32
    name: ClassVar[str] = "opens2v"
    flaws: ClassVar[tuple[str, ...]] = (
        "frames without a face are dropped, and negative similarities count 0",
        "FaceSim-Cur also drops frames whose similarity is exactly 0, so a video of nobody can't score 0 by them; the "
        "same was meant for FaceSim-Arc, but a list is compared with 0 there",
        "MotionAmplitude averages signed flow, so a head that shakes by ±3 px scores 0",
        "MotionAmplitude weighs red as blue and blue as red, and is in pixels: larger videos move more",
    )
    departures: ClassVar[tuple[str, ...]] = (
        "the published figures are of other models: its ArcFace is insightface/buffalo_l at faces.det_size=320 "
        "faces.det_threshold=0.5",
        ALIGNMENT,
        CURRICULAR_MISSING,
        "the leaderboard scales MotionAmplitude by bounds that its code does not hold; here it is raw",
        "Aesthetics, MotionSmoothness, GmeScore and NaturalScore need models that are not part of idanim, so there is "
        "no total",
    )

    def score(
        self, frames: UInt8Array, prompt: str, references: Mapping[str, FloatArray], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video; see `EvaluationProtocol.score`."""
        faces = _face_vectors(frames[_truncated_linspace(len(frames), self.num_frames)], judges.engine)
        amplitude = signed_motion(frames)
        return {
            person: {
                "face_sim_arc": _mean(_clamped_similarities(faces, reference)),
                "face_sim_cur": None,
                "motion_amplitude": amplitude,
            }
            for person, reference in references.items()
        }


def _truncated_linspace(num_frames: int, num_sampled: int) -> list[int]:
    """Indices cut off to whole numbers; in a short video some come twice."""
    return [int(index) for index in np.linspace(0, num_frames - 1, num_sampled, dtype=int)]


def _face_vectors(frames: UInt8Array, engine: FaceEngine) -> list[FloatArray]:
    """Vector of the largest face of each frame; a frame is tried again with a grey border, then dropped."""
    vectors = []
    for frame in frames:
        faces = engine.detect(frame)
        if not faces:
            height, width = (int(side * 0.25) for side in frame.shape[:2])
            frame = np.pad(frame, ((height,) * 2, (width,) * 2, (0, 0)), constant_values=128)
            faces = engine.detect(frame)
        if faces:
            vectors.append(engine.embed(frame, faces[0]))
    return vectors


def _clamped_similarities(vectors: list[FloatArray], reference: FloatArray) -> list[float]:
    return [max(0.0, float(unit(vector) @ unit(reference))) for vector in vectors]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def signed_motion(frames: UInt8Array) -> float | None:
    """OpenS2V-Eval's MotionAmplitude, see `OpenS2V`; None for a single frame.

    Args:
        frames: [F, H, W, 3] uint8 RGB.
    """
    # BGR2GRAY of RGB pictures: theirs.
    grey = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
    height, width = frames.shape[1:3]
    small = (16, int(height * (16 / width)))
    maps = []
    for a, b in pairwise(grey):
        no_guess = np.zeros((height, width, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(a, b, no_guess, 0.5, 3, 15, 3, 5, 1.2, 0)
        maps.append(cv2.resize(flow, small, interpolation=cv2.INTER_AREA))
    return abs(float(np.mean(np.mean(np.array(maps), axis=0)))) if maps else None


@dataclass(frozen=True)
class ProtocolReport:
    """What `metrics.json` says under `protocol`.

    Attributes:
        name: of the protocol.
        flaws: kept on purpose.
        departures: what is not as in the original.
        figures: system → figure → {"mean": over videos, "n": videos}; there is no interval in the originals.
    """

    name: str
    flaws: list[str]
    departures: list[str]
    figures: dict[str, dict[str, dict[str, float | int | None]]]


def protocol_report(protocol: EvaluationProtocol, figures: Mapping[str, list[Figures]]) -> ProtocolReport:
    """Means over videos, each counting once, as the originals take them.

    Args:
        protocol: whose figures they are.
        figures: system → figures of each of its videos.
    """
    means: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for system, rows in figures.items():
        means[system] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [value for row in rows if (value := row.get(name)) is not None]
            means[system][name] = {"mean": float(np.mean(values)) if values else None, "n": len(values)}
    return ProtocolReport(protocol.name, list(protocol.flaws), list(protocol.departures), means)
