"""Channel pruning: every network of the zoo becomes smaller as a whole and still answers as its file does."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from edged.errors import Refused
from edged.retrain import export, zoo
from edged.retrain.methods import Lesson, Model, channels, macs
from edged.retrain.nets import layers
from edged.retrain.pictures import Pictures
from edged.retrain.tables import macs as counted

CLASSES = ("disc", "box")
NETS = [
    ("mobilenet-0.25", 32), ("squeezenet-1.1", 32), ("lenet-5", 32), ("lenet-300-100", 28),
    pytest.param("alexnet", 64, marks=pytest.mark.slow), pytest.param("vgg-16", 32, marks=pytest.mark.slow),
]  # fmt: skip


def cut(name, px, amount, pictures, clock, **more):
    torch.manual_seed(0)
    model = Model(px, CLASSES, zoo.build(name, 2, px))
    return channels.apply(model, amount, Lesson(pictures, pictures, clock, **{"effort": 0} | more))


@pytest.mark.parametrize(("name", "px"), NETS)
def test_half_of_the_channels_of_every_network_go_and_its_file_answers_as_torch_does(name, px, pics, clock):
    before = zoo.build(name, 2, px)
    model, facts = cut(name, px, 0.5, pics(8, px=px), clock)
    assert facts.parameters < 0.6 * facts.parameters_before
    assert facts.multiply_adds < 0.6 * facts.multiply_adds_before
    narrow, wide = channels.widths(model.net), channels.widths(before)
    assert all(narrow[k] <= wide[k] for k in wide)
    assert list(narrow.values())[-1] == 2
    assert all(narrow[k] % 8 == 0 for k in list(wide)[:-1] if wide[k] >= 16)
    data = export.to_onnx(model.net, px)  # raises when the engine answers otherwise than torch
    assert len(data) < 0.6 * len(export.to_onnx(before, px))


def test_a_depthwise_convolution_keeps_as_many_channels_as_the_pointwise_before_it(pics, clock):
    model, _ = cut("mobilenet-0.5", 32, 0.4, pics(8), clock)
    convs = [m for m in model.net if isinstance(m, nn.Conv2d)]
    for before, now in itertools.pairwise(convs):
        if now.groups > 1:
            assert now.groups == now.in_channels == now.out_channels == before.out_channels


def test_multiply_adds_are_those_of_the_papers_table():
    for name, px in (("mobilenet-0.25", 64), ("squeezenet-1.1", 64), ("lenet-5", 32)):
        assert macs.of(zoo.build(name, 2, px), px) == counted(layers(name, 2, px))


def test_what_matters_is_kept(clock):
    """A network in which only the last eight channels carry anything keeps these."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 2))  # fmt: skip
    with torch.no_grad():
        net[0].weight[:8] *= 1e-4
        net[0].bias[:8] = 0
    wanted = net[0].weight[8:].detach().clone()
    none = Pictures(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), ())
    channels.cut(Model(8, CLASSES, net), {"0": 8}, Lesson(none, none, clock))
    assert torch.equal(net[0].weight, wanted)


def test_pruning_with_retraining_is_the_same_each_time(pics, clock):
    found = [cut("lenet-5", 32, 0.25, pics(64), clock, effort=0.5)[0].net.state_dict() for _ in range(2)]
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_no_share_leaves_the_network_as_it_is(pics, clock):
    model, facts = cut("lenet-5", 32, 0, pics(8), clock)
    assert facts.parameters == facts.parameters_before == sum(p.numel() for p in model.net.parameters())


def test_weights_that_are_held_cannot_lose_channels(pics, clock):
    model = Model(32, CLASSES, zoo.build("lenet-5", 2, 32), holds=(object(),))
    with pytest.raises(Refused, match="before the steps that hold"):
        channels.apply(model, 0.5, Lesson(pics(8), pics(8), clock))


@pytest.mark.parametrize(
    ("had", "share", "left"), [(16, 0.5, 8), (16, 0.9, 8), (8, 0.5, 8), (6, 0.5, 3), (64, 0.4, 40), (3, 0.9, 1)]
)
def test_layers_keep_blocks_of_eight_and_at_least_one_channel(had, share, left):
    assert channels.kept(had, share) == left
