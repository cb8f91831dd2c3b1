"""Low rank: a layer that has one is found, work is saved where it can be and nowhere else."""

import pytest
import torch
from torch import nn

from edged.retrain import export, zoo
from edged.retrain.methods import Lesson, Model, lowrank, macs

CLASSES = ("disc", "box")


@pytest.mark.parametrize("layer", [nn.Linear(24, 16), nn.Conv2d(24, 16, 1), nn.Conv2d(6, 16, 3, 2, 1)])
def test_a_layer_of_rank_three_is_the_same_as_its_pair(layer):
    torch.manual_seed(0)
    outputs, inputs = layer.weight.shape[0], layer.weight[0].numel()
    with torch.no_grad():
        layer.weight.copy_((torch.randn(outputs, 3) @ torch.randn(3, inputs)).reshape(layer.weight.shape))
    x = torch.randn(2, 24) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 9, 9)
    wanted = layer(x)
    assert torch.allclose(lowrank.pair(layer, 3)(x), wanted, atol=1e-4)
    assert not torch.allclose(lowrank.pair(layer, 2)(x), wanted, atol=1e-1)


@pytest.mark.parametrize(("name", "px"), [("lenet-300-100", 28), ("squeezenet-1.1", 32), ("mobilenet-0.25", 32)])
def test_so_much_of_the_work_is_left_as_was_asked_for_and_the_file_answers_as_torch(name, px, pics, clock):
    torch.manual_seed(0)
    pictures = pics(8, px=px)
    model, facts = lowrank.apply(
        Model(px, CLASSES, zoo.build(name, 2, px)), 0.7, Lesson(pictures, pictures, clock, effort=0)
    )
    assert facts.multiply_adds == macs.of(model.net, px)
    assert 0.6 * facts.multiply_adds_before < facts.multiply_adds <= 0.7 * facts.multiply_adds_before
    assert facts.parameters < facts.parameters_before
    export.to_onnx(model.net, px)  # raises when the engine answers otherwise


def test_depthwise_convolutions_and_the_classifier_stay_whole():
    net = zoo.build("mobilenet-0.25", 2, 32)
    chosen = lowrank.chosen(net, 32, 0.5)
    assert chosen
    assert all(isinstance(m, nn.Conv2d) and m.groups == 1 for m in chosen)
    assert net[-1] not in chosen


def test_a_layer_with_a_steep_spectrum_goes_before_one_with_a_flat_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 48), nn.Linear(48, 48), nn.Linear(48, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.linalg.qr(torch.randn(48, 48))[0])
        net[2].weight.copy_(torch.randn(48, 4) @ torch.randn(4, 48))
    assert list(lowrank.chosen(net, 4, 0.7)) == [net[2]]


def test_nothing_is_changed_when_all_of_the_work_may_stay(pics, clock):
    net = zoo.build("lenet-5", 2, 32)
    before = list(net)
    model, facts = lowrank.apply(Model(32, CLASSES, net), 1.0, Lesson(pics(8), pics(8), clock))
    assert list(model.net) == before
    assert facts.multiply_adds == facts.multiply_adds_before
    assert facts.epochs == 0


def test_retraining_is_the_same_each_time(pics, clock):
    def once():
        torch.manual_seed(0)
        model = Model(32, CLASSES, zoo.build("lenet-5", 2, 32))
        return lowrank.apply(model, 0.6, Lesson(pics(64), pics(16), clock, effort=0.25))[0].net.state_dict()

    first, second = once(), once()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_batch_norm_behind_a_pair_is_folded_all_the_same():
    torch.manual_seed(0)
    net = zoo.build("mobilenet-0.25", 2, 32)
    lowrank.factor(net, lowrank.chosen(net, 32, 0.6))
    assert not [m for m in export.fold(net).modules() if isinstance(m, nn.BatchNorm2d)]
