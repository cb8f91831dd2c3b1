"""The micro-profile: what is foretold, and which rung is taken for it."""

import numpy as np
import pytest
import torch
from torch import nn

from edged.retrain import probe
from edged.retrain.probe import Profile
from edged.retrain.standing import Standing


def test_a_power_law_is_found_again_and_a_rising_curve_is_taken_as_flat():
    curve = [0.8 * s**-0.5 for s in (1, 2, 3)]
    assert probe.power_law(curve, 16) == pytest.approx(0.2)
    assert probe.power_law([0.3, 0.4, 0.5], 16) == pytest.approx(probe.power_law([0.3, 0.4, 0.5], 1))
    assert probe.power_law([0.3], 16) == pytest.approx(0.3)
    assert probe.power_law([], 16) == np.inf


def profile(name, losses, seconds, spread=0.05):
    noise = np.random.default_rng(1).normal(0, spread, 100)
    last = Standing(np.maximum(losses[-1] + noise, 0), np.ones(100, bool), 50)
    return Profile(name, 0, tuple(losses), last, seconds, 1 << 20, 0.1)


def test_the_cheapest_of_equals_is_climbed():
    head, tail, whole = (profile(n, (0.5, 0.4, 0.3), s) for n, s in (("head", 1), ("tail", 5), ("all", 10)))
    assert probe.choose([head, tail, whole], 18).name == "head"


def test_a_dear_rung_is_climbed_where_the_cheap_ones_lead_nowhere():
    head, tail = profile("head", (0.7, 0.69, 0.69), 1), profile("tail", (0.7, 0.66, 0.65), 5)
    whole = profile("all", (0.7, 0.4, 0.2), 10)
    assert probe.choose([head, tail, whole], 18).name == "all"


def test_a_profile_draws_a_tenth_and_none_twice():
    weights = np.full(3000, 1 / 3000)
    drawn = probe.sample(weights, 1)
    assert (len(drawn), len(set(drawn.tolist()))) == (300, 300)
    assert len(probe.sample(np.full(50, 0.02), 1)) == 50
    assert len(probe.sample(np.full(100_000, 1e-5), 1)) == probe.MOST


def test_memory_is_foretold_from_the_layers_outputs():
    tail = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 2))
    outputs = 3 * 16 + 8 * 16 + 8 * 16 + 2
    weights = 3 * 8 * 9 + 8 * 16 * 2 + 2
    assert probe.training_bytes(tail, (3, 4, 4), 32) == 4 * (2 * 32 * outputs + 4 * weights)
    assert torch.is_grad_enabled()
