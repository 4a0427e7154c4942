"""Other benchmarks' definitions, with their flaws, so that figures can stand beside published ones. F frames.

What is wrong with a definition is kept, because the published figures have it, and is said beside every figure.
A figure whose model can't be had is None. For figures to trust take idanim's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image

from idanim.faces.engine import FaceEngine
from idanim.faces.published import PublishedEngine, bilinear_crop, largest_as_published
from idanim.metrics.identity import unit
from idanim.metrics.people import Person
from idanim.metrics.protocols import Figures, Judges
from idanim.metrics.text_alignment import ClipScorer
from idanim.models.curricular_face import PictureNetwork, load_curricular_face, load_onnx
from idanim.pictures import decode_picture
from idanim.types import FloatArray, UInt8Array

CROP_PX = 224
"""Side of the face crops of both scripts."""


class ConsisId:
    """ConsisID (arXiv 2411.17440): `eval/get_facesim_fid.py` and `eval/get_clipscore.py` of its repository.

    - `face_sim_arc`: max(0, cos) of the largest face and the reference, mean over 16 frames with a face; 0 for none.
      A frame without a face is tried again with a grey border of a quarter of its sides.
    - `face_sim_cur`: likewise by CurricularFace, on a crop of 224 pixels shrunk to 112.
    - `fid`: |Inception(face) - Inception(reference)|², mean over those frames; 0 for none.
    - `clip_score`: logit scale · cos, mean over 16 frames, fed with red and blue swapped.

    A reference in which their detector finds no face gives no figures of faces.

    Args:
        num_frames: looked at.
        curricular: CurricularFace's weights; None = no `face_sim_cur`.
        inception: torchvision's Inception v3 up to its last pooling as .onnx, [N, 3, 299, 299] in [0, 1] →
            [N, 2048]; None = no `fid`.
    """

    name: ClassVar[str] = "consisid"
    flaws: ClassVar[tuple[str, ...]] = (
        "frames without a face are dropped: a video with one good frame scores like one of sixteen",
        "negative similarities count 0, which lifts videos of nobody in particular",
        "CLIP sees the frames with red and blue swapped",
        "FID compares one face with one reference, a squared distance of features and no FID; without a face it is 0, "
        "the best value",
        "a video shorter than sixteen frames counts some frames twice",
    )

    def __init__(self, num_frames: int = 16, curricular: str | None = None, inception: str | None = None) -> None:
        self.num_frames = num_frames
        self._curricular = None if curricular is None else load_curricular_face(curricular)
        self._inception = None if inception is None else load_onnx(inception)
        self._known: dict[tuple[str, str], PublishedFace | None] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the networks that are loaded."""
        return tuple(network.name for network in (self._curricular, self._inception) if network is not None)

    def departures(self, judges: Judges) -> tuple[str, ...]:
        """What is not as there; see `EvaluationProtocol.departures`."""
        found = _departures(judges, self._curricular)
        if self._inception is None:
            found += ("fid is left out: name Inception v3 as protocol.inception=<file>.onnx",)
        if judges.clip is None:
            return (*found, "clip_score is left out: name CLIP ViT-B/32 as scoring.clip=<folder>")
        return (*found, f"clip_score is by {judges.clip.name}; the published figures are of CLIP ViT-B/32")

    def score(
        self, frames: UInt8Array, prompt: str, people: Mapping[str, Person], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video; see `EvaluationProtocol.score`."""
        faces = _faces(frames[_truncated_linspace(len(frames), self.num_frames)], judges.engine)
        clip_score = self._clip_score(frames, prompt, judges.clip)
        return {
            name: {**self._of_faces(faces, person, judges.engine), "clip_score": clip_score}
            for name, person in people.items()
        }

    def _of_faces(self, faces: Sequence[PublishedFace], person: Person, engine: FaceEngine) -> Figures:
        reference = _reference(person, engine, self._known)
        figures = _similarities(faces, reference, self._curricular)
        distances = None
        if reference is not None and self._inception is not None:
            features = [_inception_features(self._inception, face) for face in (reference, *faces)]
            distances = [float(np.square(feature - features[0]).sum()) for feature in features[1:]]
        return {**{name: _mean(values) for name, values in figures.items()}, "fid": _mean(distances)}

    def _clip_score(self, frames: UInt8Array, prompt: str, clip: ClipScorer | None) -> float | None:
        if clip is None:
            return None
        chosen = [int(i * len(frames) / self.num_frames) for i in range(self.num_frames)]
        swapped = np.ascontiguousarray(frames[chosen][..., ::-1])
        cosines = clip.picture_features(swapped) @ clip.text_features(prompt)
        return float(clip.logit_scale * cosines.mean(dtype=np.float64))


class OpenS2V:
    """OpenS2V-Eval, human domain (arXiv 2505.20292): `eval/get_facesim.py` and `eval/get_motionscore.py`.

    - `face_sim_arc`: as ConsisID's, over 32 frames.
    - `face_sim_cur`, the leaderboard's FaceSim: likewise, but frames whose similarity is 0 are dropped.
    - `motion_amplitude`: |mean over frames, places and both directions of the signed flow|, in pixels, of flow maps
      shrunk to a width of 16; the grey pictures are made with the weights of red and blue swapped.

    A reference in which their detector finds no face gives no figures of faces: there such a video is skipped. The
    other parts of its total need models that are not part of idanim.

    Args:
        num_frames: looked at for faces.
        curricular: CurricularFace's weights; None = no `face_sim_cur`.
    """

    name: ClassVar[str] = "opens2v"
    flaws: ClassVar[tuple[str, ...]] = (
        "frames without a face are dropped, and negative similarities count 0",
        "FaceSim-Cur also drops frames whose similarity is exactly 0, so a video of nobody can't score 0 by them; the "
        "same was meant for FaceSim-Arc, but a list is compared with 0 there",
        "MotionAmplitude averages signed flow, so a head that shakes by ±3 px scores 0",
        "MotionAmplitude weighs red as blue and blue as red, and is in pixels: larger videos move more",
    )

    def __init__(self, num_frames: int = 32, curricular: str | None = None) -> None:
        self.num_frames = num_frames
        self._curricular = None if curricular is None else load_curricular_face(curricular)
        self._known: dict[tuple[str, str], PublishedFace | None] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the networks that are loaded."""
        return () if self._curricular is None else (self._curricular.name,)

    def departures(self, judges: Judges) -> tuple[str, ...]:
        """What is not as there; see `EvaluationProtocol.departures`."""
        return (
            *_departures(judges, self._curricular),
            "the leaderboard scales MotionAmplitude by bounds that its code does not hold; here it is raw",
            "Aesthetics, MotionSmoothness, GmeScore and NaturalScore need models that are not part of idanim, so there "
            "is no total",
            "the leaderboard's 60 samples of people are its own data; here the videos are yours",
        )

    def score(
        self, frames: UInt8Array, prompt: str, people: Mapping[str, Person], judges: Judges
    ) -> dict[str, Figures]:
        """Score one video; see `EvaluationProtocol.score`."""
        faces = _faces(frames[_truncated_linspace(len(frames), self.num_frames)], judges.engine)
        amplitude = signed_motion(frames)
        result: dict[str, Figures] = {}
        for name, person in people.items():
            reference = _reference(person, judges.engine, self._known)
            values = _similarities(faces, reference, self._curricular)
            cur = values["face_sim_cur"]
            result[name] = {
                "face_sim_arc": _mean(values["face_sim_arc"]),
                "face_sim_cur": _mean(cur if cur is None else [value for value in cur if value != 0.0]),
                "motion_amplitude": amplitude,
            }
        return result


# ------------------------------------------------------------------------------------- what both have


@dataclass(frozen=True)
class PublishedFace:
    """A face as the scripts see it.

    Attributes:
        crop: [224, 224, 3] uint8 RGB, cut from the picture without border.
        vector: [D], ArcFace's; not of unit length.
    """

    crop: UInt8Array
    vector: FloatArray


def _departures(judges: Judges, curricular: PictureNetwork | None) -> tuple[str, ...]:
    engine, found = judges.engine, []
    if not isinstance(engine, PublishedEngine):
        found.append(f"faces are found and aligned in the way of {engine.name}, theirs by insightface/buffalo_l")
    elif engine.name != "insightface/buffalo_l":
        found.append(f"ArcFace is {engine.name}'s, theirs insightface/buffalo_l's: faces.pack=buffalo_l")
    found.append("references from shards are their face crops; theirs, and those of references=, are whole photos")
    if curricular is None:
        found.append(
            "face_sim_cur is left out: name CurricularFace's weights (glint360k_curricular_face_r101_backbone.bin, or "
            "an .onnx of them) as protocol.curricular=<file>"
        )
    return tuple(found)


def _truncated_linspace(num_frames: int, num_sampled: int) -> list[int]:
    """Indices cut off to whole numbers; in a short video some come twice."""
    return [int(index) for index in np.linspace(0, num_frames - 1, num_sampled, dtype=int)]


def published_face(rgb: UInt8Array, engine: FaceEngine) -> PublishedFace | None:
    """The largest face of a picture; without one it is tried again with a grey border, then given up."""
    face, offset = largest_as_published(engine, rgb), (0, 0)
    if face is None:
        height, width = (int(side * 0.25) for side in rgb.shape[:2])
        framed = np.pad(rgb, ((height,) * 2, (width,) * 2, (0, 0)), constant_values=128)
        face, offset = largest_as_published(engine, framed), (width, height)
    if face is None:
        return None
    landmarks = face.landmarks - np.array(offset, face.landmarks.dtype)
    return PublishedFace(bilinear_crop(np.ascontiguousarray(rgb), landmarks, CROP_PX), face.vector)


def _faces(frames: UInt8Array, engine: FaceEngine) -> list[PublishedFace]:
    found = [published_face(frame, engine) for frame in frames]
    return [face for face in found if face is not None]


def _reference(
    person: Person, engine: FaceEngine, known: dict[tuple[str, str], PublishedFace | None]
) -> PublishedFace | None:
    """The face of a person's first photo, or of the crop where there is no photo; looked for once."""
    key = (person.identity, person.digest)
    if key not in known:
        photo = person.photos[0] if person.photos else None
        picture = person.pictures[0] if photo is None else decode_picture(photo.read_bytes(), str(photo))
        known[key] = published_face(picture, engine)
    return known[key]


def _similarities(
    faces: Sequence[PublishedFace], reference: PublishedFace | None, curricular: PictureNetwork | None
) -> dict[str, list[float] | None]:
    """Similarity of each face to the reference by both recognisers, none below 0; None where one can't say."""
    arc = None if reference is None else [_clamped(face.vector, reference.vector) for face in faces]
    cur = None
    if reference is not None and curricular is not None:
        first, *rest = [_curricular_vector(curricular, face) for face in (reference, *faces)]
        cur = [_clamped(vector, first) for vector in rest]
    return {"face_sim_arc": arc, "face_sim_cur": cur}


def _curricular_vector(network: PictureNetwork, face: PublishedFace) -> FloatArray:
    pixels = np.asarray(cv2.resize(face.crop, (112, 112)), dtype=np.float32).transpose(2, 0, 1)[None]
    return network(np.asarray((pixels / 255 - 0.5) / 0.5, dtype=np.float32))[0]


def _inception_features(network: PictureNetwork, face: PublishedFace) -> FloatArray:
    picture = Image.fromarray(face.crop).resize((299, 299), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return network(np.ascontiguousarray(pixels, dtype=np.float32))[0]


def _clamped(a: FloatArray, b: FloatArray) -> float:
    return max(0.0, float(unit(a) @ unit(b)))


def _mean(values: list[float] | None) -> float | None:
    """Mean; 0 of none, as there; None where it is not defined."""
    return None if values is None else float(np.mean(values)) if values else 0.0


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
