"""Batch norm's statistics follow the pictures; weights stay."""

import numpy as np
import pytest
import torch
from torch import nn

from edged.retrain import norms

torch.set_num_threads(1)


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 2)).eval()


def pixels(n, mean, seed=1):
    return np.random.default_rng(seed).normal(mean, 20, (n, 8, 8, 3)).clip(0, 255).astype(np.uint8)


def test_statistics_become_those_of_the_pictures_and_nothing_else_moves():
    given, seen = net(), pixels(200, 180)
    before = {k: v.clone() for k, v in given.state_dict().items() if "running" not in k and "tracked" not in k}
    norms.measure(given, seen)
    with torch.inference_mode():
        out = given[0](torch.from_numpy(seen).permute(0, 3, 1, 2).float())
    assert torch.allclose(given[1].running_mean, out.mean((0, 2, 3)), rtol=1e-3)
    assert torch.allclose(given[1].running_var, out.var((0, 2, 3)), rtol=0.05)
    assert all(torch.equal(v, given.state_dict()[k]) for k, v in before.items())
    assert (given[1].momentum, given.training) == (0.1, False)


def test_a_blend_is_the_mixtures_own_mean_and_variance():
    a, b = torch.randn(10_000) * 2 + 5, torch.randn(30_000) - 1
    old = {"1.running_mean": a.mean()[None], "1.running_var": a.var()[None]}
    new = {"1.running_mean": b.mean()[None], "1.running_var": b.var()[None]}
    both, found = torch.cat([a, b]), norms.blend(old, new, 0.75)
    assert found["1.running_mean"].item() == pytest.approx(both.mean().item(), rel=1e-4)
    assert found["1.running_var"].item() == pytest.approx(both.var().item(), rel=1e-3)
    assert torch.equal(norms.blend(old, new, 1.0)["1.running_var"], new["1.running_var"])


def test_a_network_without_batch_norm_has_none():
    assert norms.has_norms(net())
    assert not norms.has_norms(nn.Sequential(nn.Linear(2, 2)))
