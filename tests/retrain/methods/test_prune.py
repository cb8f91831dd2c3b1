"""Zeros: as many as asked for, in every layer's own measure, and they stay zero whatever is trained after."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from edged.retrain import export, source, zoo
from edged.retrain.methods import Lesson, Model, prune, refine
from edged.retrain.methods.kernels import kernels

CLASSES = ("disc", "box")
PLAN = refine.Plan(epochs=3, batch=16, lr=1e-3)


def net_of(name="lenet-5", px=32):
    torch.manual_seed(1)
    return zoo.build(name, 2, px)


def zeros(net):
    return {name: w.detach() == 0 for name, w in kernels(net).items()}


def test_as_many_weights_are_zero_as_asked_for_and_no_layer_is_emptied(pics, clock):
    lesson = Lesson(pics(48), pics(16, seed=1), clock, effort=2)
    made, facts = prune.apply(Model(32, CLASSES, net_of()), 0.9, lesson)
    found = zeros(made.net)
    total = sum(z.numel() for z in found.values())
    assert sum(int(z.sum()) for z in found.values()) == int(0.9 * total)
    for name, zero in found.items():
        assert int((~zero).sum()) >= zero.shape[0], f"{name} lost all but {int((~zero).sum())}"
    ends = next(iter(found)), list(found)[-1]
    assert all(found[name].float().mean() < 0.9 for name in ends)
    assert facts.nonzero == total - int(0.9 * total) + sum(p.numel() for p in made.net.parameters() if p.ndim == 1)


@pytest.mark.parametrize("held", [True, False])
def test_zeros_stay_zero_through_later_retraining_and_without_the_hold_they_revive(pics, clock, held):
    lesson = Lesson(pics(48), pics(16, seed=1), clock)
    made, _ = prune.apply(Model(32, CLASSES, net_of()), 0.8, lesson)
    before = zeros(made.net)
    # Nothing is kept that was before, so that the retraining's own weights are looked at.
    refine.run(made if held else Model(32, CLASSES, made.net), lesson, replace(PLAN, settled=0.9))
    revived = sum(int((before[name] & ~zero).sum()) for name, zero in zeros(made.net).items())
    assert (revived == 0) is held


def test_neither_momentum_nor_decay_revives_a_weight_that_was_cleared_in_mid_run(pics, clock):
    lesson = Lesson(pics(48), pics(16, seed=1), clock, effort=3)
    made, _ = prune.apply(Model(32, CLASSES, net_of()), 0.8, lesson)
    (hold,) = made.holds
    assert all(torch.equal(hold.kept[name], ~zero) for name, zero in zeros(made.net).items())


def test_the_exported_file_has_the_very_zeros(pics, clock):
    made, _ = prune.apply(Model(32, CLASSES, net_of("mobilenet-0.125")), 0.7, Lesson(pics(32), pics(8), clock))
    inside = {name: w.detach().numpy() for name, w in kernels(made.net).items()}
    model = source.parse(export.to_onnx(made.net, 32))
    files = [numpy_helper.to_array(t) for t in model.graph.initializer]
    for name, weights in inside.items():  # norms are folded: values differ, zeros do not
        assert any(w.shape == weights.shape and np.array_equal(w == 0, weights == 0) for w in files), name


def test_depthwise_kernels_norms_and_biases_are_left_alone(pics, clock):
    net = net_of("mobilenet-0.125")
    made, _ = prune.apply(Model(32, CLASSES, net), 0.9, Lesson(pics(16), pics(8), clock, effort=0))
    touched = set(kernels(net))
    others = [name for name, p in made.net.named_parameters() if name not in touched and bool((p == 0).all())]
    depthwise = [f"{n}.weight" for n, m in net.named_modules() if getattr(m, "groups", 1) > 1]
    assert depthwise
    assert not touched & set(depthwise)
    assert all(int((made.net.get_parameter(name) == 0).sum()) == 0 for name in depthwise)
    assert all(name.endswith("bias") for name in others)  # those of norms begin at zero


def test_without_retraining_the_share_is_reached_at_once_and_that_is_said(pics, clock):
    made, facts = prune.apply(Model(32, CLASSES, net_of()), 0.5, Lesson(pics(16), pics(8), clock, effort=0))
    assert facts.epochs == 0
    assert "no time" in facts.note
    assert np.mean(np.concatenate([z.numpy().ravel() for z in zeros(made.net).values()])) == pytest.approx(
        0.5, abs=1e-3
    )


def test_the_share_rises_fast_first_and_ends_at_the_amount():
    shares = [prune.share_at(done, 0.9) for done in (0, 0.25, 0.5, 0.75, 1)]
    assert shares[0] == 0
    assert shares[-1] == 0.9
    assert np.all(np.diff(shares) > 0)
    assert np.all(np.diff(shares, 2) < 0)


def test_the_score_is_lamp_s_by_its_definition():
    dice = np.random.default_rng(3)
    weights = dice.normal(size=(4, 5))
    squares = weights**2
    wanted = np.array([[s / squares[squares >= s].sum() for s in row] for row in squares])
    np.testing.assert_allclose(prune.scores(torch.from_numpy(weights)).numpy(), wanted, rtol=1e-5)
