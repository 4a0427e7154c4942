"""Filters on what a scan found. Each turns a video down with a named reason."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from idanim.curation.decision import RejectedError
from idanim.curation.scan import Scan


@dataclass(frozen=True)
class FaceFilter:
    """Keeps videos that show one person well.

    Attributes:
        max_several_faces_share: allowed share of sampled frames with more than one face, in [0, 1].
        max_no_face_share: allowed share of sampled frames without a face, in [0, 1].
        min_face_px: the median over frames of the face box's shorter side must reach this.
    """

    max_several_faces_share: float
    max_no_face_share: float
    min_face_px: float

    def check(self, scan: Scan) -> None:
        """Let a video pass.

        Raises:
            RejectedError: "several_faces", "no_face" or "face_too_small".
        """
        # Several faces first: in a scene with cuts, both shares are high, and this is the one that says more.
        for reason, share, limit in (
            ("several_faces", scan.share(several=True), self.max_several_faces_share),
            ("no_face", scan.share(several=False), self.max_no_face_share),
        ):
            if share > limit:
                what = reason.replace("_", " ")
                text = f"{what} on {share:.0%} of {len(scan.samples)} sampled frames, allowed {limit:.0%}"
                raise RejectedError(reason, text, share, limit)
        sizes = [min(sample.faces[0].width_px, sample.faces[0].height_px) for sample in scan.single]
        size = statistics.median(sizes) if sizes else 0.0
        if size < self.min_face_px:
            text = f"the face is {size:.0f} px, wanted {self.min_face_px:g}"
            raise RejectedError("face_too_small", text, size, self.min_face_px)
