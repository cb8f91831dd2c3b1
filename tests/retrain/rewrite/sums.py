"""Models of one convolution, and what they must answer by plain sums in float64."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def one(inputs, outputs, size, kernel, stride=1, pads=(0, 0, 0, 0), *, bias=True, seed=0, groups=1, more=()):
    """ONNX bytes of one Conv, its weights and its bias (None). `more`: further attributes."""
    dice = np.random.default_rng(seed)
    weights = (dice.normal(size=(outputs, inputs // groups, *kernel)) / np.sqrt(inputs * np.prod(kernel))).astype(
        np.float32
    )
    extra = dice.normal(size=outputs).astype(np.float32) if bias else None
    constants = [numpy_helper.from_array(weights, "w")]
    constants += [numpy_helper.from_array(extra, "b")] if bias else []
    node = helper.make_node(
        "Conv", ["x", *(t.name for t in constants)], ["y"], kernel_shape=kernel, strides=[stride] * 2, pads=pads, group=groups,
        **dict(more),
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", inputs, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", outputs, None, None])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="edged.classes", value='["a", "b"]')
    return model.SerializeToString(), weights, extra


def summed(maps, weights, bias, stride, pads):
    """The convolution by its definition, in float64."""
    maps = np.pad(maps.astype(np.float64), [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])])
    views = np.lib.stride_tricks.sliding_window_view(maps, weights.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    made = np.einsum("ncijuv,ocuv->noij", views, weights.astype(np.float64))
    return made if bias is None else made + bias[:, None, None]
