"""An ONNX network as a torch module, so that gradients flow through it and it runs on any device.

Knows the operators of the usual face recognisers (ArcFace's ResNets, MobileFaceNet), and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idanim.types import IdanimError

Attributes = Mapping[str, Any]


def _padding(attributes: Attributes) -> tuple[int, int]:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise IdanimError(f"ONNX padding {attributes.get('pads')}: only the same on opposite sides is known")
    return top, left


def _conv(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    stride, dilation = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, stride, _padding(attributes), dilation, attributes.get("group", 1))


def _batch_norm(
    attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.T if attributes.get("transA") else a
    right = b.T if attributes.get("transB") else b
    product = attributes.get("alpha", 1.0) * (left @ right)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    inside = not attributes.get("count_include_pad", 0)
    return F.avg_pool2d(
        x,
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        _padding(attributes),
        count_include_pad=not inside,
    )


def _prelu(attributes: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    # ONNX numbers the place within the block before the channel, torch after it.
    size = attributes["blocksize"]
    return F.pixel_unshuffle(x, size).unflatten(1, (-1, size * size)).transpose(1, 2).flatten(1, 2)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sides = [
        x.shape[i] if side == 0 and not attributes.get("allowzero") else side for i, side in enumerate(shape.tolist())
    ]
    return x.reshape(sides)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda attributes, a, b: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": lambda attributes, x, low=None, high=None: torch.clamp(x, low, high),
    "Conv": _conv,
    "Div": lambda attributes, a, b: a / b,
    "Dropout": lambda attributes, x, *unused: x,
    "Flatten": lambda attributes, x: x.flatten(attributes.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda attributes, x: x.mean((2, 3), keepdim=True),
    "Identity": lambda attributes, x: x,
    "MatMul": lambda attributes, a, b: a @ b,
    "Mul": lambda attributes, a, b: a * b,
    "PRelu": _prelu,
    "Relu": lambda attributes, x: F.relu(x),
    "Reshape": _reshape,
    "Sigmoid": lambda attributes, x: torch.sigmoid(x),
    "SpaceToDepth": _space_to_depth,
    "Sub": lambda attributes, a, b: a - b,
}


class _Step(NamedTuple):
    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


class OnnxNetwork(nn.Module):
    """A network of one input and one output, read from an .onnx file; frozen.

    Args:
        path: the file.

    Raises:
        IdanimError: no such file, not an ONNX network, or one with an unknown operator.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        graph = _read_graph(Path(path).expanduser())
        self._constants: dict[str, str] = {}  # name in the graph → name of the buffer
        for name, value in _constants(graph).items():
            self._constants[name] = f"constant_{len(self._constants)}"
            self.register_buffer(self._constants[name], value, persistent=False)
        self._steps = [_step(node) for node in graph.node if node.op_type != "Constant"]
        self._input = next(value.name for value in graph.input if value.name not in self._constants)
        self._output = graph.output[0].name
        unknown = sorted({step.operator for step in self._steps} - set(OPERATORS))
        if unknown:
            raise IdanimError(f"{path}: operators {', '.join(unknown)} are not known; known are {', '.join(OPERATORS)}")
        self.requires_grad_(False).eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnnxNetwork:
        """Move, but stay in the file's own precision: recognition suffers from less, and costs little."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(moved, recurse)
        return self

    @property
    def first_operators(self) -> list[str]:
        """The first eight operators; they tell whether the network normalises its input itself."""
        return [step.operator for step in self._steps[:8]]

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        values = {name: self.get_buffer(buffer) for name, buffer in self._constants.items()}
        values[self._input] = x
        for step in self._steps:
            inputs = [values[name] if name else None for name in step.inputs]
            values[step.output] = OPERATORS[step.operator](step.attributes, *inputs)
        return values[self._output]


def _read_graph(path: Path) -> Any:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise IdanimError(f"{path}: reading it needs onnx; install the extra: pip install 'idanim[faces]'") from error
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise IdanimError(
            f"{path}: no such file; expected a face recogniser as .onnx, for instance ArcFace's w600k_r50.onnx"
        )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise IdanimError(f"{path}: not an ONNX file ({error})") from error
    if not model.graph.node:
        raise IdanimError(f"{path}: not an ONNX network: there is no operator in it")
    return model.graph


def _constants(graph: Any) -> dict[str, Tensor]:
    from onnx import numpy_helper

    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = next(attribute.t for attribute in node.attribute if attribute.name == "value")
    return {name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for name, tensor in found.items()}


def _step(node: Any) -> _Step:
    from onnx import helper

    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return _Step(node.op_type, tuple(node.input), node.output[0], attributes)
