"""Networks that judge aligned faces by other benchmarks' definitions, from the user's own files of weights.

CurricularFace (arXiv 2004.00288) is the IResNet-101 of TFace, whose checkpoints have the key names used here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from idanim.files import sha256
from idanim.models.checkpoint import load_strictly
from idanim.models.weight_file import read_weights
from idanim.types import FloatArray, IdanimError

STAGES = ((64, 3), (128, 13), (256, 30), (512, 3))
"""Width and number of blocks of each stage, each of which halves the resolution."""
VECTOR_WIDTH = 512


class _Block(nn.Module):
    """Two normalised 3×3 convolutions, the second with the stride, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        projected = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut_layer = nn.MaxPool2d(1, stride) if inputs == outputs else projected
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IResNet101(nn.Module):
    """Embeds aligned faces [N, 3, 112, 112] in [-1, 1] as [N, 512], not of unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        blocks, inputs = [], 64
        for width, count in STAGES:
            blocks += [_Block(inputs, width, 2), *(_Block(width, width, 1) for _ in range(count - 1))]
            inputs = width
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(inputs * 7 * 7, VECTOR_WIDTH),
            nn.BatchNorm1d(VECTOR_WIDTH, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed a batch."""
        features: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return features


class PictureNetwork:
    """A frozen network of pictures, with a name that tells its weights apart.

    Attributes:
        name: file and digest; figures of different names never compare.

    Args:
        run: [N, 3, S, S] float32 → [N, D].
        path: of the weights.
    """

    def __init__(self, run: Callable[[FloatArray], FloatArray], path: Path) -> None:
        self._run = run
        self.name = f"{path.name}-{sha256(path)[:8]}"

    def __call__(self, pictures: FloatArray) -> FloatArray:
        """Features of pictures [N, 3, S, S] float32: [N, D]."""
        return self._run(pictures)


def load_curricular_face(path: str | Path) -> PictureNetwork:
    """CurricularFace from its checkpoint (glint360k_curricular_face_r101_backbone.bin) or an .onnx file of it.

    Raises:
        IdanimError: no such file, or not such a network.
    """
    path = Path(path).expanduser()
    if path.suffix == ".onnx":
        return load_onnx(path)
    network, weights = IResNet101(), read_weights(path).tensors
    try:
        load_strictly(network, weights, "it")
    except IdanimError as error:
        raise IdanimError(f"{path}: not CurricularFace's IResNet-101 (its IR_101): {error}") from error
    network.requires_grad_(False).eval()
    return PictureNetwork(lambda crops: np.asarray(network(torch.from_numpy(crops)).numpy()), path)


def load_onnx(path: str | Path) -> PictureNetwork:
    """Any network of one input and one output from an .onnx file.

    Raises:
        IdanimError: no such file, onnxruntime is not installed, or it can't read the file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise IdanimError(f"{path}: there is no such file; expected a network as .onnx")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise IdanimError(f"{path} needs {error.name}: pip install 'idanim[faces]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        raise IdanimError(f"{path}: not a network that onnxruntime can run: {error}") from error
    name = session.get_inputs()[0].name
    return PictureNetwork(lambda pictures: np.asarray(session.run(None, {name: pictures})[0], dtype=np.float32), path)
