"""The stages in order: from one video file to one clip sample, or to the named reason why there is none.

Behind them come `captions.py`, which captions the samples that were accepted, and `pack.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from idanim.curation.captions import UNCAPTIONED, read_sidecar
from idanim.curation.chance import rng_for
from idanim.curation.cut import Clip
from idanim.curation.face_pool import FaceDraw, FacePool
from idanim.curation.filters import FaceFilter, MotionFilter
from idanim.curation.scan import FrameSampling, scan_video
from idanim.curation.scenes import Scenes
from idanim.curation.sources import IdentityNames, SourceVideo
from idanim.curation.track import Tracker
from idanim.data.sample import ClipMeta, ClipSample
from idanim.faces.engine import FaceEngine
from idanim.pictures import encode_jpeg
from idanim.video import VideoReader
from idanim.video_encoding import encode_mp4

CLIP_ENCODING: Final[dict[str, Any]] = {"crf": 16, "preset": "superfast"}
"""As near to the picture as x264's own preset at crf 17, in a quarter of the time, 30 to 60 % larger (LOG.md)."""


@dataclass(frozen=True)
class Curator:
    """Curates one video at a time; the result depends on nothing but the video, its sidecars and these settings.

    Attributes:
        engine: finds and embeds faces.
        sampling: which frames are looked at.
        scenes: what counts as a cut.
        tracker: which videos show one person throughout.
        face_filter: which videos show the person well.
        motion_filter: which clips move.
        face_pool: how faces are drawn and stored.
        clip: how the clip is cut.
        identities: who is shown.
        seed: of the random draws.
    """

    engine: FaceEngine
    sampling: FrameSampling
    scenes: Scenes
    tracker: Tracker
    face_filter: FaceFilter
    motion_filter: MotionFilter
    face_pool: FacePool
    clip: Clip
    identities: IdentityNames
    seed: int

    def curate(self, video: SourceVideo) -> ClipSample:
        """Make the sample of one video.

        Raises:
            RejectedError: a stage turned it down.
            UnreadableVideoError: it can't be read.
        """
        # given facts
        video.check()
        sidecar = read_sidecar(video)
        identity = video.identity or sidecar.identity or self.identities.of(video)

        # read, scenes, sample, detect; draw faces on the way
        with VideoReader(video.path, part=self.sampling.limit(video.part)) as reader:
            scan, draw = scan_video(reader, self.sampling, self.scenes, self.engine, self._begin_draw(video))
        self.sampling.check_whole(scan)
        self.face_filter.check_several(scan)
        self.clip.check_length(scan)
        self.face_filter.check_seen(scan)

        # track
        track = self.tracker.follow(scan, self.engine)

        # filter
        self.face_filter.check_quality(scan)
        span = self.clip.choose_span(scan, track.shows_person)
        self.motion_filter.check(span.samples)

        # face pool
        pool = self.face_pool.pick(draw, track.vector_of, track.matches)

        # cut
        cut = self.clip.cut(video, scan, span)
        first = self.engine.embed(cut.first_face.rgb, cut.first_face.local_face)

        # store
        stored = [self.face_pool.store(face, vector, "pool", video.key) for face, vector in pool]
        stored.append(self.face_pool.store(cut.first_face, first, "first_frame", video.key))
        left, top, right, bottom = cut.crop_box
        meta = ClipMeta(
            key=video.key,
            identity=identity,
            source=video.name,
            start_frame=cut.start_frame,
            num_frames=len(cut.frames),
            fps=round(scan.fps, 4),
            width=cut.frames.shape[2],
            height=cut.frames.shape[1],
            crop_box=(left, top, right, bottom),
            captions=sidecar.captions or {"unified": UNCAPTIONED},
            face_engine=self.engine.name,
            faces=tuple(face for face, _ in stored),
            caption_states=sidecar.states,
        )
        first_frame = encode_jpeg(cut.frames[0], self.face_pool.jpeg_quality)
        video_bytes = encode_mp4(cut.frames, scan.fps, **CLIP_ENCODING)
        return ClipSample(meta, video_bytes, first_frame, tuple(picture for _, picture in stored))

    def _begin_draw(self, video: SourceVideo) -> Callable[[], FaceDraw]:
        rng = rng_for(self.seed, video.key)
        return lambda: self.face_pool.draw(rng)
