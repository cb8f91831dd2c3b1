"""Every algorithm computes the convolution of the definition, whatever the sizes, under each runtime."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged import engine
from edged.errors import Refused
from edged.retrain import rewrite
from edged.retrain.rewrite import fft, graph, winograd
from tests.retrain.rewrite.sums import one, summed

NEAR = 2e-5  # of the largest output, float32; F(6, 3) is the worst


@st.composite
def cases(draw):
    kernel = draw(st.sampled_from([(3, 3), (5, 5), (2, 2), (1, 1), (7, 7), (3, 5), (11, 11), (4, 4)]))
    size = tuple(draw(st.integers(k, k + 13)) for k in kernel)
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    return {
        "inputs": draw(st.integers(1, 4)), "outputs": draw(st.integers(1, 4)), "size": size, "kernel": kernel,
        "stride": draw(st.sampled_from([1, 1, 2, 3, 4])), "pads": pads, "bias": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
    }  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases(), n=st.integers(1, 3))
def test_each_algorithm_sums_what_the_definition_sums(case, n):
    model, weights, bias = one(**case)
    (conv,) = rewrite.convs(model)
    maps = np.random.default_rng(case["seed"]).normal(size=(n, case["inputs"], *case["size"])).astype(np.float32)
    wanted = summed(maps, weights, bias, case["stride"], case["pads"])
    assert conv.made == wanted.shape[2:]
    for name in rewrite.candidates(conv):
        (made,) = engine.load(rewrite.rewritten(model, {"y": name}), runtime="onnxruntime").run(maps)
        assert made.shape == wanted.shape, name
        assert np.abs(made - wanted).max() <= NEAR * max(1, np.abs(wanted).max()), name


@pytest.mark.parametrize("runtime", engine.runtimes())
@pytest.mark.parametrize(("stride", "kernel"), [(1, (5, 5)), (2, (3, 3)), (4, (11, 11)), (1, (3, 3))])
def test_under_both_runtimes_and_any_batch(runtime, stride, kernel):
    case = {"inputs": 3, "outputs": 5, "size": (21, 18), "kernel": kernel, "stride": stride, "pads": (1, 2, 0, 1)}
    model, weights, bias = one(**case)
    (conv,) = rewrite.convs(model)
    for name in rewrite.candidates(conv)[1:]:
        loaded = engine.load(rewrite.rewritten(model, {"y": name}), runtime=runtime)
        for n in (1, 4):
            maps = np.random.default_rng(n).normal(size=(n, 3, 21, 18)).astype(np.float32)
            wanted = summed(maps, weights, bias, stride, case["pads"])
            assert np.abs(loaded.run(maps)[0] - wanted).max() <= NEAR * np.abs(wanted).max(), name


def test_a_wrong_matrix_is_seen_by_this_comparison(monkeypatch):
    """The negative control of the two tests above."""
    right = winograd.matrices

    def wrong(m, r):
        back, taps, data = right(m, r)
        return back, taps, data + 1e-3 * np.eye(len(data))

    monkeypatch.setattr(winograd, "matrices", wrong)
    model, weights, bias = one(2, 3, (12, 12), (3, 3))
    maps = np.random.default_rng(0).normal(size=(1, 2, 12, 12)).astype(np.float32)
    (made,) = engine.load(rewrite.rewritten(model, {"y": "winograd-4"}), runtime="onnxruntime").run(maps)
    wanted = summed(maps, weights, bias, 1, (0, 0, 0, 0))
    assert np.abs(made - wanted).max() > NEAR * np.abs(wanted).max()


@pytest.mark.parametrize(("m", "r"), [(2, 3), (4, 3), (6, 3), (4, 5), (2, 2)])
def test_winograds_matrices_filter_a_line(m, r):
    back, taps, data = winograd.matrices(m, r)
    line, kernel = np.random.default_rng(0).normal(size=m + r - 1), np.random.default_rng(1).normal(size=r)
    assert np.allclose(back @ ((taps @ kernel) * (data @ line)), np.correlate(line, kernel), atol=1e-12)


def test_f_2_3_is_the_papers_up_to_scale_and_signs():
    back, taps, data = winograd.matrices(2, 3)
    assert {tuple(np.abs(row)) for row in data} == {(1, 0, 1, 0), (0, 1, 1, 0), (0, 1, 0, 1)}
    assert {tuple(row) for row in np.abs(taps)} == {(1, 0, 0), (0.5, 0.5, 0.5), (0, 0, 1)}
    assert back.tolist() == [[1, 1, 1, 0], [0, 1, -1, 1]]


def test_the_spectrum_is_numpys():
    lines = fft.lines(8, 3)
    line = np.random.default_rng(0).normal(size=8)
    made = lines.data @ line
    assert np.allclose(made[0] + 1j * made[1], np.fft.rfft(line))


def test_what_is_not_plain_is_left_alone():
    for more in ({"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"}):
        model, _, _ = one(4, 4, (12, 12), (3, 3), pads=(0, 0, 0, 0), more=more)
        if "auto_pad" in more:
            parsed = onnx.load_model_from_string(model)
            kept = [a for a in parsed.graph.node[0].attribute if a.name != "pads"]
            del parsed.graph.node[0].attribute[:]
            parsed.graph.node[0].attribute.extend(kept)
            assert rewrite.convs(parsed.SerializeToString()) == ()
        else:
            assert rewrite.candidates(rewrite.convs(model)[0]) == ("direct",)
    assert rewrite.candidates(rewrite.convs(one(2, 2, (9, 9), (1, 1))[0])[0]) == ("direct",)


def test_inputs_outputs_metadata_and_the_stored_weights_stay():
    model, weights, _ = one(3, 4, (16, 16), (5, 5), pads=(2, 2, 2, 2))
    before = onnx.load_model_from_string(model)
    for name in ("winograd-4", "fft-16"):
        after = onnx.load_model_from_string(rewrite.rewritten(model, {"y": name}))
        assert after.graph.input == before.graph.input
        assert after.graph.output == before.graph.output
        assert after.metadata_props == before.metadata_props
        assert after.opset_import == before.opset_import
        assert {node.domain for node in after.graph.node} == {""}
        kept = {t.name: onnx.numpy_helper.to_array(t) for t in after.graph.initializer}
        assert np.array_equal(kept["w"], weights)


def test_the_same_model_and_choice_give_the_same_bytes_and_direct_changes_nothing():
    model, _, _ = one(2, 2, (11, 11), (3, 3))
    assert rewrite.rewritten(model, {"y": "direct"}) == model
    assert rewrite.rewritten(model, {"y": "fft-8"}) == rewrite.rewritten(model, {"y": "fft-8"})


def test_a_layer_that_was_rewritten_can_be_rewritten_again():
    model, weights, bias = one(3, 4, (30, 30), (11, 11), stride=4, pads=(2, 2, 2, 2))
    again = rewrite.rewritten(model, {"y": "space_to_depth"})
    (conv,) = rewrite.convs(again)
    assert conv.kernel == (3, 3)
    assert conv.strides == (1, 1)
    again = rewrite.rewritten(again, {conv.name: "winograd-2"})
    maps = np.random.default_rng(0).normal(size=(2, 3, 30, 30)).astype(np.float32)
    wanted = summed(maps, weights, bias, 4, (2, 2, 2, 2))
    assert np.abs(engine.load(again).run(maps)[0] - wanted).max() <= NEAR * np.abs(wanted).max()


def test_an_unknown_layer_or_algorithm_is_a_bug_and_bytes_that_are_no_model_are_refused():
    model, _, _ = one(2, 2, (9, 9), (3, 3))
    with pytest.raises(KeyError):
        rewrite.rewritten(model, {"z": "fft-8"})
    with pytest.raises(KeyError):
        rewrite.rewritten(model, {"y": "karatsuba"})
    with pytest.raises(Refused):
        rewrite.convs(b"\x08no")


def test_what_a_layer_reads_is_what_stands_before_it():
    model, _, _ = one(2, 2, (9, 9), (3, 3))
    batch = np.ones((1, 2, 9, 9), np.float32)
    (conv,) = rewrite.convs(model)
    assert np.array_equal(graph.read_by(model, (conv,), batch)["y"], batch)
    alone = graph.alone(model, conv)
    assert np.array_equal(engine.load(alone).run(batch)[0], engine.load(model).run(batch)[0])


def test_constants_that_the_exporter_wrote_once_are_found():
    model, weights, bias = one(3, 4, (16, 16), (5, 5))
    parsed = onnx.load_model_from_string(model)
    for i, name in ((1, "w"), (2, "b")):
        parsed.graph.node.insert(0, onnx.helper.make_node("Identity", [name], [f"{name}2"]))
        parsed.graph.node[-1].input[i] = f"{name}2"
    model = parsed.SerializeToString()
    (conv,) = rewrite.convs(model)
    maps = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    wanted = summed(maps, weights, bias, 1, (0, 0, 0, 0))
    for data in (model, graph.alone(model, conv)):
        for name in ("direct", "winograd-4"):
            (made,) = engine.load(rewrite.rewritten(data, {"y": name})).run(maps)
            assert np.abs(made - wanted).max() <= NEAR * np.abs(wanted).max()
