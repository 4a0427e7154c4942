"""The toy face engine: finds the one face of a toy picture and describes it, like any other engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.files import sha256
from idanim.models.face_alignment import crop_faces
from idanim.toyworld.networks import CROP_SIZE_PX, RECOGNISER_WIDTHS, Detector, Recogniser, use_channels_last
from idanim.types import Face, FloatArray, IdanimError, UInt8Array

PICTURE_SIZE_PX = 32
NetworkT = TypeVar("NetworkT", bound=nn.Module)


class ToyFaceEngine:
    """Detection and recognition of toy faces. At most one face is found in a picture.

    Attributes:
        recogniser_file: the network whose vectors these are.

    Args:
        folder: holds `detector.safetensors` and `recogniser_<name>.safetensors`.
        recogniser: "a", the one that may serve as an encoder, or "b", which took no part in any training.
        det_threshold: faces of a lower score are not reported.
        device: where the networks run.

    Raises:
        IdanimError: a file of weights is missing.
    """

    def __init__(
        self, folder: str | Path, recogniser: str = "b", det_threshold: float = 0.5, device: str = "cpu"
    ) -> None:
        path = Path(folder) / f"recogniser_{recogniser}.safetensors"
        self._files = (Path(folder) / "detector.safetensors", path)
        self._detector = load_network(Detector(), self._files[0])
        self._recogniser = load_network(Recogniser(RECOGNISER_WIDTHS[recogniser]), path)
        for network in (self._detector, self._recogniser):
            use_channels_last(network.to(device))
        self._device = device
        self.recogniser_file = path
        # Vectors of other weights must not compare.
        self._name = f"toy/{recogniser}-{sha256(path)[:8]}"
        self.det_threshold = det_threshold

    @property
    def name(self) -> str:
        """Engine, recogniser and a digest of its weights."""
        return self._name

    @property
    def files(self) -> tuple[Path, ...]:
        """Detector and recogniser."""
        return self._files

    def detect(self, rgb: UInt8Array) -> list[Face]:
        """Find the face of [H, W, 3] uint8, if there is one."""
        return self.detect_many([rgb])[0]

    @torch.inference_mode()
    def detect_many(self, pictures: Sequence[UInt8Array]) -> list[list[Face]]:
        """Find the face of each of some pictures; see `BatchFaceEngine.detect_many`."""
        found = self._detector(torch.cat([small_square(rgb) for rgb in pictures]).to(self._device))
        detected = []
        for rgb, score, box, landmarks in zip(
            pictures, found.presence.sigmoid().tolist(), found.box.cpu(), found.landmarks.cpu(), strict=True
        ):
            side = max(rgb.shape[:2])
            left, top, right, bottom = (box * side - 0.5).tolist()
            face = Face((left, top, right, bottom), (landmarks * side - 0.5).numpy(), score)
            detected.append([face] if score >= self.det_threshold else [])
        return detected

    def embed(self, rgb: UInt8Array, face: Face) -> FloatArray:
        """Recognition vector of one face found in `rgb`: [128] float32 of unit length."""
        return np.asarray(self.embed_many([rgb], [face])[0], dtype=np.float32)

    @torch.inference_mode()
    def embed_many(self, pictures: Sequence[UInt8Array], faces: Sequence[Face]) -> FloatArray:
        """Vectors of one face of each picture, [K, 128]; see `BatchFaceEngine.embed_many`."""
        points = [
            (torch.from_numpy(np.asarray(face.landmarks)) + 0.5) * PICTURE_SIZE_PX / max(rgb.shape[:2]) - 0.5
            for rgb, face in zip(pictures, faces, strict=True)
        ]
        squares = torch.cat([small_square(rgb) for rgb in pictures]).to(self._device)
        crops = crop_faces(squares, torch.stack(points).float().to(self._device), CROP_SIZE_PX)
        return np.asarray(F.normalize(self._recogniser.embed(crops), dim=1).cpu().numpy(), dtype=np.float32)


def small_square(rgb: UInt8Array) -> Tensor:
    """Bring [H, W, 3] uint8 to [1, 3, 32, 32] in [-1, 1]; the shorter side is filled up with its last pixels."""
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float() / 127.5 - 1
    height, width = picture.shape[2:]
    side = max(height, width)
    if height != width:
        picture = F.pad(picture, (0, side - width, 0, side - height), mode="replicate")
    if side == PICTURE_SIZE_PX:
        return picture
    size = (PICTURE_SIZE_PX, PICTURE_SIZE_PX)
    return F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)


def load_network(network: NetworkT, path: Path) -> NetworkT:
    """Load weights strictly and freeze.

    Raises:
        IdanimError: there is no such file.
    """
    if not path.is_file():
        raise IdanimError(f"{path}: no such file; `make toy-weights` makes the weights of the toy world")
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    network.load_state_dict(state, strict=True)
    return network.requires_grad_(False).eval()
