"""A recogniser's ONNX file as a torch module, against the runtime that insightface uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from idanim.models.face_alignment import ARCFACE_TEMPLATE, crop_faces, shrink_factor
from idanim.models.onnx_network import OPERATORS, OnnxNetwork
from idanim.models.recogniser import FaceRecogniser
from idanim.toyworld.shipped import shipped
from idanim.types import IdanimError

TOY = shipped("faces/recogniser_a.onnx")


def write_onnx(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], side: int = 8) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def by_runtime(path: str | Path, x: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_recogniser_gives_what_onnxruntime_gives() -> None:
    crops = torch.rand(3, 3, 112, 112) * 2 - 1
    torch.testing.assert_close(OnnxNetwork(TOY)(crops), by_runtime(TOY, crops), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("operator", "attributes", "constants"),
    [
        ("Conv", {"group": 2, "strides": [2, 1], "dilations": [1, 2], "pads": [1, 2, 1, 2]}, [random(6, 2, 3, 3)]),
        ("BatchNormalization", {"epsilon": 1e-3}, [random(4), random(4), random(4), np.abs(random(4))]),
        ("PRelu", {}, [random(4, 1, 1)]),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, []),
        ("GlobalAveragePool", {}, []),
        ("SpaceToDepth", {"blocksize": 2}, []),
        ("Reshape", {}, [np.array([0, 16, -1])]),
        ("Clip", {}, [np.float32(-0.5), np.float32(0.6)]),
        ("Sub", {}, [random(4, 1, 1)]),
        ("Flatten", {}, []),
    ],
)
def test_operator_gives_what_onnxruntime_gives(
    tmp_path: Path, operator: str, attributes: dict, constants: list
) -> None:
    assert operator in OPERATORS
    named = {f"c{i}": np.asarray(value) for i, value in enumerate(constants)}
    path = write_onnx(tmp_path / "net.onnx", [helper.make_node(operator, ["x", *named], ["y"], **attributes)], named)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(OnnxNetwork(path)(x), by_runtime(path, x), atol=1e-5, rtol=1e-5)


def test_gemm(tmp_path: Path) -> None:
    constants = {"w": random(5, 256), "b": random(5)}
    gemm = helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), gemm]
    path = write_onnx(tmp_path / "net.onnx", nodes, constants)
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(OnnxNetwork(path)(x), by_runtime(path, x), atol=1e-4, rtol=1e-5)


def test_wrong_files_are_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(IdanimError, match="no such file"):
        FaceRecogniser(tmp_path / "missing.onnx")
    (tmp_path / "text.onnx").write_text("this is no network")
    with pytest.raises(IdanimError, match="not an ONNX"):
        FaceRecogniser(tmp_path / "text.onnx")
    other = write_onnx(tmp_path / "other.onnx", [helper.make_node("Sin", ["x"], ["y"])], {})
    with pytest.raises(IdanimError, match="Sin"):
        FaceRecogniser(other)
    with pytest.raises(IdanimError, match=r"backbone\.recogniser"):
        FaceRecogniser(None)


def test_network_that_normalises_itself_gets_bytes(tmp_path: Path) -> None:
    """Old ArcFace files subtract 127.5 and scale inside; insightface tells them by their first operators."""
    constants = {"mean": np.float32(127.5), "scale": np.float32(1 / 128)}
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["moved"]),
        helper.make_node("Mul", ["moved", "scale"], ["y"]),
    ]
    recogniser = FaceRecogniser(write_onnx(tmp_path / "old.onnx", nodes, constants))
    assert recogniser.takes_bytes
    x = torch.rand(1, 4, 8, 8) * 2 - 1
    expected = torch.nn.functional.normalize(x.flatten(1) * 127.5 / 128, dim=1)
    torch.testing.assert_close(recogniser(x), expected, atol=1e-5, rtol=1e-4)


def test_gradient_reaches_the_picture_and_nothing_else() -> None:
    recogniser = FaceRecogniser(TOY)
    pictures = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    landmarks = ARCFACE_TEMPLATE[None].expand(2, -1, -1) * 32 / 112
    vectors = recogniser.embed_at(pictures, landmarks)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    vectors[:, 0].sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0
    assert list(recogniser.parameters()) == []


def test_large_faces_are_averaged_and_not_skipped() -> None:
    """A fine checkerboard is grey at 112 px; picking every fourth pixel would show it black or white."""
    landmarks = ARCFACE_TEMPLATE[None] * 4
    assert shrink_factor(landmarks) == 4
    assert shrink_factor(ARCFACE_TEMPLATE[None]) == shrink_factor(ARCFACE_TEMPLATE[None] / 3) == 1
    rows = torch.arange(448)
    board = ((rows[:, None] + rows) % 2 * 2.0 - 1).expand(1, 3, -1, -1)
    crop = torch.nn.functional.avg_pool2d(crop_faces(board, landmarks, 448), 4)
    assert crop[..., 8:-8, 8:-8].abs().max() < 0.3


def test_it_moves_but_keeps_its_precision() -> None:
    recogniser = FaceRecogniser(TOY)
    crops = torch.rand(2, 3, 112, 112) * 2 - 1
    before = recogniser(crops)
    assert torch.equal(recogniser.to(torch.bfloat16)(crops), before)
    assert recogniser.to("meta").network.get_buffer("constant_0").is_meta
