"""Filters on what a scan found. Each turns a video down with a named reason."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from idanim.curation.decision import RejectedError
from idanim.curation.scan import THUMBNAIL_LANDMARKS, SampledFrame, Scan
from idanim.faces.quality import blur, head_pose_deg
from idanim.types import UInt8Array


@dataclass(frozen=True)
class FaceFilter:
    """Keeps videos that show one person well. What is measured on a face is the median over the frames looked at.

    Attributes:
        max_several_faces_share: allowed share of frames with more than one face, in [0, 1]; in the whole video, so that
            edited footage of several people is not accepted for one of its scenes.
        max_no_face_share: allowed share of the scene's frames without a face, in [0, 1].
        min_face_px: shorter side of the face's box, at least.
        max_face_share: part of the picture that the face's box covers, at most.
        min_score: detection score, at least.
        min_blur: sharpness, at least; see `idanim.faces.quality.blur`.
        max_yaw_deg: turn of the head to either side, at most.
        max_pitch_deg: nod of the head up or down, at most.
    """

    max_several_faces_share: float
    max_no_face_share: float
    min_face_px: float
    max_face_share: float
    min_score: float
    min_blur: float
    max_yaw_deg: float
    max_pitch_deg: float

    def check_several(self, scan: Scan) -> None:
        """Let a video pass that does not show several faces.

        Raises:
            RejectedError: "several_faces".
        """
        share = float(np.mean([count > 1 for count in scan.face_counts]))
        if share > self.max_several_faces_share:
            text = f"several faces on {share:.0%} of {len(scan.face_counts)} sampled frames"
            limit = self.max_several_faces_share
            raise RejectedError("several_faces", f"{text}, allowed {limit:.0%}", share, limit)

    def check_seen(self, scan: Scan) -> None:
        """Let a video pass whose longest scene shows a face.

        Raises:
            RejectedError: "no_face" or "no_single_face_span".
        """
        share = float(np.mean([not sample.faces for sample in scan.samples])) if scan.samples else 0.0
        if share > self.max_no_face_share:
            text = f"no face on {share:.0%} of {len(scan.samples)} sampled frames"
            limit = self.max_no_face_share
            raise RejectedError("no_face", f"{text}, allowed {limit:.0%}", share, limit)
        if not scan.single:
            text = f"none of {len(scan.samples)} sampled frames shows exactly one face"
            raise RejectedError("no_single_face_span", text, 0, 1)

    def check_quality(self, scan: Scan) -> None:
        """Let a video pass whose face is large, sharp and turned to the camera.

        Raises:
            RejectedError: "face_too_small", "face_too_large", "low_score", "blurred" or "turned_away".
        """
        single = scan.single
        faces = [sample.faces[0] for sample in single]
        picture_px = scan.info.width * scan.info.height
        at_least = {
            "face_too_small": (
                [min(f.width_px, f.height_px) for f in faces],
                self.min_face_px,
                "the face is {:.0f} px",
            ),
            "low_score": ([f.score for f in faces], self.min_score, "detection score {:.2f}"),
            "blurred": (_sharpness(single), self.min_blur, "sharpness {:.1f}"),
        }
        for reason, (values, limit, words) in at_least.items():
            value = statistics.median(values)
            if value < limit:
                raise RejectedError(reason, f"{words.format(value)}, wanted {limit:g}", value, limit)
        poses = [head_pose_deg(face.landmarks) for face in faces]
        shares = [f.width_px * f.height_px / picture_px for f in faces]
        at_most = (
            ("face_too_large", shares, self.max_face_share, "the face covers {:.2f} of the picture"),
            ("turned_away", [abs(yaw) for yaw, _ in poses], self.max_yaw_deg, "the head is turned by {:.0f}°"),
            ("turned_away", [abs(pitch) for _, pitch in poses], self.max_pitch_deg, "the head nods by {:.0f}°"),
        )
        for reason, values, limit, words in at_most:
            value = statistics.median(values)
            if value > limit:
                raise RejectedError(reason, f"{words.format(value)}, allowed {limit:g}", value, limit)


def _sharpness(samples: Sequence[SampledFrame]) -> list[float]:
    return [blur(sample.thumbnail, THUMBNAIL_LANDMARKS) for sample in samples if sample.thumbnail is not None]


@dataclass(frozen=True)
class MotionFilter:
    """Keeps clips in which something moves.

    Attributes:
        min_motion: see `motion_levels`.
    """

    min_motion: float

    def check(self, samples: Sequence[SampledFrame]) -> None:
        """Let a clip pass.

        Args:
            samples: the frames looked at within the clip.

        Raises:
            RejectedError: "frozen".
        """
        pictures = [sample.small for sample in samples if sample.small is not None]
        motion = motion_levels(pictures)
        if motion < self.min_motion:
            text = f"nothing moves: pixels change by {motion:.2f} levels, wanted {self.min_motion:g}"
            raise RejectedError("frozen", text, motion, self.min_motion)


def motion_levels(pictures: Sequence[UInt8Array]) -> float:
    """How much a clip changes where it changes most, in levels of 255.

    The standard deviation over time of each of some 64 × 36 cells, and of those the 99th percentile. A cell is the mean
    of hundreds of pixels, so that grain and compression noise cancel out; they make up to 3 levels, a face that
    speaks ten and more. Each picture's mean is taken out first: flicker of the light is no motion.

    Args:
        pictures: [h, w, 3] uint8 each, all of one size.
    """
    if len(pictures) < 2:
        return 0.0
    stack = np.stack(pictures).astype(np.float64)
    stack -= stack.mean(axis=(1, 2), keepdims=True)
    return float(np.percentile(stack.std(axis=0), 99))
