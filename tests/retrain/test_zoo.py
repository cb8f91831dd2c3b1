"""The networks: what they compute, where they may be cut, and that older weights still fit."""

import numpy as np
import pytest
import torch
from torch import nn

from edged import engine
from edged.engine import patterns, preprocess
from edged.errors import Corrupt
from edged.retrain import export, nets, tables, zoo

SMALL = [
    ("lenet-300-100", 28), ("lenet-5", 32), ("lenet-5-caffe", 28), ("mobilenet-0.125", 32), ("mobilenet-0.25", 64),
    ("squeezenet-1.1", 40), ("alexnet", 64),
]  # fmt: skip


@pytest.fixture(scope="module")
def build():
    made = {}

    def one(name, px):
        if (name, px) not in made:
            torch.manual_seed(1)
            made[name, px] = zoo.build(name, 3, px).eval()
        return made[name, px]

    return one


@pytest.mark.parametrize(("name", "px"), SMALL)
def test_a_network_cut_anywhere_answers_like_the_whole(build, name, px):
    net = build(name, px)
    images = torch.rand(2, 3, px, px) * 255
    cuts = zoo.blocks(net)
    assert cuts == sorted(set(cuts))
    for i in cuts:
        assert torch.equal(net[i:](net[:i](images)), net(images))


@pytest.mark.parametrize(("name", "px"), SMALL)
def test_the_last_cut_leaves_the_classifier_alone_in_the_tail(build, name, px):
    net = build(name, px)
    tail = net[zoo.blocks(net)[-1] :]
    weighted = [m for m in tail if isinstance(m, nn.Linear | nn.Conv2d)]
    assert weighted == [net[zoo.head(net)]]


@pytest.mark.parametrize(("name", "px"), SMALL)
def test_torch_counts_what_the_table_says(build, name, px):
    net, rows = build(name, px), nets.layers(name, 3, px)
    assert sum(p.numel() for p in net.parameters()) == tables.parameters(rows)
    assert len(tables.cuts(rows)) == len(zoo.blocks(net))
    assert tables.tensors(rows) == {name: tuple(t.shape) for name, t in net.state_dict().items()}
    wrote = []
    hooks = [
        m.register_forward_hook(lambda m, _, out: wrote.append(out[0].numel()))
        for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MaxPool2d | nn.BatchNorm2d)
    ]  # fmt: skip
    net(torch.zeros(1, 3, px, px))
    for hook in hooks:
        hook.remove()
    assert wrote == [row.floats for row in rows if row.kind in ("conv", "full", "pool", "norm")]


def test_a_mobilenet_is_cut_between_its_thirteen_pairs_only(build):
    net = build("mobilenet-0.25", 64)
    assert zoo.blocks(net) == [*range(4, 4 + 13 * 6, 6), len(net) - 1]


def test_weights_of_models_made_before_still_fit(build):
    """The names of the first, the middle and the last tensor, as weights files of released models have them."""
    keys = list(build("mobilenet-0.25", 64).state_dict())
    assert (keys[0], keys[6], keys[-1]) == ("1.weight", "4.weight", "84.bias")
    assert len(keys) == 27 * 6 + 2
    lenet = list(build("lenet-5", 32).state_dict())
    assert lenet == [f"{i}.{part}" for i in (1, 4, 8, 10, 12) for part in ("weight", "bias")]
    assert list(build("lenet-300-100", 28).state_dict())[::2] == ["2.weight", "4.weight", "6.weight"]


def test_the_same_seed_gives_the_same_network():
    def first(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in zoo.build("squeezenet-1.1", 2, 32).parameters()])

    assert torch.equal(first(4), first(4))
    assert not torch.equal(first(4), first(5))


@pytest.mark.parametrize(("name", "px"), [("squeezenet-1.1", 40), ("mobilenet-0.125", 32), ("alexnet", 64)])
def test_a_network_is_exported_and_answers_alike(build, name, px):
    data = export.to_onnx(build(name, px), px)
    batch = preprocess.marshal(preprocess.to_float([patterns.picture(s, px) for s in range(3)], px))
    (logits,) = engine.load(data).run(batch)
    assert logits.shape == (3, 3)
    assert np.isfinite(logits).all()
    torch.manual_seed(8)
    other = zoo.build(name, 3, px).eval()
    with pytest.raises(Corrupt, match="answers differently"):
        export.compare(other, data, px)


def test_batch_norm_is_folded_at_any_depth_and_the_network_itself_is_left_alone():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())

        def forward(self, x):
            return self.inner(x) + 1

    torch.manual_seed(2)
    net = nn.Sequential(Beside(), nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)), nn.Flatten())
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    folded = export.fold(net)
    images = torch.rand(2, 3, 6, 6)
    assert torch.allclose(folded(images), net(images), atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 2
