"""What an ONNX file asks for: networks with known multiply-adds, unknown operators, shapes that nobody knows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.errors import Refused
from edged.retrain import costs

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])


def model(*nodes: onnx.NodeProto, weights: dict[str, np.ndarray], out: str = "y") -> bytes:
    graph = helper.make_graph(
        list(nodes), "g", [X], [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


CONV = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
WEIGHTS = {"w": np.zeros((16, 3, 3, 3), np.float32)}


def test_a_convolution_counts_its_multiply_adds_and_its_bytes() -> None:
    (found,) = costs.of(model(CONV, weights=WEIGHTS)).layers
    assert (found.kind, found.precision, found.macs) == ("stem", "float32", 8 * 8 * 16 * 27)
    assert found.bytes == 4 * (3 * 64 + 16 * 64 + 16 * 27)


def test_four_regions_ask_for_four_times_the_work_but_read_the_weights_once() -> None:
    one, four = (costs.of(model(CONV, weights=WEIGHTS), batch=n).layers[0] for n in (1, 4))
    assert four.macs == 4 * one.macs
    assert four.bytes == 4 * one.bytes - 3 * 4 * 16 * 27


def test_another_picture_size_may_be_asked_about() -> None:
    found = costs.of(model(CONV, weights=WEIGHTS), px=16).layers[0]
    assert found.macs == 16 * 16 * 16 * 27


def test_what_a_runtime_fuses_counts_nothing() -> None:
    relu = helper.make_node("Relu", ["y"], ["z"])
    found = costs.of(model(CONV, relu, weights=WEIGHTS, out="z"))
    assert [c.kind for c in found.layers] == ["stem"]
    alone = helper.make_node("Relu", ["x"], ["y"])
    assert [c.kind for c in costs.of(model(alone, weights={})).layers] == ["elementwise"]


def test_an_operator_that_is_not_known_counts_as_data_movement_and_is_named() -> None:
    odd = helper.make_node("CumSum", ["x", "axis"], ["y"])
    found = costs.of(model(odd, weights={"axis": np.array(1, np.int64)}))
    assert found.unknown == ("CumSum",)
    assert [(c.kind, c.macs) for c in found.layers] == [("movement", 0)]


def test_a_shape_that_is_not_known_before_the_model_runs_is_refused() -> None:
    where = helper.make_node("NonZero", ["x"], ["i"])
    cast = helper.make_node("Sigmoid", ["f"], ["y"])
    make = helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)
    with pytest.raises(Refused, match="not known before the model runs"):
        costs.of(model(where, make, cast, weights={}))


@pytest.mark.parametrize("data", [b"", b"no onnx at all", b"\x08\x01"])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        costs.of(data)
