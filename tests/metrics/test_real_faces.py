"""The identity metrics on real clips, with a real recogniser."""

import numpy as np
import pytest

from idanim.metrics.face_track import track_faces
from idanim.metrics.identity import chance_similarity, face_detection_rate, face_similarity
from idanim.metrics.motion import motion_by_region
from idanim.video import read_frames

pytestmark = pytest.mark.real_input


@pytest.fixture(scope="module")
def engine(real_dir):
    insightface_engine = pytest.importorskip("idanim.faces.insightface_engine")
    root = str(real_dir / "models" / "insightface")
    return insightface_engine.InsightFaceEngine("yunet_mobilefacenet", root)


def test_people_score_near_their_own_other_clip_and_far_from_others(real_dir, engine):
    tracks = {}
    for name in ("person_08__0", "person_08__1", "person_11__0", "person_11__1"):
        frames = read_frames(real_dir / "clips" / f"{name}.mp4", range(0, 40, 13))
        tracks[name] = track_faces(engine, frames, 4)
        assert face_detection_rate(tracks[name]) == 1
        assert motion_by_region(frames, {}).everywhere > 0
    for person, stranger in (("person_08", "person_11"), ("person_11", "person_08")):
        video, own = tracks[f"{person}__0"], tracks[f"{person}__1"].embeddings
        similarity = face_similarity(video, own)
        chance = chance_similarity(video, [tracks[f"{stranger}__1"].embeddings])
        assert similarity > 0.35 > chance  # the pack's threshold


def test_clip_without_a_face_scores_zero(real_dir, engine):
    frames = read_frames(real_dir / "clips" / "no_face__0.mp4", range(0, 30, 10))
    video = track_faces(engine, frames, 3)
    assert face_detection_rate(video) == 0
    assert face_similarity(video, np.ones((1, 128), np.float32)) == 0
