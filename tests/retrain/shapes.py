"""Models without training: a threshold on the mean brightness, one weight of it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PX = 32


def brightness(shift: float, px: int = PX) -> bytes:
    """Two classes by the mean of red and green, moved by `shift`; a self-contained ONNX [n, 3, px, px] -> [n, 2]."""
    w = np.array([[0.05, -0.05], [-0.05, 0.05], [0.01, -0.01]], np.float32)
    b = np.array([shift, -shift], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "brightness", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, px, px])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
