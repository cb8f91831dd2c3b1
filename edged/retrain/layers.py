"""An ONNX classifier as a plain list of layers with their weights: what writers of other formats start from.

Guarantees: a quantized file (QDQ) reads as the float network that it stands for, with the ranges that its scales span; what
is not understood is refused by the names of its operator and node. Does not guarantee every spelling of a layer: those that
`export`, `intake`, `methods` and torch's exporter write are known.

Semantics of each operator: https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engine import onnx_file
from edged.engine.onnx_file import Takes
from edged.errors import Refused
from edged.retrain import source

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """One operator. Tensors are NCHW; `pads` are top, left, bottom, right.

    conv (weight [out, in / group, h, w], bias [out]), gemm (weight [out, in], bias [out]), scale (x * weight + bias, one
    number a channel), relu, clip (low, high), maxpool, avgpool (kernel (0, 0): all of it), flatten, add, concat (channels),
    gather (weight: the order of the channels)
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    weight: Array | None = None
    bias: Array | None = None
    group: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil: bool = False
    low: float = -np.inf
    high: float = np.inf


@dataclass(frozen=True)
class Net:
    """`input` is the tensor [n, 3, px, px] that layers see: RGB 0..255, or BGR where the file takes uint8."""

    layers: tuple[Layer, ...]
    input: str
    output: str
    takes: Takes
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # of tensors, where the file's scales say them
    px: int = 0  # side of the picture


def read(model: bytes) -> Net:
    """Raises Refused (code bad_layer) for a layer that is not understood, bad_model for what is no ONNX model."""
    facts = onnx_file.check(model)
    return _Reader(source.parse(model), facts.input_name, facts.takes).net()


