"""Reference kernels are found under the cap, in a child, and written otherwise or refused by name."""

import numpy as np
import pytest

from edged import engine
from edged.errors import Refused
from edged.retrain import device, rewrite
from edged.retrain.rewrite import kernels, references
from edged.retrain.rewrite.measure import Seen, side_by_side
from tests.retrain.rewrite.sums import one, summed

openvino = pytest.mark.skipif("openvino" not in engine.runtimes(), reason="OpenVINO is not installed")
ALEXNETS = {"inputs": 3, "outputs": 16, "size": (64, 64), "kernel": (11, 11), "stride": 4, "pads": (2, 2, 2, 2)}


def look(model):
    (seen,) = side_by_side([model], [], caps=device.SSE42, runtime="openvino", seconds=0)
    return seen.references


@openvino
def test_a_first_layer_like_alexnets_falls_to_a_reference_kernel_and_is_rewritten():
    model, weights, bias = one(**ALEXNETS)
    assert look(model)
    made = references.without(model)
    assert look(made) == ()
    maps = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    wanted = summed(maps, weights, bias, 4, (2, 2, 2, 2))
    assert np.abs(engine.load(made).run(maps)[0] - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert [conv.kernel for conv in rewrite.convs(made)] == [(3, 3)]


@openvino
def test_a_large_kernel_without_a_stride_is_rewritten_too():
    model, _, _ = one(8, 8, (24, 24), (9, 9), pads=(4, 4, 4, 4))
    assert look(model)
    assert not look(references.without(model))


@openvino
def test_what_cannot_be_rewritten_is_refused_by_its_name():
    model, _, _ = one(16, 16, (24, 24), (9, 9), pads=(4, 4, 4, 4), groups=2)
    with pytest.raises(Refused, match=r"no fast kernel without AVX for y.*could not be written otherwise") as e:
        references.without(model)
    assert e.value.code == "reference_kernel"


def test_small_kernels_cost_no_child():
    model, _, _ = one(3, 8, (32, 32), (7, 7), stride=2)

    def never(*_, **__):
        raise AssertionError("a child was started")

    assert references.without(model, measurer=never) is model


@openvino
def test_a_fast_one_is_left_as_it_is():
    model, _, _ = one(**ALEXNETS)
    assert references.without(model, measurer=lambda *_, **__: (Seen(),)) is model


class Told:
    runtime = "openvino"

    def kernels(self):
        return {
            "conv1": ("Convolution", "ref_any_f32"), "conv2": ("Convolution", "jit_sse42_f32"),
            "softmax": ("SoftMax", "ref_any_f32"), "product": ("MatMul", "ref_any_f32"),
        }  # fmt: skip


def test_the_re_test_refuses_a_model_with_such_a_layer_and_names_each():
    with pytest.raises(Refused, match=r"Convolution 'conv1' \(ref_any_f32\).*MatMul 'product'") as e:
        kernels.refuse(Told())
    assert "softmax" not in str(e.value)
    assert "conv2" not in str(e.value)


def test_onnxruntime_does_not_say_and_is_not_refused():
    model, _, _ = one(3, 4, (16, 16), (3, 3))
    assert kernels.check(model, "onnxruntime") == []
    kernels.refuse(engine.load(model, runtime="onnxruntime"))


@openvino
@pytest.mark.slow
def test_alexnet_of_the_zoo_leaves_without_a_reference_kernel_for_the_atom():
    import torch

    from edged.retrain import export, zoo

    torch.manual_seed(1)
    net = zoo.build("alexnet", 2, 64).eval()
    data = export.to_onnx(net, 64)
    assert look(data) == ()
