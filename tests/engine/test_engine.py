"""One suite for all runtimes, and what none may be given."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged import engine
from edged.engine import onnx_file, patterns, preprocess
from edged.errors import Misconfigured, Refused

RUNTIMES = ("openvino", "onnxruntime", "opencv")


def batch_of(n: int, px: int) -> np.ndarray:
    return preprocess.marshal(preprocess.to_float([patterns.picture(seed, 64) for seed in range(n)], px))


def test_runtimes_are_found_without_being_imported():
    code = (
        "import sys, edged.engine as e; assert set(e.runtimes()) == {'openvino', 'onnxruntime'};"
        "assert not {'openvino', 'onnxruntime', 'cv2', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", ["n", 4])
def test_outputs_come_in_model_order_as_float32(runtime, batch, classifier):
    data = classifier(batch=batch).SerializeToString()
    assert onnx_file.check(data).outputs == ("logits", "g")
    loaded = engine.load(data, runtime=runtime)
    assert loaded.runtime == runtime
    logits, pooled = loaded.run(batch_of(4, 16))
    assert (logits.shape, pooled.shape) == ((4, 3), (4, 8, 1, 1))
    assert logits.dtype == pooled.dtype == np.float32


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_any_batch_size_and_earlier_answers_stay_as_they_were(runtime, classifier):
    loaded = engine.load(classifier().SerializeToString(), runtime=runtime)
    batch = batch_of(5, 16)
    (first, _) = loaded.run(batch[:1])
    kept = first.copy()
    (all_five, _) = loaded.run(batch)
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(all_five[:1], first, rtol=1e-4, atol=1e-5)
    assert len(np.unique(all_five[:, 0])) == 5, "the pictures must not all give the same answer"


def test_the_runtimes_agree(classifier, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(classifier(px=32).SerializeToString())
    batch = batch_of(6, 32)
    first, *others = (engine.load(path, runtime=r).run(batch) for r in RUNTIMES)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_fixed_picture_size_in_the_file_can_be_replaced(runtime, classifier):
    data = classifier(batch=10, px=16).SerializeToString()
    loaded = engine.load(data, runtime=runtime, input_shape=(2, 3, 40, 24))
    logits, _ = loaded.run(np.ones((2, 3, 40, 24), np.float32))
    assert logits.shape == (2, 3)
    with pytest.raises(Refused, match="does not take"):
        loaded.run(batch_of(10, 16))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("bad", [np.zeros((1, 3, 5, 5), np.float32), np.zeros((1, 3, 16, 16), np.float64)])
def test_a_tensor_that_the_model_does_not_take_is_refused(runtime, bad, classifier):
    loaded = engine.load(classifier().SerializeToString(), runtime=runtime)
    with pytest.raises(Refused) as caught:
        loaded.run(bad)
    assert caught.value.code == "bad_input"


def truncated(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString()[:-40]


def external_initializer(model: onnx.ModelProto) -> bytes:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return model.SerializeToString()


def external_in_a_subgraph(model: onnx.ModelProto) -> bytes:
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["k"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["image"], ["z"], then_branch=inner, else_branch=inner))
    return model.SerializeToString()


def external_key_without_the_flag(model: onnx.ModelProto) -> bytes:
    model.graph.initializer[1].external_data.add(key="location", value="w.bin")
    return model.SerializeToString()


def two_inputs(model: onnx.ModelProto) -> bytes:
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    return model.SerializeToString()


def wrong_type(model: onnx.ModelProto) -> bytes:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model.SerializeToString()


def unknown_operator(model: onnx.ModelProto) -> bytes:
    model.graph.node[1].op_type = "RunShell"
    return model.SerializeToString()


def deep_subgraphs(model: onnx.ModelProto) -> bytes:
    inner = helper.make_graph([], "leaf", [], [])
    for _ in range(20):  # protobuf itself stops at about 30
        inner = helper.make_graph([helper.make_node("If", ["c"], ["z"], then_branch=inner)], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner))
    return model.SerializeToString()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        external_initializer,
        external_in_a_subgraph,
        external_key_without_the_flag,
        two_inputs,
        wrong_type,
        unknown_operator,
        deep_subgraphs,
    ],
)
def test_what_is_not_one_self_contained_model_is_refused(runtime, damage, classifier):
    with pytest.raises(Refused) as caught:
        engine.load(damage(classifier()), runtime=runtime)
    assert caught.value.code == "bad_model"


@pytest.mark.parametrize("junk", [b"", b"\x00" * 100, b"PK\x03\x04" + b"x" * 50, b"\x80\x04\x95pickle", b"\xff" * 64])
def test_bytes_of_another_kind_are_refused(junk):
    with pytest.raises(Refused) as caught:
        engine.load(junk)
    assert caught.value.code == "bad_model"


def test_a_missing_file_is_refused_with_its_name(tmp_path):
    with pytest.raises(Refused, match=r"gone\.onnx: No such file"):
        engine.load(tmp_path / "gone.onnx")


def test_initializers_that_are_also_listed_as_inputs_are_no_inputs(classifier):
    model = classifier()
    for tensor in model.graph.initializer:
        shape = numpy_helper.to_array(tensor).shape
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape))
    model.ir_version = 3
    for runtime in RUNTIMES:
        assert engine.load(model.SerializeToString(), runtime=runtime).run(batch_of(1, 16))[0].shape == (1, 3)


def test_a_runtime_that_is_not_there_is_the_operators_matter(monkeypatch, classifier):
    with pytest.raises(Misconfigured, match="no runtime 'tensorrt'"):
        engine.load(classifier().SerializeToString(), runtime="tensorrt")
    monkeypatch.setattr(engine, "runtimes", lambda: ("onnxruntime",))
    assert engine.load(classifier().SerializeToString()).runtime == "onnxruntime"
    with pytest.raises(Misconfigured, match="openvino is not installed"):
        engine.load(classifier().SerializeToString(), runtime="openvino")
    monkeypatch.setattr(engine, "runtimes", lambda: ())
    with pytest.raises(Misconfigured, match="openvino nor onnxruntime is not installed"):
        engine.load(classifier().SerializeToString())


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, fed as a camera holds a picture: uint8 BGR [n, px, px, 3]."""
    graph = model.graph
    weights = next(t for t in graph.initializer if t.name == "conv.w")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), "conv.w"))
    graph.node[0].input[0] = "planes"
    graph.node.insert(0, helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]))
    graph.node.insert(0, helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT))
    px = graph.input[0].type.tensor_type.shape.dim[2].dim_value
    graph.input[0].CopyFrom(helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", px, px, 3]))
    return model


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_that_prepares_the_picture_itself_answers_like_the_one_that_does_not(runtime, classifier):
    batch = batch_of(3, 16)
    (want, _) = engine.load(classifier().SerializeToString(), runtime="onnxruntime").run(batch)
    loaded = engine.load(prepared(classifier()).SerializeToString(), runtime=runtime)
    assert loaded.takes == "uint8"
    np.testing.assert_allclose(loaded.run(batch)[0], want, rtol=1e-4, atol=1e-4)
    with pytest.raises(Refused, match="does not take"):
        loaded.run(np.zeros((1, 17, 17, 3), np.uint8)[:, :, :16])


def integers() -> bytes:
    """A full connection in int8 (QDQ, a scale for each class, sums of 32 bits), as a delivered file has it."""
    rng = np.random.default_rng(3)
    constants = {
        "s": np.float32(2.0), "z": np.int8(-128), "w": rng.integers(-127, 128, (3, 768), np.int8), "zw": np.zeros(3, np.int8),
        "sw": np.full(3, 0.01, np.float32), "b": rng.integers(-99, 99, 3, np.int32), "zb": np.zeros(3, np.int32),
        "sb": np.full(3, 0.02, np.float32), "so": np.float32(20.0), "zo": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["weights"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "sb", "zb"], ["bias"], axis=0),
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"]),
        helper.make_node("Gemm", ["dq", "weights", "bias"], ["sums"], transB=1),
        helper.make_node("QuantizeLinear", ["sums", "so", "zo"], ["qo"]),
        helper.make_node("DequantizeLinear", ["qo", "so", "zo"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_what_opencv_cannot_run_it_refuses_in_words_when_loaded_and_auto_takes_another(monkeypatch):
    mine, theirs = (engine.load(integers(), runtime=r).run(batch_of(2, 16))[0] for r in RUNTIMES[:2])
    np.testing.assert_allclose(mine, theirs, atol=21)  # a step of the output
    with pytest.raises(Refused, match="OpenCV cannot run the model") as caught:
        engine.load(integers(), runtime="opencv")
    assert caught.value.code == "bad_model"
    assert "onnxruntime" in caught.value.hint
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "openvino" else object())
    assert engine.load(integers()).runtime == "onnxruntime"
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if name == "cv2" else None)
    assert engine.runtimes() == ("opencv",)
    with pytest.raises(Refused, match="OpenCV cannot run the model"):
        engine.load(integers())
