"""Int8 in ONNX's QDQ form, written node by node: what `qat` has learned, and the arithmetic that both runtimes compute.

    weights      int8, symmetric, a scale for each output channel, 7 of 8 bits (-64..64; why: int8.py)
    activations  uint8, a scale and a zero point for each tensor
    biases       int32, scale = that of the input times that of the weights

The input of each layer passes QuantizeLinear and DequantizeLinear; where a max pool stands before it the same pair stands
before the pool too (it commutes with rounding), so that a runtime finds whole int8 patterns. Guarantees: pure; the same
model and values give the same bytes. Does not guarantee anything about nodes other than Conv and Gemm: they stay float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Refused
from edged.retrain import source

WEIGHT_MOST = 64  # 255 * 64 * 2 fits into 16 bits with sign: sums of pairs do not saturate without VNNI
LEVELS = 255
BIAS_MOST = 2**30


@dataclass(frozen=True)
class Grid:
    """Where a tensor's values lie: scale * (q - zero), q = 0..255."""

    scale: float
    zero: int


def grid(low: float, high: float) -> Grid:
    """The grid over low..high, widened to hold 0 exactly (Jacob et al., arXiv 1712.05877, section 3.1)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max(high - low, 1e-8) / LEVELS))
    return Grid(scale, int(np.clip(np.rint(-low / scale), 0, LEVELS)))


def weight_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """One for each output channel (axis 0)."""
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1)
    return np.asarray(np.maximum(largest, 1e-8) / WEIGHT_MOST, np.float32)


def write(model: bytes, inputs: Mapping[str, Grid]) -> bytes:
    """ONNX bytes of a float model -> the same in int8. `inputs`: name of a layer's weight -> the grid of its input; layers
    that are not named stay float. Raises Refused (code bad_model) for a name that no Conv or Gemm has.
    """
    import onnx

    parsed = source.parse(model)
    graph = parsed.graph
    weights = {t.name: t for t in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:  # torch writes equal tensors once, and the others as copies of it
        if node.op_type == "Identity" and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    writer = _Writer(onnx, {})
    after: list[Any] = []
    found = set()
    for node in graph.node:
        name = node.input[1] if node.op_type in ("Conv", "Gemm") and len(node.input) > 1 else ""
        if name in inputs and name in weights:
            found.add(name)
            at = inputs[name]
            maker = makers.get(node.input[0])
            if maker is not None and maker.op_type == "MaxPool":
                moved = [n for n in after if n.output and n.output[0] == maker.output[0]]
                if moved:
                    place = after.index(moved[0])
                    pair: list[Any] = []
                    moved[0].input[0] = writer.pair(moved[0].input[0], at, pair)
                    after[place:place] = pair
            node.input[0] = writer.pair(node.input[0], at, after)
            writer.layer(node, weights, at, after)
        after.append(node)
    if missing := sorted(set(inputs) - found):
        raise Refused(f"no convolution or full connection has the weights {', '.join(missing[:3])}", code="bad_model")
    used = {name for node in after for name in node.input}
    after = [n for n in after if n.op_type != "Identity" or n.output[0] in used]
    used = {name for node in after for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.node[:]
    graph.node.extend(after)
    del graph.initializer[:]
    graph.initializer.extend([*kept, *writer.made])
    del graph.value_info[:]
    onnx.checker.check_model(parsed, full_check=True)
    return bytes(parsed.SerializeToString(deterministic=True))


class _Writer:
    def __init__(self, onnx: Any, pairs: dict[tuple[str, Grid], str]) -> None:
        self._onnx, self._pairs = onnx, pairs
        self.made: list[Any] = []

    def pair(self, tensor: str, at: Grid, into: list[Any]) -> str:
        """QuantizeLinear and DequantizeLinear behind `tensor`; the name of what comes out. Made once for a grid."""
        if (tensor, at) in self._pairs:
            return self._pairs[tensor, at]
        name = f"{tensor}/int8.{len(self._pairs)}"
        scale = self._constant(f"{name}/scale", np.array(at.scale, np.float32))
        zero = self._constant(f"{name}/zero", np.array(at.zero, np.uint8))
        make = self._onnx.helper.make_node
        into.append(make("QuantizeLinear", [tensor, scale, zero], [f"{name}/q"], name=f"{name}/Q"))
        into.append(make("DequantizeLinear", [f"{name}/q", scale, zero], [name], name=f"{name}/D"))
        self._pairs[tensor, at] = name
        return name

    def layer(self, node: Any, weights: Mapping[str, Any], at: Grid, into: list[Any]) -> None:
        """The weights and the bias of one Conv or Gemm."""
        if node.op_type == "Gemm" and not any(a.name == "transB" and a.i == 1 for a in node.attribute):
            raise Refused("a full connection holds its weights the other way round", code="bad_model")
        name = node.input[1]
        weight = self._onnx.numpy_helper.to_array(weights[name]).astype(np.float32)
        scales, bias = weight_scales(weight), None
        if len(node.input) > 2 and node.input[2]:
            bias = self._onnx.numpy_helper.to_array(weights[node.input[2]]).astype(np.float64)
            # Where a channel has hardly any weights its bias would not fit into 32 bits on their grid.
            scales = np.maximum(scales, (np.abs(bias) / (BIAS_MOST * at.scale)).astype(np.float32))
        shape = (-1, *(1,) * (weight.ndim - 1))
        whole = np.clip(np.rint(weight / scales.reshape(shape)), -WEIGHT_MOST, WEIGHT_MOST).astype(np.int8)
        node.input[1] = self._decoded(name, whole, scales, np.zeros(len(scales), np.int8), into)
        if bias is not None:
            steps = scales * np.float32(at.scale)
            whole = np.rint(bias / steps).astype(np.int32)
            node.input[2] = self._decoded(node.input[2], whole, steps, np.zeros(len(steps), np.int32), into)

    def _decoded(self, name: str, whole: Any, scales: Any, zeros: Any, into: list[Any]) -> str:
        names = [
            self._constant(f"{name}/{what}", v) for what, v in (("int", whole), ("scale", scales), ("zero", zeros))
        ]
        made = f"{name}/int8"
        into.append(self._onnx.helper.make_node("DequantizeLinear", names, [made], name=f"{made}/D", axis=0))
        return made

    def _constant(self, name: str, values: Any) -> str:
        self.made.append(self._onnx.numpy_helper.from_array(values, name))
        return name
