"""Retraining for int8: the file answers as the network that was trained, on every runtime, and holds are kept."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from edged import engine
from edged.errors import Refused
from edged.retrain import export, measure, zoo
from edged.retrain.methods import Lesson, Model, fakequant, int8, qat, qdq, refine
from edged.retrain.pictures import Pictures

CLASSES = ("disc", "box")


def alive(name, px=32, seed=0):
    """A network as after training: batch norm has statistics of its own."""
    torch.manual_seed(seed)
    net = zoo.build(name, 2, px)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.1)
    return net.eval()


def simulated(net, pictures):
    """Wrap and calibrate; its answers."""
    fakequant.wrap(net)
    fakequant.calibrate(net, qat.batches(pictures))
    with torch.no_grad():
        return net(torch.from_numpy(next(iter(pictures.batches(16))))).numpy()


def agree(found, wanted):
    """Another order of sums moves a value to the next step of its grid now and then, so a few answers may be off by that."""
    apart, size = np.abs(found - wanted), np.abs(wanted).max()
    return np.median(apart) <= 1e-5 * size and apart.max() <= 0.03 * size


@pytest.mark.parametrize("name", ["lenet-5", "mobilenet-0.25", "squeezenet-1.1"])
def test_the_file_answers_as_the_network_in_simulated_int8_on_every_runtime(name, pics):
    pictures, net = pics(16), alive(name)
    plain = net(torch.from_numpy(next(iter(pictures.batches(16))))).detach().numpy()
    wanted = simulated(net, pictures)
    assert np.abs(wanted - plain).max() > 1e-5  # it is int8, not the float network
    data = qat.delivered(Model(32, CLASSES, net))
    for runtime in engine.runtimes():
        (found,) = engine.load(data, runtime=runtime).run(next(iter(pictures.batches(16))))
        assert agree(found, wanted), runtime


def test_control_other_ranges_in_the_file_do_not_answer_as_the_network(pics):
    pictures, net = pics(16), alive("lenet-5")
    wanted = simulated(net, pictures)
    grids = fakequant.unwrap(net)
    wrong = {name: qdq.Grid(grid.scale * 1.5, grid.zero) for name, grid in grids.items()}
    (found,) = engine.load(qdq.write(export.to_onnx(net, 32), wrong)).run(next(iter(pictures.batches(16))))
    assert not agree(found, wanted)


def test_names_in_the_state_dict_stay_so_that_holds_find_their_weights():
    net = alive("mobilenet-0.25")
    before = list(net.state_dict())
    fakequant.wrap(net)
    assert set(before) <= set(net.state_dict())


class Zeros:
    """The hold of pruning, in short."""

    def __init__(self, net):
        self.masks = {k: v != 0 for k, v in net.state_dict().items() if k.endswith("weight") and v.ndim > 1}

    def after_backward(self, net):
        pass

    def after_step(self, net):
        for name, p in net.named_parameters():
            if name in self.masks:
                p.data *= self.masks[name]


def test_weights_that_are_zero_are_zero_in_the_file(pics, clock):
    net = alive("lenet-5")
    with torch.no_grad():
        net[4].weight[:, :3] = 0
    made, _ = qat.apply(
        Model(32, CLASSES, net, holds=(Zeros(net),)), 0, Lesson(pics(64), pics(16), clock, effort=0.25, calibration=16)
    )
    weights = {t.name: t for t in _graph(made.onnx).initializer}
    import onnx

    whole = onnx.numpy_helper.to_array(weights["4.weight/int"])
    assert not whole[:, :3].any()
    assert whole[:, 3:].any()


@pytest.mark.slow
def test_retraining_wins_back_what_coarse_values_lost_and_leaves_no_network(pics, clock):
    train, tune = pics(400, seed=1), pics(200, seed=2)
    model = Model(32, CLASSES, alive("lenet-5", seed=3))
    refine.run(model, Lesson(train, tune, clock), refine.Plan(epochs=12, lr=2e-3))
    made, facts = qat.apply(model, 0, Lesson(train, tune, clock, calibration=50))
    assert made.net is None
    assert facts.accuracy_after == measure.accuracy(made.onnx, tune)
    print(f"before {facts.accuracy_before}, after {facts.accuracy_after}, n 200, seeds 1, 2, 3")
    assert facts.accuracy_before > 0.9
    assert facts.accuracy_after >= facts.accuracy_before - 0.01


@pytest.mark.parametrize("worse", [True, False])
def test_where_int8_without_retraining_is_nearer_to_the_float_network_that_file_is_given(
    pics, clock, monkeypatch, worse
):
    net, lesson = alive("lenet-5", seed=3), Lesson(pics(64), pics(16, seed=2), clock, effort=0, calibration=16)
    plain, turned = export.to_onnx(net, 32), copy.deepcopy(net)
    with torch.no_grad():  # what either could come to: the classes in each other's place
        for tensor in (turned[-1].weight, turned[-1].bias):
            tensor.copy_(tensor.flip(0))
    told, _ = int8.apply(Model(32, CLASSES, onnx=plain), 0, lesson)
    other, _ = int8.apply(Model(32, CLASSES, onnx=export.to_onnx(turned, 32)), 0, lesson)
    if worse:
        monkeypatch.setattr(qat, "written", lambda model: (other.onnx, plain))
    else:
        monkeypatch.setattr(int8, "int8", lambda model, calibration: other.onnx)
    made, facts = qat.apply(Model(32, CLASSES, net), 0, lesson)
    assert (made.onnx == told.onnx) is worse
    assert ("without retraining, which is" in facts.note) is worse
    assert facts.step == "qat"
    assert facts.accuracy_after == measure.accuracy(made.onnx, lesson.judged)


def test_it_learns_from_the_float_network_whatever_the_labels_say(pics, clock):
    net, train = alive("lenet-5", seed=3), pics(64)
    wrong = Pictures(train.pixels, 1 - train.labels, train.cameras)
    lessons = [Lesson(some, pics(16, seed=1), clock, effort=0.25, calibration=16) for some in (train, wrong)]
    found = [qat.apply(Model(32, CLASSES, copy.deepcopy(net)), 0, lesson)[0].onnx for lesson in lessons]
    assert found[0] == found[1]


def test_the_same_network_and_lesson_give_the_same_bytes(pics, clock):
    net = alive("lenet-5")
    lesson = Lesson(pics(64), pics(16), clock, effort=0.25, calibration=16)
    found = [qat.apply(Model(32, CLASSES, copy.deepcopy(net)), 0, lesson)[0].onnx for _ in range(2)]
    assert found[0] == found[1]


def test_a_channel_of_zeros_with_a_bias_keeps_its_bias(pics):
    """Its weights have no scale of their own, and 32 bits must hold the bias on the one that they are given."""
    net = alive("lenet-5")
    with torch.no_grad():
        net[1].weight[0] = 0
        net[1].bias[0] = 3.0
    pictures = pics(16)
    wanted = simulated(net, pictures)
    (found,) = engine.load(qat.delivered(Model(32, CLASSES, net))).run(next(iter(pictures.batches(16))))
    assert agree(found, wanted)


def test_without_crops_to_calibrate_on_it_is_refused(clock):
    none = Pictures(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0, np.int64), ())
    with pytest.raises(Refused, match="no crops to calibrate on"):
        qat.apply(Model(32, CLASSES, alive("lenet-5")), 0, Lesson(none, none, clock))


def test_a_grid_holds_zero_exactly_and_is_never_empty():
    for low, high in ((-1, 1), (0, 6), (2, 3), (-3, -2), (0, 0)):
        at = qdq.grid(low, high)
        assert at.scale > 0
        assert 0 <= at.zero <= 255
        assert at.scale * (0 - at.zero) <= min(low, 0) + at.scale


def _graph(data):
    from edged.retrain import source

    return source.parse(data).graph