class _Reader:
    def __init__(self, model: Any, name: str, takes: Takes) -> None:
        from onnx import numpy_helper

        self._array = numpy_helper.to_array
        self._graph = model.graph
        self._consts: dict[str, Array] = {t.name: self._array(t) for t in model.graph.initializer}
        self._same: dict[str, str] = {}  # another name of the same tensor
        self._ranges: dict[str, tuple[float, float]] = {}
        self._scales: dict[str, tuple[Array, Array]] = {}
        self._layers: list[Layer] = []
        self._name, self._takes = name, takes

    def net(self) -> Net:
        if len(self._graph.output) != 1:
            raise Refused(f"it has {len(self._graph.output)} outputs; one is needed", code="bad_layer")
        for i, node in enumerate(self._graph.node):
            self._node(node, node.name or f"node {i}")
        entry = next(i for i in self._graph.input if i.name == self._name)
        sides = [d.dim_value for d in entry.type.tensor_type.shape.dim]
        if len(sides) != 4:
            raise Refused("its input is no picture", code="bad_layer")
        made = {self._name, *(layer.output for layer in self._layers)}
        output = self._of(self._graph.output[0].name)
        if output not in made:
            raise Refused("its output is a constant", code="bad_layer")
        return Net(tuple(self._layers), self._name, output, self._takes, self._ranges, sides[2])

    def _of(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    def _const(self, node: Any, i: int) -> Array | None:
        return self._consts.get(node.input[i]) if len(node.input) > i and node.input[i] else None

    def _node(self, node: Any, name: str) -> None:
        from onnx import helper

        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        known = getattr(self, f"_read_{node.op_type.lower()}", None)
        if node.domain not in ("", "ai.onnx") or known is None:
            raise _refused(node, name, "it is not known here")
        known(node, name, attributes)

    def _add(self, op: str, node: Any, name: str, inputs: int = 1, **more: Any) -> None:
        wanted = tuple(self._of(n) for n in node.input[:inputs])
        made = {self._name, *(layer.output for layer in self._layers)}
        if missing := [n for n in wanted if n not in made]:
            raise _refused(node, name, f"its input {missing[0]!r} is no tensor of the network")
        self._layers.append(Layer(op, name, wanted, node.output[0], **more))

    # constants and other names

    def _read_constant(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if "value" not in a:
            raise _refused(node, name, "its value is of another kind")
        self._consts[node.output[0]] = self._array(a["value"])

    def _read_identity(self, node: Any, name: str, a: dict[str, Any]) -> None:
        value = self._const(node, 0)
        if value is None:
            self._same[node.output[0]] = self._of(node.input[0])
        else:
            self._consts[node.output[0]] = value

    _read_dropout = _read_identity

    def _read_cast(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if a.get("to") != onnx_file.FLOAT or self._of(node.input[0]) != self._name:
            raise _refused(node, name, "only the input is cast, to float")
        self._same[node.output[0]] = self._name

    def _read_transpose(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if self._of(node.input[0]) != self._name or list(a.get("perm", [])) != [0, 3, 1, 2] or self._takes != "uint8":
            raise _refused(node, name, "only the picture is turned, from NHWC to NCHW")
        self._same[node.output[0]] = self._name

    def _read_gather(self, node: Any, name: str, a: dict[str, Any]) -> None:
        order = self._const(node, 1)
        if order is None or order.ndim != 1 or a.get("axis", 0) != 1:
            raise _refused(node, name, "only channels are put into another order")
        self._add("gather", node, name, weight=order.astype(np.int64))

    def _read_quantizelinear(self, node: Any, name: str, a: dict[str, Any]) -> None:
        scale, zero = self._const(node, 1), self._const(node, 2)
        if scale is None or zero is None:
            raise _refused(node, name, "its scale is not a constant")
        value = self._const(node, 0)
        if value is not None:
            low, high = np.iinfo(zero.dtype).min, np.iinfo(zero.dtype).max
            turned = np.rint(value / _along(scale, value, a)) + _along(zero, value, a)
            self._consts[node.output[0]] = np.clip(turned, low, high).astype(zero.dtype)
            return
        if scale.size != 1 or zero.dtype not in (np.uint8, np.int8):
            raise _refused(node, name, "one scale and 8 bits are expected")
        kept = np.iinfo(zero.dtype)
        s, z = float(scale.reshape(())), int(zero.reshape(()))
        tensor = self._of(node.input[0])
        self._ranges[tensor] = ((kept.min - z) * s, (kept.max - z) * s)
        self._same[node.output[0]] = tensor

    def _read_dequantizelinear(self, node: Any, name: str, a: dict[str, Any]) -> None:
        value, scale, zero = (self._const(node, i) for i in range(3))
        if value is None:
            self._same[node.output[0]] = self._of(node.input[0])
        elif scale is None:
            raise _refused(node, name, "its scale is not a constant")
        else:
            z = 0.0 if zero is None else _along(zero, value, a).astype(np.float64)
            self._consts[node.output[0]] = ((value.astype(np.float64) - z) * _along(scale, value, a)).astype(np.float32)

    # layers

    def _read_conv(self, node: Any, name: str, a: dict[str, Any]) -> None:
        weight, bias = self._const(node, 1), self._const(node, 2)
        if weight is None or weight.ndim != 4 or (len(node.input) > 2 and node.input[2] and bias is None):
            raise _refused(node, name, "a convolution over pictures with constant weights is expected")
        shared = _window(node, name, a) | {"dilations": tuple(a.get("dilations", (1, 1))), "group": a.get("group", 1)}
        shared["kernel"] = weight.shape[2:]
        self._add("conv", node, name, weight=_numbers(node, name, weight), bias=_bias(node, name, bias, len(weight)),
                  **shared)  # fmt: skip

    def _read_gemm(self, node: Any, name: str, a: dict[str, Any]) -> None:
        weight, bias = self._const(node, 1), self._const(node, 2)
        if weight is None or a.get("alpha", 1) != 1 or a.get("beta", 1) != 1 or a.get("transA", 0):
            raise _refused(node, name, "x W + b with constant weights is expected")
        weight = weight if a.get("transB", 0) else weight.T
        self._add("gemm", node, name, weight=_numbers(node, name, weight), bias=_bias(node, name, bias, len(weight)))

    def _read_matmul(self, node: Any, name: str, a: dict[str, Any]) -> None:
        weight = self._const(node, 1)
        if weight is None or weight.ndim != 2:
            raise _refused(node, name, "a constant matrix is expected")
        self._add("gemm", node, name, weight=_numbers(node, name, weight.T), bias=np.zeros(weight.shape[1], np.float32))

    def _read_add(self, node: Any, name: str, a: dict[str, Any]) -> None:
        consts = [self._const(node, i) for i in range(2)]
        if consts[0] is None and consts[1] is None:
            return self._add("add", node, name, 2)
        return self._scale(node, name, consts)

    def _read_mul(self, node: Any, name: str, a: dict[str, Any]) -> None:
        self._scale(node, name, [self._const(node, i) for i in range(2)])

    _read_sub = _read_div = _read_mul

    def _scale(self, node: Any, name: str, consts: list[Array | None]) -> None:
        at = 1 if consts[1] is not None else 0
        value = consts[at]
        if value is None or (at == 0 and node.op_type in ("Sub", "Div")):
            raise _refused(node, name, "one constant, behind the tensor, is expected")
        channels = [n for n in value.shape if n != 1]
        if len(channels) > 1 or (value.ndim > 2 and value.ndim - 3 >= 0 and value.shape[-1] * value.shape[-2] != 1):
            raise _refused(node, name, "one number, or one for each channel, is expected")
        flat, one = _numbers(node, name, value).reshape(-1), np.ones(1, np.float32)
        gain, offset = {
            "Add": (one, flat), "Sub": (one, -flat), "Mul": (flat, 0 * flat), "Div": (1 / flat, 0 * flat),
        }[node.op_type]  # fmt: skip
        gain, offset = np.broadcast_arrays(gain, offset)
        inputs = (self._of(node.input[1 - at]),)
        self._layers.append(Layer("scale", name, inputs, node.output[0], weight=gain.copy(), bias=offset.copy()))

    def _read_batchnormalization(self, node: Any, name: str, a: dict[str, Any]) -> None:
        values = [self._const(node, i) for i in range(1, 5)]
        if any(v is None for v in values):
            raise _refused(node, name, "constant statistics are expected")
        gain, offset, mean, variance = (np.asarray(v, np.float64) for v in values)
        gain = gain / np.sqrt(variance + a.get("epsilon", 1e-5))
        self._add("scale", node, name, weight=gain.astype(np.float32), bias=(offset - mean * gain).astype(np.float32))

    def _read_relu(self, node: Any, name: str, a: dict[str, Any]) -> None:
        self._add("relu", node, name)

    def _read_clip(self, node: Any, name: str, a: dict[str, Any]) -> None:
        low, high = self._const(node, 1), self._const(node, 2)
        self._add("clip", node, name, low=a.get("min", -np.inf) if low is None else float(low),
                  high=a.get("max", np.inf) if high is None else float(high))  # fmt: skip

    def _read_maxpool(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if len(node.output) > 1 or set(a.get("dilations", (1, 1))) != {1} or a.get("storage_order", 0):
            raise _refused(node, name, "a plain window is expected")
        self._add("maxpool", node, name, **_window(node, name, a), ceil=bool(a.get("ceil_mode", 0)))

    def _read_averagepool(self, node: Any, name: str, a: dict[str, Any]) -> None:
        window = _window(node, name, a)
        padded = any(window["pads"]) and not a.get("count_include_pad", 0)
        if padded or a.get("ceil_mode", 0) or set(a.get("dilations", (1, 1))) != {1}:
            raise _refused(node, name, "windows that all hold the same number of values are expected")
        self._add("avgpool", node, name, **window)

    def _read_globalaveragepool(self, node: Any, name: str, a: dict[str, Any]) -> None:
        self._add("avgpool", node, name, kernel=(0, 0))

    def _read_reducemean(self, node: Any, name: str, a: dict[str, Any]) -> None:
        axes = self._const(node, 1)
        if sorted(int(n) % 4 for n in (a.get("axes", []) if axes is None else axes)) != [2, 3]:
            raise _refused(node, name, "a mean over height and width is expected")
        if a.get("keepdims", 1):
            return self._add("avgpool", node, name, kernel=(0, 0))
        inner = f"{node.output[0]}/kept"
        self._layers.append(Layer("avgpool", name, (self._of(node.input[0]),), inner, kernel=(0, 0)))
        self._layers.append(Layer("flatten", name, (inner,), node.output[0]))
        return None

    def _read_flatten(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if a.get("axis", 1) != 1:
            raise _refused(node, name, "all but the pictures is to be flattened")
        self._add("flatten", node, name)

    def _read_reshape(self, node: Any, name: str, a: dict[str, Any]) -> None:
        shape = self._const(node, 1)
        if shape is None or shape.size != 2 or not (shape[0] in (0, -1) or shape[1] == -1):
            raise _refused(node, name, "only a flattening is known")
        self._add("flatten", node, name)

    def _read_concat(self, node: Any, name: str, a: dict[str, Any]) -> None:
        if a.get("axis") != 1:
            raise _refused(node, name, "only channels are joined")
        self._add("concat", node, name, len(node.input))


def _window(node: Any, name: str, a: dict[str, Any]) -> dict[str, Any]:
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        raise _refused(node, name, "its padding is not written out")
    return {
        "kernel": tuple(a.get("kernel_shape", (1, 1))),
        "strides": tuple(a.get("strides", (1, 1))),
        "pads": tuple(a.get("pads", (0, 0, 0, 0))),
    }


def _numbers(node: Any, name: str, value: Array) -> Array:
    if not np.isfinite(value).all():
        raise _refused(node, name, "its weights are no numbers")
    return np.ascontiguousarray(value, np.float32)


def _bias(node: Any, name: str, value: Array | None, n: int) -> Array:
    return np.zeros(n, np.float32) if value is None else np.broadcast_to(_numbers(node, name, value).reshape(-1), (n,))


def _along(scale: Array, value: Array, a: dict[str, Any]) -> Array:
    """A scale so shaped that it multiplies the axis that it belongs to."""
    if scale.size == 1:
        return scale.reshape(())
    shape = [1] * value.ndim
    shape[a.get("axis", 1)] = -1
    return scale.reshape(shape)


def _refused(node: Any, name: str, why: str) -> Refused:
    return Refused(f"layer {name[:60]!r} ({node.op_type}) cannot be converted: {why}", code="bad_layer")
