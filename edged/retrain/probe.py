"""The micro-profile: what a rung costs and about how far it leads, from a tenth of the samples (Ekya, NSDI 2022, section 4.3).

Guarantees: CPU seconds and bytes are known before a rung starts. Seconds come from timed steps, bytes from the layers'
outputs. Does not guarantee the accuracy that is foretold: a power law through a few points of a small sample ranks rungs,
it does not measure them; what a rung reached is measured afterwards and told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edged.retrain.standing import Standing, worse_by

SHARE = 0.1
LEAST, MOST = 96, 400  # samples that a profile trains on
SLICES = 3  # looks at the tune split during a profile
INTERPRETER_BYTES = 260 << 20  # resident with torch, cv2 and an engine loaded, measured


@dataclass(frozen=True)
class Profile:
    """One rung as foretold. `losses` are the mean tune losses after each slice, `last` the standing after the last."""

    name: str
    cut: int
    losses: tuple[float, ...]
    last: Standing
    seconds: float  # of the whole rung, CPU
    peak_bytes: int
    spent: float  # CPU seconds that the profile took

    def foretold(self, slices: float) -> float:
        """Mean tune loss after `slices` times as much training as one slice."""
        return power_law(self.losses, slices)


def power_law(losses: Sequence[float], at: float) -> float:
    """loss(s) = a * s^-b with b >= 0, by least squares in logarithms through (1, losses[0]), (2, losses[1]), ...

    Learning curves follow it over wide ranges (Hestness et al., arXiv 1712.00409). A curve that rises is taken as flat.
    """
    if not losses:
        return math.inf
    y = np.log(np.maximum(losses, 1e-6))
    if len(losses) == 1:
        return float(np.exp(y[0]))
    slope, height = np.polyfit(np.log(np.arange(1, len(losses) + 1)), y, 1)
    return float(np.exp(height + min(0.0, float(slope)) * math.log(max(1.0, at))))


def choose(profiles: Sequence[Profile], slices: float, *, tolerance: float = 1.0) -> Profile:
    """The cheapest whose loss is not clearly (by `tolerance` standard errors, paired) above the best one's.

    Breiman's one-standard-error rule over prices. What is compared is the last measured standing; the fitted curve only
    breaks ties of what has not levelled off: a rung foretold to end a tenth above the best one is no tie.
    """
    best = min(profiles, key=lambda p: p.foretold(slices))
    ties = [
        p for p in profiles
        if worse_by(p.last, best.last) <= tolerance and p.foretold(slices) <= 1.1 * best.foretold(slices)
    ]  # fmt: skip
    return min(ties or [best], key=lambda p: p.seconds)


def sample(weights: np.ndarray, seed: int) -> np.ndarray:
    """Indices for a profile: a tenth, drawn by chance of being drawn, none twice, sorted."""
    n = min(int(np.count_nonzero(weights)), max(LEAST, min(MOST, round(len(weights) * SHARE))))
    return np.sort(np.random.default_rng(seed).choice(len(weights), n, replace=False, p=weights))


def training_bytes(tail: nn.Module, shape: tuple[int, ...], batch: int) -> int:
    """Activations kept for the backward pass with their gradients, and weights with gradient and AdamW's two moments."""
    outputs = [int(np.prod(shape))]

    def count(_module: nn.Module, _given: object, out: torch.Tensor) -> None:
        outputs.append(out[0].numel())

    leaves = [m for m in tail.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(count) for m in leaves]
    try:
        with torch.inference_mode():
            tail.eval()(torch.zeros(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    weights = sum(p.numel() for p in tail.parameters())
    return 4 * (2 * batch * sum(outputs) + 4 * weights)
