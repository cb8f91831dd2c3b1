"""The preparation of a picture inside the delivered file: same answers, nothing left to differ."""

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edged import engine
from edged.engine import onnx_file, patterns, preprocess
from edged.errors import Refused
from edged.retrain import export, intake, measure, norms, source, zoo
from edged.retrain.methods import int8
from edged.retrain.pictures import Pictures

CROPS = [patterns.picture(seed, 40) for seed in range(6)]


def made(name, px):
    torch.manual_seed(3)
    net = zoo.build(name, 3, px)
    if norms.has_norms(net):  # fresh statistics let nothing through a deep network: every picture would get one answer
        norms.measure(net, np.stack([preprocess.prepare([c], px, "uint8")[0] for c in CROPS]))
    return export.to_onnx(net, px)


def answers(data, px, runtime):
    loaded = engine.load(data, runtime=runtime)
    return loaded.run(preprocess.stack(preprocess.prepare(CROPS, px, loaded.takes), loaded.takes))[0]


@pytest.mark.parametrize("runtime", engine.RUNTIMES)
@pytest.mark.parametrize("name", ["mobilenet-0.125", "squeezenet-1.1", "lenet-5", "lenet-300-100"])
def test_the_file_answers_to_the_camera_s_bytes_as_it_did_to_floats(name, runtime):
    before = made(name, 32)
    after = intake.inside(before)
    assert onnx_file.check(after).takes == "uint8"
    assert measure.input_px(after) == 32
    assert np.abs(answers(after, 32, runtime) - answers(before, 32, runtime)).max() < 1e-4
    onnx.checker.check_model(source.parse(after), full_check=True)


def test_the_order_of_the_channels_costs_no_operator_where_a_convolution_comes_first():
    ops = [node.op_type for node in source.parse(intake.inside(made("mobilenet-0.125", 32))).graph.node]
    assert ops[:2] == ["Cast", "Transpose"]
    assert "Gather" not in ops


def test_a_quantized_file_keeps_its_answers_too():
    pixels = np.stack([preprocess.prepare([c], 32, "uint8")[0][:, :, ::-1] for c in CROPS * 3])
    small = int8.int8(made("mobilenet-0.125", 32), Pictures(pixels, np.zeros(18, np.int64), ("gate",) * 18))
    after = intake.inside(small)
    assert "Gather" not in [node.op_type for node in source.parse(after).graph.node]
    for runtime in engine.runtimes():
        assert np.abs(answers(after, 32, runtime) - answers(small, 32, runtime)).max() < 1e-4


def test_a_file_that_is_so_already_stays_as_it_is_and_says_what_it_takes():
    after = intake.inside(made("lenet-5", 32))
    assert intake.inside(after) == after
    assert source.metadata(after)[intake.INPUT] == intake.BGR


def graph(nodes, constants, px=8):
    return helper.make_model(
        helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["n", 3, px, px])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    ).SerializeToString()  # fmt: skip


KERNELS = np.arange(3 * 3 * 4, dtype=np.float32).reshape(3, 3, 2, 2)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (  # a number for each channel
            [("Mul", ["image", "mean"], "a"), ("Conv", ["a", "w"], "logits")],
            {"mean": np.array([1, 2, 3]).reshape(1, 3, 1, 1), "w": KERNELS},
        ),
        ([("Conv", ["image", "w"], "a"), ("Conv", ["a", "w"], "logits")], {"w": KERNELS}),  # kernels that serve twice
        ([("Conv", ["image", "w"], "a"), ("GlobalAveragePool", ["image"], "b"), ("Add", ["a", "b"], "logits")], {"w": KERNELS}),
        ([("Flatten", ["image"], "logits")], {}),
    ],
)  # fmt: skip
def test_where_the_channels_matter_before_a_convolution_they_are_turned_in_the_graph(nodes, constants):
    before = graph([helper.make_node(op, ins, [out]) for op, ins, out in nodes], constants)
    after = intake.inside(before)
    assert "Gather" in [node.op_type for node in source.parse(after).graph.node]
    for runtime in engine.runtimes():
        found, wanted = answers(after, 8, runtime), answers(before, 8, runtime)
        assert np.allclose(found, wanted, rtol=1e-5, atol=1e-2)


def test_a_turned_order_would_be_noticed():
    before, px = made("mobilenet-0.125", 32), 32
    wrong = source.parse(intake.inside(before))
    kernels = next(t for t in wrong.graph.initializer if list(t.dims)[1:2] == [3])
    kernels.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernels)[:, ::-1].copy(), kernels.name))
    found = answers(wrong.SerializeToString(), px, "onnxruntime")
    assert np.abs(found - answers(before, px, "onnxruntime")).max() > 1e-3


def test_a_file_with_another_input_is_refused_in_words():
    with pytest.raises(Refused, match=r"not \[n, 3, px, px\]"):
        intake.inside(graph([helper.make_node("Flatten", ["image"], ["logits"])], {}, px=4))


def test_a_delivered_file_can_be_brought_to_another_box_as_it_is():
    from edged.retrain import prove

    data = source.with_metadata(intake.inside(made("lenet-5", 32)), {source.CLASSES: '["a", "b", "c"]'})
    proven, again = prove.prove(data, prove.Options(classes=(), wanted=("a", "b", "c")))
    assert (proven.px, proven.changes, again) == (32, (), data)
    with pytest.raises(Refused, match="prepares the picture itself"):
        prove.prove(data, prove.Options(classes=(), wanted=("a", "b", "c"), scale=255.0))
