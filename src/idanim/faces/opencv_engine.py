"""Face engine on OpenCV's own models, whose licences allow commercial use: YuNet (MIT) and SFace (Apache-2.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idanim.faces.align import aligned_crop
from idanim.faces.engine import MIN_SIDE_PX, largest_first, to_bgr, unit_vector
from idanim.types import Face, FloatArray, IdanimError, UInt8Array

_RECOGNISER_PX = 112


class OpenCVEngine:
    """Detection by YuNet and embedding by SFace.

    Attributes:
        recogniser_file: the network whose vectors these are; None without one.

    Args:
        detector: YuNet file (face_detection_yunet_*.onnx); `~` is expanded.
        recogniser: SFace file (face_recognition_sface_*.onnx), or None to detect only.
        det_size: larger pictures are shrunk so that their longer side has this many pixels.
        det_threshold: faces of a lower score are not reported.

    Raises:
        IdanimError: a file is not there or OpenCV can't read it, or OpenCV is not installed.
    """

    def __init__(
        self, detector: str, recogniser: str | None = None, det_size: int = 640, det_threshold: float = 0.8
    ) -> None:
        try:  # here, so that a missing package is told in words
            import cv2
        except ModuleNotFoundError as error:
            raise IdanimError("faces=opencv needs OpenCV: pip install opencv-python-headless") from error
        detector_path = _existing(detector, "faces.detector", "YuNet, face_detection_yunet_2023mar.onnx")
        self._det_size = det_size
        self._recogniser = None
        self._files: tuple[Path, ...] = (detector_path,)
        self.recogniser_file: Path | None = None
        self._name = f"opencv/{detector_path.stem}"
        try:
            self._detector = cv2.FaceDetectorYN.create(
                str(detector_path), "", (det_size, det_size), det_threshold, 0.3, 5000
            )
            if recogniser is not None:
                path = _existing(recogniser, "faces.recogniser", "SFace, face_recognition_sface_2021dec.onnx")
                self.recogniser_file = path
                self._recogniser = cv2.FaceRecognizerSF.create(str(path), "")
                self._files = (detector_path, path)
                self._name += f"+{path.stem}"
        except cv2.error as error:
            raise IdanimError(
                f"faces.detector={detector}, faces.recogniser={recogniser}: OpenCV can't read the models: {error.err}"
            ) from error

    @property
    def name(self) -> str:
        """Engine and model files."""
        return self._name

    @property
    def files(self) -> tuple[Path, ...]:
        """Detector and recogniser."""
        return self._files

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """Find faces, without embeddings, by falling box area; see `FaceEngine.detect`."""
        height, width = rgb.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return []
        scale = min(1.0, self._det_size / max(height, width))
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
        bgr = to_bgr(rgb)
        self._detector.setInputSize((bgr.shape[1], bgr.shape[0]))
        found: Any = self._detector.detect(bgr)[1]  # None without faces, whatever OpenCV's stub says
        if found is None:
            return []
        faces = []
        for row in np.asarray(found, dtype=np.float32):
            left, top, width, height = (float(v) / scale for v in row[:4])
            landmarks = row[4:14].reshape(5, 2) / np.float32(scale)
            faces.append(Face((left, top, left + width, top + height), landmarks, float(row[14])))
        return largest_first(faces)

    def embed(self, rgb: UInt8Array, face: Face) -> FloatArray:
        """Recognition vector of one face found in `rgb`: [D] float32 of unit length.

        Raises:
            IdanimError: the engine was built without a recogniser.
        """
        if self._recogniser is None:
            raise IdanimError("embedding needs SFace: faces.recogniser=<face_recognition_sface_2021dec.onnx>")
        crop = aligned_crop(rgb, face.landmarks, _RECOGNISER_PX)
        return unit_vector(self._recogniser.feature(to_bgr(crop)))


def _existing(file: str, key: str, what: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise IdanimError(
            f"{key}={file}: there is no such file. It should be {what} from https://github.com/opencv/opencv_zoo"
        )
    return path
