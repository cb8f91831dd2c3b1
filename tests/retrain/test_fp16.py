"""Half precision: every tensor rounded, as numpy's own float16 rounds it."""

import dataclasses

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Refused
from edged.retrain import export, fp16, intake, layers, shifts, source, zoo

PX = 32


def half(t):
    return t.astype(np.float16).astype(np.float32)


def pictures(n=6):
    return preprocess.marshal(preprocess.to_float([patterns.picture(i, PX) for i in range(n)], PX))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(4)
    net = zoo.build("mobilenet-0.125", 3, PX).train()
    with torch.no_grad():
        net(torch.from_numpy(pictures(16)))
    return export.to_onnx(net, PX)


def by_numpy(model, batch):
    """The same network layer by layer, each answer through numpy's float16."""
    net = layers.read(model)
    tensors = {net.input: half(batch)}
    for layer in net.layers:
        weights = {k: half(v) for k in ("weight", "bias") if (v := getattr(layer, k)) is not None}
        y = shifts._float(dataclasses.replace(layer, **weights), [tensors[name] for name in layer.inputs])
        tensors[layer.output] = half(np.maximum(y, 0) if layer.op == "relu" else y)
    return tensors[net.output]


def test_answers_are_those_of_numpys_half(model):
    """Up to one unit in the last place, where sums taken in another order fall on either side of a tie."""
    batch = pictures()
    (found,) = fp16.HalfEngine(model).run(batch)
    wanted = by_numpy(model, batch)
    print(f"{found.size} logits, {int((found != wanted).sum())} differ")
    assert np.array_equal(found, half(found))
    assert np.abs(found - wanted).max() <= 4 * np.spacing(np.abs(wanted).max().astype(np.float16))


def test_without_the_rounding_the_answers_are_others(model):
    """The negative control: single precision is told apart from half."""
    batch = pictures()
    (single,) = engine.load(model, runtime="onnxruntime").run(batch)
    (found,) = fp16.HalfEngine(model).run(batch)
    assert not np.array_equal(single, found)
    assert not np.array_equal(single, half(single))
    assert np.abs(single - found).max() < 0.05 * np.abs(single).max()


def test_a_small_sum_is_lost_beside_a_large_one_only_in_half():
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Add", ["image", "large"], ["a"]),
        helper.make_node("Sub", ["a", "large"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["logits"], axis=1),
    ]
    entry = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])
    large = numpy_helper.from_array(np.array(32768.0, np.float32), "large")
    graph = helper.make_graph(nodes, "g", [entry], [out], [large])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    batch = np.full((1, 3, 8, 8), 7, np.float32)  # half precision has steps of 32 there
    assert engine.load(model).run(batch)[0].tolist() == [[7.0] * 3]
    assert fp16.HalfEngine(model).run(batch)[0].tolist() == [[0.0] * 3]


def test_a_file_that_takes_uint8_answers_the_same(model):
    batch = pictures()
    (one,), (other,) = fp16.HalfEngine(model).run(batch), fp16.HalfEngine(intake.inside(model)).run(batch)
    assert np.abs(one - other).max() <= 4 * np.spacing(np.abs(one).max().astype(np.float16))


@pytest.mark.parametrize(("value", "words"), [(1e5, "half precision ends at 65504"), (np.nan, "are no numbers")])
def test_weights_that_half_precision_cannot_hold_are_refused(model, value, words):
    parsed = source.parse(model)
    tensor = next(t for t in parsed.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(Refused, match=words):
        fp16.rounded(bytes(parsed.SerializeToString()))
