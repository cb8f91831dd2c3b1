"""Small ONNX models made on the spot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def _classifier(batch: int | str = "n", px: int = 16, classes: int = 3) -> onnx.ModelProto:
    """image [n,3,px,px] -> convolution -> relu -> global mean -> logits [n,classes]."""
    rng = np.random.default_rng(7)
    conv = numpy_helper.from_array(rng.normal(size=(8, 3, 3, 3)).astype(np.float32) / 255, "conv.w")
    head = numpy_helper.from_array(rng.normal(size=(8, classes)).astype(np.float32), "head.w")
    nodes = [
        helper.make_node("Conv", ["image", "conv.w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "head.w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, px, px])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes]),
            helper.make_tensor_value_info("g", TensorProto.FLOAT, [batch, 8, 1, 1]),
        ],
        [conv, head],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def classifier():
    """A function that makes the model."""
    return _classifier
