"""The last features of a classifier: where they are found, and what the projection keeps."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Refused
from edged.retrain import export, features, zoo
from edged.retrain.methods import int8


def batch(px, n=3):
    return preprocess.marshal(preprocess.to_float([patterns.picture(seed, px) for seed in range(n)], px))


def model(nodes, *weights, out="logits", shape=("n", 3, 8, 8)):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@pytest.fixture(scope="module")
def nets():
    return {
        name: export.to_onnx(zoo.build(name, 2, px).eval(), px)
        for name, px in (("lenet-5", 32), ("mobilenet-0.25", 32), ("squeezenet-1.1", 64))
    }


@pytest.mark.parametrize(
    ("name", "px", "width"), [("lenet-5", 32, 84), ("mobilenet-0.25", 32, 256), ("squeezenet-1.1", 64, 512)]
)
@pytest.mark.parametrize("runtime", engine.runtimes())
def test_features_of_the_zoo_are_found_and_the_answers_stay(nets, name, px, width, runtime):
    opened, place = features.with_features(nets[name])
    before = engine.load(nets[name], runtime=runtime).run(batch(px))
    after = engine.load(opened, runtime=runtime).run(batch(px))
    np.testing.assert_allclose(after[0], before[0], atol=1e-4)
    assert features.pooled(after[place]).reshape(3, -1).shape == (3, width)


@pytest.mark.parametrize("runtime", engine.runtimes())
def test_features_of_an_int8_file_are_those_of_the_float_file_nearly(nets, runtime, pics):
    small = int8.int8(nets["lenet-5"], pics(16))
    seen = []
    for data in (nets["lenet-5"], small):
        opened, place = features.with_features(data)
        outputs = engine.load(opened, runtime=runtime).run(batch(32))
        np.testing.assert_allclose(outputs[0], engine.load(data, runtime=runtime).run(batch(32))[0], atol=1e-4)
        seen.append(features.pooled(outputs[place]))
    assert np.abs(seen[0] - seen[1]).max() < 0.1 * np.abs(seen[0]).max()


def test_the_product_of_the_last_layer_is_its_input_times_its_weights(nets):
    opened, place = features.with_features(nets["lenet-5"])
    parsed = onnx.load_model_from_string(nets["lenet-5"])
    gemm = [n for n in parsed.graph.node if n.op_type == "Gemm"][-1]
    tensors = {t.name: numpy_helper.to_array(t) for t in parsed.graph.initializer}
    logits, *rest = engine.load(opened).run(batch(32))
    weights, bias = tensors[gemm.input[1]], tensors[gemm.input[2]]
    np.testing.assert_allclose(rest[place - 1] @ weights.T + bias, logits, rtol=1e-3, atol=1e-4)


def test_a_classifier_behind_softmax_and_added_bias_is_found():
    dice = np.random.default_rng(1)
    data = model(
        [
            helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w1"], ["h"]),
            helper.make_node("Relu", ["h"], ["seen"]), helper.make_node("MatMul", ["seen", "w2"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["a"]), helper.make_node("Softmax", ["a"], ["logits"]),
        ],
        ("w1", dice.normal(size=(192, 5))), ("w2", dice.normal(size=(5, 2))), ("b", [0.0, 1.0]),
    )  # fmt: skip
    opened, place = features.with_features(data)
    assert onnx.load_model_from_string(opened).graph.output[place].name == "seen"


def test_features_that_are_an_output_already_are_not_added_again():
    data = model(
        [
            helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w1"], ["seen"]),
            helper.make_node("MatMul", ["seen", "w2"], ["logits"]),
        ],
        ("w1", np.ones((192, 5))), ("w2", np.ones((5, 2))),
    )  # fmt: skip
    parsed = onnx.load_model_from_string(data)
    parsed.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    data = parsed.SerializeToString()
    assert features.with_features(data) == (data, 1)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([helper.make_node("GlobalAveragePool", ["image"], ["logits"])], []),
        (
            [helper.make_node("Flatten", ["image"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["logits"])],
            [("w", np.ones((192, 2)))],
        ),
        ([helper.make_node("Identity", ["w"], ["logits"])], [("w", np.ones((1, 2)))]),
    ],
    ids=["no weights", "reads the picture itself", "a constant"],
)
def test_a_graph_without_features_is_refused_in_words(nodes, weights):
    with pytest.raises(Refused, match="has no features") as e:
        features.with_features(model(nodes, *weights))
    assert e.value.code == "no_features"


def test_the_projection_keeps_distances_as_the_lemma_says():
    """Chi-squared with 32 degrees of freedom: the squared distance is within 60 % of itself in 97 of 100 pairs."""
    dice = np.random.default_rng(5)
    points = dice.normal(size=(60, 700)).astype(np.float32)
    low = features.project(points).astype(np.float64)
    assert low.shape == (60, 32)
    i, j = np.triu_indices(60, 1)
    ratio = ((low[i] - low[j]) ** 2).sum(1) / ((points[i] - points[j]) ** 2).sum(1)
    assert abs(ratio.mean() - 1) < 0.1
    assert (np.abs(ratio - 1) < 0.6).mean() > 0.95


def test_the_projection_is_the_same_for_ever_and_for_every_width():
    wide, narrow = np.zeros((1, 300), np.float32), np.zeros((1, 40), np.float32)
    wide[0, 3] = narrow[0, 3] = np.sqrt(32)
    assert features.project(wide).tolist() == features.project(narrow).tolist()
    assert features.project(wide)[0, :3].tolist() == pytest.approx([1.66, -2.46, 0.87], abs=0.01)


def test_few_features_are_kept_as_they_are_and_what_is_no_number_is_zero():
    few = np.array([[1.0, -2.5, np.nan, np.inf]], np.float32)
    assert features.project(few).tolist() == [[1.0, -2.5, 0.0, 65504.0]]
    many = np.full((1, 64), np.nan, np.float32)
    assert features.project(many).tolist() == [[0.0] * 32]
