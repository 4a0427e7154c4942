"""Write a toy recogniser as an ONNX file in the layout that insightface loads as ArcFace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from idanim.models.face_alignment import ARCFACE_SIZE_PX
from idanim.toyworld.networks import EMBEDDING_WIDTH, Recogniser, ResidualBlock

OPSET = 13


class _Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, value: Tensor) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.detach().cpu().numpy().astype(np.float32), name))
        return name

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        name = output or f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"{kind}_{len(self.nodes)}", **attributes))
        return name

    def convolution(self, x: str, layer: nn.Conv2d, norm: nn.BatchNorm2d | None) -> str:
        weight = layer.weight
        inputs = [x]
        if norm is None:
            inputs.append(self.weight(weight))
        else:
            gain, shift = _affine(norm)
            inputs += [self.weight(weight * gain[:, None, None, None]), self.weight(shift)]
        kernel, stride, padding = list(layer.kernel_size), list(layer.stride), list(layer.padding) * 2
        return self.add("Conv", *inputs, kernel_shape=kernel, strides=stride, pads=padding)

    def residual_block(self, x: str, block: ResidualBlock) -> str:
        branch = self.add("Relu", self.convolution(x, block.conv1, block.norm1))
        branch = self.convolution(branch, block.conv2, block.norm2)
        shortcut = x
        if isinstance(block.shortcut, nn.Conv2d):
            shortcut = self.convolution(x, block.shortcut, None)
        return self.add("Relu", self.add("Add", branch, shortcut))


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Give the gain and shift that a batch normalisation applies in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return gain, norm.bias - norm.running_mean * gain


@torch.no_grad()
def export_recogniser(recogniser: Recogniser, path: Path) -> None:
    """Write `recogniser` (in evaluation mode) to `path`, with its normalisation folded into convolutions.

    The input "input.1" is [N, 3, 112, 112] RGB, (pixel - 127.5) / 127.5; the output is [N, 128].
    """
    graph = _Graph()
    x = graph.add("AveragePool", "input.1", kernel_shape=[4, 4], strides=[4, 4])
    layers: list[Any] = list(recogniser.trunk)
    _, first, norm, _, *blocks, _ = layers
    # PixelUnshuffle orders channels as (colour, row, column), SpaceToDepth as (row, column, colour).
    order = torch.arange(12).reshape(3, 2, 2).permute(1, 2, 0).flatten()
    x = graph.add("SpaceToDepth", x, blocksize=2)
    reordered = nn.Conv2d(12, first.out_channels, 3, 1, 1, bias=False)
    reordered.weight.copy_(first.weight[:, order])
    x = graph.add("Relu", graph.convolution(x, reordered, norm))
    for block in blocks:
        x = graph.residual_block(x, block)
    x = graph.add("Flatten", x)
    gain, shift = _affine(recogniser.norm)
    weight = recogniser.project.weight * gain[:, None]
    bias = recogniser.project.bias * gain + shift
    graph.add("Gemm", x, graph.weight(weight), graph.weight(bias), output="embedding", transB=1)
    size = ARCFACE_SIZE_PX
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "toy_arcface",
            [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", EMBEDDING_WIDTH])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
