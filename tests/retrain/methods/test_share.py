"""Codebooks: few values in every layer, the same in the exported file, trained and kept."""

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from edged import packed
from edged.retrain import export, source, zoo
from edged.retrain.methods import Lesson, Model, prune, refine, share
from edged.retrain.methods.codebook import Books, Shared, kmeans
from edged.retrain.methods.kernels import fold, shareable

CLASSES = ("disc", "box")


def net_of(name="lenet-5", px=32):
    torch.manual_seed(1)
    return zoo.build(name, 2, px)


def distinct(values):
    values = np.asarray(values)
    return len(np.unique(values[values != 0]))


def normed():
    """A MobileNet whose norms are not what they began as."""
    net = net_of("mobilenet-0.125")
    dice = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=dice))
            module.running_var.copy_(torch.rand(module.num_features, generator=dice) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=dice) + 0.5)
    return net


def test_every_kernel_and_bias_has_at_most_so_many_values_and_keeps_them_through_later_retraining(pics, clock):
    lesson = Lesson(pics(48), pics(16, seed=1), clock, effort=2)
    made, _ = share.apply(Model(32, CLASSES, net_of()), 8, lesson)
    before = {name: w.detach().clone() for name, w in shareable(made.net).items()}
    assert all(distinct(w) <= 8 for w in before.values())
    refine.run(made, lesson, refine.Plan(batch=16, settled=0.9))
    after = {name: w.detach() for name, w in shareable(made.net).items()}
    assert all(distinct(w) <= 8 for w in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before), "no centroid was trained"


def test_without_the_hold_the_values_scatter(pics, clock):
    lesson = Lesson(pics(48), pics(16, seed=1), clock)
    made, _ = share.apply(Model(32, CLASSES, net_of()), 8, lesson)
    refine.run(Model(32, CLASSES, made.net), lesson, refine.Plan(batch=16, settled=0.9))
    assert max(distinct(w.detach()) for w in shareable(made.net).values()) > 100


def test_the_zeros_of_a_pruned_network_stay_beside_the_codebook(pics, clock):
    lesson = Lesson(pics(48), pics(16, seed=1), clock)
    pruned, _ = prune.apply(Model(32, CLASSES, net_of()), 0.8, lesson)
    zeros = {name: w.detach() == 0 for name, w in shareable(pruned.net).items()}
    made, _ = share.apply(pruned, 4, lesson)
    for name, weights in shareable(made.net).items():
        assert bool((weights.detach()[zeros[name]] == 0).all())
        assert distinct(weights.detach()) <= 4


@pytest.mark.parametrize("name", ["lenet-5", "mobilenet-0.125"])
def test_the_exported_file_has_the_very_values_also_of_a_network_with_norms(name, pics, clock):
    net = normed() if name.startswith("mobile") else net_of()
    made, _ = share.apply(Model(32, CLASSES, net), 6, Lesson(pics(32), pics(8), clock))
    inside = [w.detach().numpy() for w in shareable(made.net).values()]
    files = [numpy_helper.to_array(t) for t in source.parse(export.to_onnx(made.net, 32)).graph.initializer]
    for weights in inside:
        assert distinct(weights) <= 6
        assert any(f.shape == weights.shape and np.array_equal(f, weights) for f in files)


def test_values_are_short_and_the_packed_file_is_smaller_for_it(pics, clock):
    made, _ = share.apply(Model(32, CLASSES, net_of()), 16, Lesson(pics(32), pics(8), clock))
    file = export.to_onnx(made.net, 32)
    with torch.no_grad():
        for weights in shareable(made.net).values():
            assert not (weights.numpy().view(np.uint32) & 0xFFFF).any()
            book = weights.unique()
            longer = book * 1.0001  # as many values, all of their bits in use
            weights.copy_(longer[torch.searchsorted(book, weights)])
    assert len(packed.pack(file)) < len(packed.pack(export.to_onnx(made.net, 32))) - 100


def test_a_codebook_made_before_the_norms_are_folded_would_not_survive_the_export():
    net = normed()
    book = Books(net, {name: 6 for name in shareable(net)}).settled(net)
    assert isinstance(book, Shared)
    files = [numpy_helper.to_array(t) for t in source.parse(export.to_onnx(net, 32)).graph.initializer]
    assert max(distinct(f) for f in files if f.ndim == 4) > 6


def test_folding_changes_no_answer_and_no_name():
    net = normed().eval()
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        before, names = net(image), list(shareable(net))
        folded = fold(net)
        torch.testing.assert_close(folded(image), before, rtol=1e-4, atol=1e-4)
    assert set(names) <= set(shareable(folded))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())


def test_the_gradient_of_an_entry_is_the_sum_over_its_weights_and_that_of_a_zero_is_zero():
    layer = nn.Sequential(nn.Linear(3, 1, bias=False))
    layer[0].weight.data = torch.tensor([[0.5, 0.0, 0.5]])
    hold = Books(layer, {"0.weight": 2}).settled(layer)
    layer[0].weight.grad = torch.tensor([[1.0, 7.0, 2.0]])
    hold.after_backward(layer)
    assert layer[0].weight.grad.tolist() == [[3.0, 0.0, 3.0]]


def test_the_centroids_are_as_good_as_scipy_s():
    cluster = pytest.importorskip("scipy.cluster.vq")
    dice = np.random.default_rng(5)
    values = np.concatenate([dice.normal(-1, 0.2, 900), dice.normal(0.7, 0.4, 1500)])
    ours = kmeans(values, 8)
    best = min(cluster.kmeans(values, 8, iter=1, seed=s, check_finite=False)[1] for s in range(8))
    assert len(ours) == 8
    assert np.abs(values[:, None] - ours).min(1).mean() <= 1.05 * best


def test_a_million_values_are_binned_and_as_good_as_exact_to_a_thousandth():
    values = np.random.default_rng(7).normal(size=300_000)
    binned = kmeans(values, 16)
    error = (np.abs(values[:, None] - binned).min(1) ** 2).mean()
    assert error == pytest.approx(0.0095, rel=0.08)  # Max 1960, table I: 16 levels of a Gaussian, 0.009497


def test_values_that_are_few_are_their_own_codebook():
    assert kmeans(np.array([3.0, -1.0, 3.0, 2.0]), 8).tolist() == [-1.0, 2.0, 3.0]


def test_with_a_price_on_bits_rare_values_go():
    values = np.concatenate([np.full(5000, 1.0), np.full(5000, -1.0), [0.4, 0.41, -0.3]])
    assert len(kmeans(values, 5, bits_weigh=0.5)) < len(kmeans(values, 5)) == 5


def test_the_network_is_seen_with_its_entries_and_put_back():
    net = net_of()
    before = {name: w.detach().clone() for name, w in shareable(net).items()}
    books = Books(net, {name: 4 for name in shareable(net)})
    with books.seen(net):
        assert all(distinct(w.detach()) <= 4 for w in shareable(net).values())
    assert all(torch.equal(w, before[name]) for name, w in shareable(net).items())
