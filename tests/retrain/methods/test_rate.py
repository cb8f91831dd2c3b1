"""The size in the loss: more weight on it makes smaller files, whole rows die, and what is left keeps its few values."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edged.retrain import export, source, zoo
from edged.retrain.methods import Lesson, Model, rate, refine
from edged.retrain.methods.kernels import shareable
from edged.retrain.methods.prune import Zeros

CLASSES = ("disc", "box")


def net_of(name="lenet-300-100", px=28):
    torch.manual_seed(1)
    return zoo.build(name, 2, px)


@pytest.fixture
def lesson(pics, clock):
    return Lesson(pics(96, px=28), pics(32, px=28, seed=1), clock, effort=4)


def test_more_weight_on_the_size_leaves_fewer_weights_and_the_shapes_are_still_known(lesson):
    left = []
    for amount in (0.001, 0.1):
        made, facts = rate.apply(Model(28, CLASSES, net_of()), amount, lesson)
        left.append(facts.nonzero)
        assert facts.accuracy_after >= 0.8
        assert all(len(w.detach().unique()) <= rate.LEVELS + 1 for w in shareable(made.net).values())
    assert left[1] < left[0] < facts.parameters_before


def test_zeros_and_values_stay_through_later_retraining_and_the_file_has_the_same(lesson):
    made, _ = rate.apply(Model(28, CLASSES, net_of()), 0.05, lesson)
    zeros = {name: w.detach() == 0 for name, w in shareable(made.net).items()}
    refine.run(made, lesson, refine.Plan(batch=16, settled=0.9))
    for name, weights in shareable(made.net).items():
        assert bool((weights.detach()[zeros[name]] == 0).all())
        assert len(weights.detach().unique()) <= rate.LEVELS + 1
    files = [numpy_helper.to_array(t) for t in source.parse(export.to_onnx(made.net, 28)).graph.initializer]
    for weights in shareable(made.net).values():
        values = weights.detach().numpy()
        assert any(f.shape == values.shape and np.array_equal(f, values) for f in files)


def test_a_weight_that_stands_alone_in_its_row_and_column_is_dearer_than_one_in_company():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[:5, :5] = True
    mask[12, 20] = True
    found = rate.bits(mask)
    assert found[12, 20] > found[2, 2] + 2
    assert found.shape == mask.shape


def test_what_is_worth_less_than_its_bits_goes_and_the_last_of_a_kernel_stays():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    zeros = Zeros({"0.weight": torch.ones(4, 4, dtype=torch.bool)})
    fisher = {"0.weight": torch.ones(4, 4)}
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4) + 0.01)
    rate.narrow(net, zeros, fisher, 1e-3)
    assert torch.equal(zeros.kept["0.weight"], torch.eye(4, dtype=torch.bool))
    rate.narrow(net, zeros, fisher, 1e6)
    assert int(zeros.kept["0.weight"].sum()) == 1


def test_fisher_s_diagonal_comes_out_of_adam_s_moments():
    net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-12)
    dice = torch.Generator().manual_seed(1)
    for _ in range(4000):
        net[0].weight.grad = torch.randn(1, 2, generator=dice) * torch.tensor([[1.0, 3.0]])
        optimiser.step()
    found = rate.information(net, optimiser, 10)["0.weight"][0]
    assert found.tolist() == pytest.approx([10, 90], rel=0.15)
