"""Others' definitions with their own tool: insightface's `FaceAnalysis.get` as their scripts call it."""

import warnings

import cv2
import numpy as np
import pytest

from idanim.metrics.people import read_people
from idanim.metrics.protocols import Judges
from idanim.metrics.published_protocols import ConsisId, published_face
from idanim.video import read_frames

pytestmark = pytest.mark.real_input
PACK = "yunet_mobilefacenet"


@pytest.fixture(scope="module")
def engine(real_dir):
    insightface_engine = pytest.importorskip("idanim.faces.insightface_engine")
    # Settings of our own that theirs must not depend on.
    return insightface_engine.InsightFaceEngine(PACK, str(real_dir / "models" / "insightface"), 640, 0.8)


@pytest.fixture(scope="module")
def analysis(real_dir):
    app = pytest.importorskip("insightface.app")
    found = app.FaceAnalysis(
        str(real_dir / "models" / "insightface" / "models" / PACK),
        providers=["CPUExecutionProvider"],
        static_shape_sessions=False,
    )
    found.prepare(ctx_id=-1, det_size=(320, 320))
    return found


def theirs(analysis, rgb):
    """Vector and crop of the largest face, by insightface alone."""
    from insightface.utils import face_align

    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-image's about `estimate`
        found, shift = analysis.get(bgr), np.zeros(2, np.float32)
        if not found:
            height, width = (int(side * 0.25) for side in bgr.shape[:2])
            grey = (128, 128, 128)
            framed = cv2.copyMakeBorder(bgr, height, height, width, width, cv2.BORDER_CONSTANT, value=grey)
            found, shift = analysis.get(framed), np.array([width, height], np.float32)
        if not found:
            return None
        boxes = [face["bbox"] for face in found]
        face = sorted(zip(boxes, found, strict=True), key=lambda f: (f[0][2] - f[0][0]) * (f[0][3] - f[0][1]))[-1][1]
        crop = face_align.norm_crop(bgr, landmark=face["kps"] - shift, image_size=224)
    return face["embedding"], cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)


def pictures(real_dir):
    for name in ("person_00__0.jpg", "person_18__0.jpg", "several_faces__0.jpg", "several_faces__1.jpg"):
        yield cv2.cvtColor(cv2.imread(str(real_dir / "photos" / name)), cv2.COLOR_BGR2RGB)
    frame = read_frames(real_dir / "clips" / "person_11__0.mp4", [0])[0]
    yield frame
    yield frame[:, 60:-70]  # not a square
    yield np.zeros((64, 48, 3), np.uint8)


def test_faces_are_those_of_their_scripts(real_dir, engine, analysis):
    seen = 0
    for rgb in pictures(real_dir):
        expected, found = theirs(analysis, rgb), published_face(rgb, engine)
        assert (expected is None) == (found is None)
        if expected is not None:
            vector, crop = expected
            np.testing.assert_allclose(found.vector, vector, rtol=0, atol=1e-5 * np.abs(vector).max())
            np.testing.assert_array_equal(found.crop, crop)
            seen += 1
    assert seen >= 5


def test_similarity_is_that_of_their_script(real_dir, engine, analysis):
    photo = real_dir / "photos" / "person_00__0.jpg"
    frames = read_frames(real_dir / "clips" / "person_00__0.mp4", range(0, 100, 25))
    reference = theirs(analysis, cv2.cvtColor(cv2.imread(str(photo)), cv2.COLOR_BGR2RGB))[0]
    vectors = [theirs(analysis, frame)[0] for frame in frames]
    cosines = [v @ reference / np.linalg.norm(v) / np.linalg.norm(reference) for v in vectors]
    people = {p.identity: p for p in read_people({"ann": [photo]}, engine, None, 256, "photos")}
    figures = ConsisId(num_frames=4).score(frames, "a person", people, Judges(engine))["ann"]
    assert figures["face_sim_arc"] == pytest.approx(np.mean(np.maximum(cosines, 0)), abs=1e-6)
    assert figures["face_sim_arc"] > 0.3
