"""Face engines on real photos, and what they say when models are missing."""

import itertools
import sys

import numpy as np
import pytest

from idanim.faces.insightface_engine import InsightFaceEngine
from idanim.faces.opencv_engine import OpenCVEngine
from idanim.pictures import decode_picture
from idanim.types import IdanimError

pytest.importorskip("insightface")
pytest.importorskip("cv2")

PACK = "yunet_mobilefacenet"


@pytest.fixture(scope="module")
def engine(real_dir):
    return InsightFaceEngine(PACK, str(real_dir / "models/insightface"))


@pytest.fixture(scope="module")
def photos(real_dir):
    return {path.stem: decode_picture(path.read_bytes(), path.name) for path in sorted(real_dir.glob("photos/*"))}


class TestMissingModels:
    def test_a_pack_that_is_not_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(IdanimError, match=r"no \*\.onnx models in .*models.buffalo_l") as caught:
            InsightFaceEngine("buffalo_l", str(tmp_path))
        assert "faces.root=" in str(caught.value)
        assert list(tmp_path.iterdir()) == []  # no download was tried

    def test_an_empty_pack(self, tmp_path):
        (tmp_path / "models" / "mine").mkdir(parents=True)
        with pytest.raises(IdanimError, match=r"no \*\.onnx models"):
            InsightFaceEngine("mine", str(tmp_path))

    @pytest.mark.real_input
    @pytest.mark.parametrize(("kept", "missing"), [("rec*", "detector"), ("det*", "recogniser")])
    def test_half_a_pack(self, tmp_path, real_dir, kept, missing):
        folder = tmp_path / "models" / "half"
        folder.mkdir(parents=True)
        for path in (real_dir / "models/insightface/models" / PACK).glob(kept):
            (folder / path.name).symlink_to(path.resolve())
        with pytest.raises(IdanimError, match=f"no face {missing}"):
            InsightFaceEngine("half", str(tmp_path))

    @pytest.mark.parametrize(
        ("package", "engine", "arguments"),
        [("insightface.app", InsightFaceEngine, ("p", "r")), ("cv2", OpenCVEngine, ("d",))],
    )
    def test_a_package_that_is_not_installed(self, monkeypatch, package, engine, arguments):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(IdanimError, match=r"needs .*pip install"):
            engine(*arguments)

    def test_opencv_files(self, tmp_path):
        with pytest.raises(IdanimError, match=r"faces\.detector=.*no such file.*opencv_zoo"):
            OpenCVEngine(str(tmp_path / "yunet.onnx"))

    def test_an_opencv_file_that_is_no_model(self, tmp_path):
        path = tmp_path / "yunet.onnx"
        path.write_text("not a model")
        with pytest.raises(IdanimError, match="OpenCV can't read"):
            OpenCVEngine(str(path))


@pytest.mark.real_input
class TestRealPhotos:
    def test_counts_faces(self, engine, photos):
        assert engine.detect(photos["no_face__0"]) == []
        for name, rgb in photos.items():
            if name.startswith("person"):
                assert len(engine.detect(rgb)) == 1, name
            if name.startswith("several"):
                faces = engine.detect(rgb)
                assert len(faces) > 1, name
                areas = [face.width_px * face.height_px for face in faces]
                assert areas == sorted(areas, reverse=True)

    def test_a_sliver_holds_no_face(self, engine):
        assert engine.detect(np.zeros((2, 4000, 3), np.uint8)) == []
        assert engine.detect(np.zeros((16, 8000, 3), np.uint8)) == []

    def test_landmarks_are_eyes_nose_and_mouth_in_picture_order(self, engine, photos):
        face = engine.detect(photos["person_18__0"])[0]
        (left_eye, right_eye, nose, left_mouth, right_mouth) = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])

    def test_the_same_person_is_closer_than_any_other(self, engine, photos):
        vectors = {
            name: engine.embed(rgb, engine.detect(rgb)[0]) for name, rgb in photos.items() if name.startswith("person")
        }
        assert all(abs(np.linalg.norm(vector) - 1) < 1e-5 for vector in vectors.values())
        same, other = [], []
        for (name_a, a), (name_b, b) in itertools.combinations(vectors.items(), 2):
            (same if name_a.split("__")[0] == name_b.split("__")[0] else other).append(float(a @ b))
        assert min(same) > 0.4
        assert max(other) < 0.35

    def test_opencv_finds_the_same_faces(self, engine, photos, real_dir):
        yunet = OpenCVEngine(str(real_dir / "models/opencv/yunet_n_640_640.onnx"), det_threshold=0.8)
        for name in ("person_18__0", "person_31__0", "person_20__4"):
            ours, theirs = engine.detect(photos[name]), yunet.detect(photos[name])
            assert len(ours) == len(theirs) == 1
            distance = np.abs(ours[0].landmarks - theirs[0].landmarks).max()
            assert distance < 0.1 * ours[0].width_px
        assert yunet.detect(photos["no_face__0"]) == []
        with pytest.raises(IdanimError, match="embedding needs SFace"):
            yunet.embed(photos["person_18__0"], ours[0])
