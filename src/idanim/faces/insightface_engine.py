"""Face engine on insightface: any pack of its layout, by default buffalo_l."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from idanim.faces.align import aligned_crop
from idanim.faces.engine import MIN_SIDE_PX, largest_first, to_bgr, unit_vector
from idanim.faces.published import DET_SIZE, DET_THRESHOLD, LargestFace, bilinear_crop
from idanim.types import Face, FloatArray, IdanimError, UInt8Array

OFFICIAL_PACKS = ("antelopev2", "buffalo_l", "buffalo_m", "buffalo_s", "buffalo_sc")

_STRIDE_PX = 32
"""Detectors want sides that are multiples of this."""

_log = logging.getLogger(__name__)


@cache
def say_licence(pack: str) -> None:
    """Say once what an official pack may be used for, and what to take for anything else."""
    _log.warning(
        "insightface's pack %s is licensed for non-commercial research only; faces=opencv (YuNet and SFace, MIT and "
        "Apache-2.0) is for anything",
        pack,
    )


class InsightFaceEngine:
    """Detection and ArcFace embedding by the ONNX models of an insightface pack. Nothing is downloaded.

    Build it in the process that uses it: copies sent to another process would take all cores.

    Args:
        pack: name of the folder `<root>/models/<pack>`, which holds a detector and a recogniser (*.onnx).
        root: folder of insightface's models; `~` is expanded.
        det_size: side in pixels to which a picture is shrunk or enlarged for detection.
        det_threshold: faces of a lower score are not reported.
        threads: threads of one inference.
        device: "cpu", or "cuda" for the first GPU that is visible; that takes onnxruntime-gpu.

    Raises:
        IdanimError: the pack is not there, or holds no detector or recogniser, or insightface is not installed, or
            not the onnxruntime that the device takes.
    """

    def __init__(
        self,
        pack: str,
        root: str,
        det_size: int = 640,
        det_threshold: float = 0.8,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        try:  # here, so that a missing package is told in words
            import cv2
            import onnxruntime
            from insightface.app import FaceAnalysis
        except ModuleNotFoundError as error:
            raise IdanimError(f"faces=insightface needs {error.name}: pip install 'idanim[faces]'") from error
        providers = _providers(device, onnxruntime.get_available_providers())
        folder = _find_pack(pack, root)
        if pack in OFFICIAL_PACKS:
            say_licence(pack)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # The folder itself is given: by its name alone, a folder of that name in the working directory would win.
        try:
            analysis = FaceAnalysis(
                str(folder),
                allowed_modules=["detection", "recognition"],
                providers=providers,
                sess_options=options,
                static_shape_sessions=False,  # else a session more for every shape of picture
            )
        except AssertionError as error:  # how insightface says that no detector was found
            raise IdanimError(f"{folder}: no face detector among its *.onnx files") from error
        if "recognition" not in analysis.models:
            raise IdanimError(f"{folder}: no face recogniser among its *.onnx files")
        analysis.prepare(0 if device == "cuda" else -1, det_thresh=det_threshold, det_size=(det_size, det_size))
        self._pack = pack
        self._files = tuple(sorted(folder.glob("*.onnx")))
        self._det_size = det_size
        self._resize = cv2.resize
        self._detector = analysis.det_model
        self._recogniser = analysis.models["recognition"]

    @property
    def recogniser_file(self) -> Path:
        """The network whose vectors these are."""
        return Path(self._recogniser.model_file)

    @property
    def name(self) -> str:
        """Engine and pack."""
        return f"insightface/{self._pack}"

    @property
    def files(self) -> tuple[Path, ...]:
        """All models of the pack."""
        return self._files

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """Find faces, without embeddings, by falling box area; see `FaceEngine.detect`."""
        height, width = rgb.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return []
        # insightface would fill up to a square, whose empty part costs as much as the picture.
        scale = min(1.0, self._det_size / max(height, width))
        if scale < 1.0:
            rgb = np.asarray(self._resize(rgb, (max(1, round(width * scale)), max(1, round(height * scale)))), np.uint8)
        unit = _STRIDE_PX * max(height, width)
        shape = tuple(_STRIDE_PX * math.ceil(side * self._det_size / unit) for side in (width, height))
        boxes, landmarks = self._detector.detect(to_bgr(rgb), input_size=shape)
        if landmarks is None:
            raise IdanimError(f"{self.name}: its detector gives no landmarks, which alignment needs")
        faces = []
        for box, points in zip(boxes, landmarks, strict=True):
            left, top, right, bottom = (float(v) / scale for v in box[:4])
            landmarks_px = np.asarray(points, dtype=np.float32) / np.float32(scale)
            faces.append(Face((left, top, right, bottom), landmarks_px, float(box[4])))
        return largest_first(faces)

    def detect_many(self, pictures: Sequence[UInt8Array]) -> list[list[Face]]:
        """Faces of each of some pictures; the detectors of the packs take one at a time."""
        return [self.detect(rgb) for rgb in pictures]

    def largest_as_published(self, rgb: UInt8Array) -> LargestFace | None:
        """The largest face as `FaceAnalysis.get` gives it; see `idanim.faces.published`."""
        bgr = to_bgr(rgb)
        boxes, landmarks = self._detector.detect(bgr, input_size=(DET_SIZE, DET_SIZE), det_thresh=DET_THRESHOLD)
        if not len(boxes) or landmarks is None:
            return None
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        points = landmarks[len(areas) - 1 - int(np.argmax(areas[::-1]))]  # the last of equals, as sorted()[-1]
        crop = bilinear_crop(bgr, points, int(self._recogniser.input_size[0]))
        return LargestFace(points, self._recogniser.get_feat(crop).flatten())

    def embed(self, rgb: UInt8Array, face: Face) -> FloatArray:
        """Recognition vector of one face found in `rgb`: [D] float32 of unit length."""
        return np.asarray(self.embed_many([rgb], [face])[0], dtype=np.float32)

    def embed_many(self, pictures: Sequence[UInt8Array], faces: Sequence[Face]) -> FloatArray:
        """Vectors of one face of each picture, [K, D]; see `BatchFaceEngine.embed_many`."""
        size = int(self._recogniser.input_size[0])
        crops = [to_bgr(aligned_crop(rgb, face.landmarks, size)) for rgb, face in zip(pictures, faces, strict=True)]
        return np.stack([unit_vector(feature) for feature in self._recogniser.get_feat(crops)])


def _providers(device: str, available: Sequence[str]) -> list[str]:
    """What onnxruntime runs the networks on, in the order of preference."""
    providers = {"cpu": [], "cuda": ["CUDAExecutionProvider"]}.get(device)
    if providers is None:
        raise IdanimError(f"faces.device={device}: expected cpu or cuda")
    if not set(providers) <= set(available):
        raise IdanimError(
            f"faces.device={device}: this onnxruntime runs on {', '.join(available)} only; install onnxruntime-gpu in "
            "place of onnxruntime, or take faces.device=cpu"
        )
    return [*providers, "CPUExecutionProvider"]


def _find_pack(pack: str, root: str) -> Path:
    folder = Path(root).expanduser().resolve() / "models" / pack
    if not folder.is_dir() or not any(folder.glob("*.onnx")):
        raise IdanimError(
            f"faces.pack={pack}: there are no *.onnx models in {folder}. Unpack the pack's zip there "
            "(https://github.com/deepinsight/insightface/tree/master/model_zoo), or name another pack with "
            "faces.pack=<name> faces.root=<folder that holds models/<name>>"
        )
    return folder
