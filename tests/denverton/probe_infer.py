"""One inference on each runtime, in float and in int8: a small convolutional network must answer as numpy says.

The network is built from onnx's own helpers with whole-numbered weights, so the right answer is known exactly.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edged import engine
from edged.clock import stopwatch

PX = 8


def model(int8: bool) -> tuple[bytes, np.ndarray]:
    """conv 3x3 (no padding) -> ReLU -> mean over the picture; returns it with its weights [4, 3, 3, 3].

    In int8 the weights and the picture pass through quantisation with scale 1, which changes neither.
    """
    weights = (np.arange(4 * 27).reshape(4, 3, 3, 3) % 7 - 3).astype(np.float32)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, PX, PX])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    constants = [numpy_helper.from_array(weights.astype(np.int8) if int8 else weights, "weights")]
    nodes, x, w = [], "image", "weights"
    if int8:
        constants += [numpy_helper.from_array(np.float32(1), "one"), numpy_helper.from_array(np.uint8(0), "u0")]
        constants += [numpy_helper.from_array(np.int8(0), "i0")]
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "one", "u0"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "one", "u0"], ["x"]),
            helper.make_node("DequantizeLinear", ["weights", "one", "i0"], ["w"]),
        ]
        x, w = "x", "w"
    nodes += [
        helper.make_node("Conv", [x, w], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "probe", [image], [logits], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString(), weights


def expected(batch: np.ndarray, weights: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(batch, (3, 3), axis=(2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, weights), 0).mean(axis=(2, 3))


def main() -> None:
    batch = (np.arange(2 * 3 * PX * PX).reshape(2, 3, PX, PX) % 11).astype(np.float32)
    assert set(engine.runtimes()) == {"openvino", "onnxruntime"}
    for int8 in (False, True):
        data, weights = model(int8)
        right = expected(batch, weights)
        for runtime in engine.runtimes():
            begin = stopwatch()
            (logits,) = engine.load(data, runtime=runtime).run(batch)
            np.testing.assert_allclose(logits, right, rtol=1e-4, atol=1e-3)
            print(f"  {runtime} {'int8' if int8 else 'f32'} answered right {stopwatch() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
