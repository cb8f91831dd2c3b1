"""Detectors as ONNX files, small enough to be built in a test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CELL = 16


def colour_net(kind: str, *, classes: int = 1, size: float = 28.0) -> bytes:
    """Layout yolo: a box of `size` pixels on every 16x16 cell with a pixel in the planted colour (signed.py) of `kind`.

    The score stands in the last class; the other classes never score.
    """
    low = 1 if kind == "face" else 2  # channel, BGR, that the colour lacks
    others = [i for i in range(3) if i != low]
    apart = np.zeros((2, 3, 1, 1), np.float32)
    for row, channel in enumerate(others):
        apart[row, channel], apart[row, low] = 1, -1
    constants = {
        "apart": apart, "sixty": np.float32(60), "tenth": np.float32(0.1), "two": np.array([1, 1], np.int64),
        "zero": np.float32(0), "one": np.float32(1), "row": np.int64(2), "column": np.int64(3),
        "half": np.float32(0.5), "cell": np.float32(CELL), "size": np.float32(size),
        "flat": np.array([1, 1, -1], np.int64),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "apart"], ["differences"]),
        node("Split", ["differences", "two"], ["a", "b"], axis=1),
        node("Min", ["a", "b"], ["least"]),
        node("Sub", ["least", "sixty"], ["over"]),
        node("Mul", ["over", "tenth"], ["logit"]),
        node("Sigmoid", ["logit"], ["chance"]),
        node("MaxPool", ["chance"], ["score"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        node("Mul", ["score", "zero"], ["nothing"]),
        node("Add", ["nothing", "one"], ["ones"]),
        node("Mul", ["ones", "size"], ["side"]),
    ]
    for axis, name in (("column", "x"), ("row", "y")):
        nodes += [
            node("CumSum", ["ones", axis], [f"{name}1"]),
            node("Sub", [f"{name}1", "half"], [f"{name}2"]),
            node("Mul", [f"{name}2", "cell"], [f"{name}3"]),
        ]
    columns = ["x3", "y3", "side", "side", "score", *(["nothing"] * (classes - 1)), "ones"]
    for i, name in enumerate(columns):
        nodes.append(node("Reshape", [name, "flat"], [f"c{i}"]))
    nodes.append(node("Concat", [f"c{i}" for i in range(len(columns))], ["columns"], axis=1))
    nodes.append(node("Transpose", ["columns"], ["found"], perm=[0, 2, 1]))
    return _model(nodes, constants, {"found": ["n", "m", 5 + classes]})


def fixed_net(**outputs: np.ndarray) -> bytes:
    """Answers with these float32 arrays whatever the picture."""
    node = helper.make_node
    nodes = [node("ReduceMean", ["image"], ["mean"], keepdims=0), node("Mul", ["mean", "zero"], ["nothing"])]
    constants: dict[str, np.ndarray] = {"zero": np.float32(0)}
    for name, value in outputs.items():
        constants[f"is_{name}"] = np.asarray(value, np.float32)
        nodes.append(node("Add", [f"is_{name}", "nothing"], [name]))
    return _model(nodes, constants, {name: list(np.shape(value)) for name, value in outputs.items()})


def _model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: dict[str, list[int | str]]
) -> bytes:
    graph = helper.make_graph(
        list(nodes), "detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())
