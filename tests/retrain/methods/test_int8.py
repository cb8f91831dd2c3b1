"""Post-training int8: accuracy control finds the layer that does not bear it, and what is no such model is refused."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edged import engine
from edged.chain import Step
from edged.errors import Refused
from edged.retrain import export, measure, methods, source
from edged.retrain.methods import Lesson, Model, int8
from edged.retrain.pictures import Pictures


def bright(n, seed):
    """Half of them 40 grey levels brighter: what tells the classes apart is the mean."""
    dice = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int64)
    pixels = dice.integers(60, 120, (n, 16, 16, 3)) + 40 * labels[:, None, None, None]
    return Pictures(pixels.astype(np.uint8), labels, ("gate",) * n)


def rigged(*, spoilt: bool) -> bytes:
    """Tells bright from dark. Spoilt: one input of its last layer is two thousand times as large as that which says so, and
    weighs nothing to speak of, so that the grid of the layer's input has no room for the other.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3)[:, :, None, None])
        net[0].bias.zero_()
        net[2].weight.zero_()
        net[2].bias.zero_()
        net[2].weight[0] = 1 / 27  # the mean, 0..255
        net[2].bias[1] = 2e5 if spoilt else 1.0
        net[6].weight.copy_(torch.tensor([[-1.0, *[0.0] * 7], [1.0, *[0.0] * 7]]))
        net[6].bias.copy_(torch.tensor([110.0, -110.0]))
    return export.to_onnx(net, 16)


def lesson(clock, **more):
    return Lesson(bright(64, 1), bright(64, 2), clock, **{"calibration": 32, "max_loss": 0.01} | more)


def test_a_layer_that_does_not_bear_int8_is_left_in_float(clock):
    model = Model(16, ("dark", "bright"), onnx=rigged(spoilt=True))
    without = measure.accuracy(int8.int8(model.onnx, lesson(clock).train), lesson(clock).judged)
    made, facts = int8.apply(model, 0, lesson(clock))
    print(f"float {facts.accuracy_before}, all int8 {without}, controlled {facts.accuracy_after}: {facts.note}")
    assert facts.accuracy_before == 1.0
    assert without < 0.9
    assert facts.accuracy_after >= 0.99
    assert "with 2 of 3 layers in float" in facts.note
    for runtime in engine.runtimes():
        assert measure.accuracy(made.onnx, lesson(clock).judged, runtime=runtime) >= 0.99


def test_control_a_sound_model_is_int8_as_a_whole_and_nothing_is_said(clock):
    made, facts = int8.apply(Model(16, ("dark", "bright"), onnx=rigged(spoilt=False)), 0, lesson(clock))
    assert facts.accuracy_after == facts.accuracy_before == 1.0
    assert facts.note == ""
    assert made.onnx == int8.int8(rigged(spoilt=False), int8.some(lesson(clock).train, 32, 1))


def test_what_cannot_be_won_back_is_said_with_its_numbers(clock, monkeypatch):
    monkeypatch.setattr(int8, "TRIES", 0)
    _, facts = int8.apply(Model(16, ("dark", "bright"), onnx=rigged(spoilt=True)), 0, lesson(clock))
    assert "less than the 99.0% that were asked for" in facts.note


def test_the_same_model_and_crops_give_the_same_bytes():
    data = rigged(spoilt=False)
    assert int8.int8(data, bright(16, 1)) == int8.int8(data, bright(16, 1))


def test_weights_take_seven_bits_so_that_sums_of_pairs_fit_without_vnni():
    graph = source.parse(int8.int8(rigged(spoilt=False), bright(16, 1))).graph
    found = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert found
    assert all(np.abs(w.astype(int)).max() <= 64 for w in found)


def broken(change) -> bytes:
    model = onnx.load_from_string(rigged(spoilt=False))
    change(model)
    return model.SerializeToString()


def elsewhere(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def unknown(model):
    model.graph.node[0].op_type = "Teleport"


def foreign(model):
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[0].domain = "com.example"


@pytest.mark.parametrize(
    ("change", "words"), [(elsewhere, "lies in another file"), (unknown, "Teleport"), (foreign, "com.example")]
)
def test_external_data_and_unknown_layers_are_refused_in_words(change, words, clock):
    for step in (lambda data: int8.int8(data, bright(16, 1)),
                 lambda data: methods.apply(Model(16, ("a", "b"), onnx=data), Step("int8"), lesson(clock))):  # fmt: skip
        with pytest.raises(Refused, match=words):
            step(broken(change))


@pytest.mark.parametrize("step", [Step("channels", 0.3), Step("qat"), Step("lowrank", 0.5)])
def test_a_file_alone_cannot_be_retrained(step, clock):
    with pytest.raises(Refused, match="needs weights that can be trained"):
        methods.apply(Model(16, ("a", "b"), onnx=rigged(spoilt=False)), step, lesson(clock))


def test_bytes_that_are_no_onnx_are_refused():
    with pytest.raises(Refused):
        int8.int8(b"no model at all", bright(16, 1))


def test_control_ends_by_the_clock_says_so_and_tells_of_every_try(clock):
    told = []
    model = Model(16, ("dark", "bright"), onnx=rigged(spoilt=True))
    _, facts = int8.apply(model, 0, lesson(clock, until=clock.monotonic(), progress=lambda p: told.append(p.text)))
    assert facts.note.endswith("less than the 99.0% that were asked for; there was no time for more")
    assert facts.accuracy_after < 0.9
    assert told[0] == "all layers"
    int8.apply(model, 0, lesson(clock, until=clock.monotonic() + 60, progress=lambda p: told.append(p.text)))
    print(told)
    assert "what layer 3 of 3 costs" in told
    assert any(text.endswith("2 of 3 layers in float") for text in told)
