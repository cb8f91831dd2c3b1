"""Batch norm's statistics measured anew on pictures without labels: the cheapest way to follow a change of light or lens.

Each normalised layer gets the mean and variance that it sees now (Li et al., AdaBN, arXiv 1603.04779; Schneider et al.,
arXiv 2006.16971). Weights are not touched. Guarantees: forward passes only, the same pictures give the same statistics.
Does not guarantee that it helps: it cannot where the content changed, so whoever calls judges it on labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

BATCH = 64


def has_norms(net: nn.Module) -> bool:
    return any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def statistics(net: nn.Module) -> dict[str, Tensor]:
    """Running means and variances, copied; keys as in the state dict."""
    return {k: v.clone() for k, v in net.state_dict().items() if k.endswith(("running_mean", "running_var"))}


def measure(net: nn.Module, pixels: NDArray[np.uint8]) -> None:
    """Set the statistics of `net` in place to their plain average over batches of `pixels` (uint8 [n, px, px, 3], n >= 2)."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a cumulative average
    net.train()
    with torch.inference_mode():
        for part in np.array_split(pixels, max(1, len(pixels) // BATCH)):
            net(torch.from_numpy(np.ascontiguousarray(part)).permute(0, 3, 1, 2).float())
    for m, momentum in zip(norms, before, strict=True):
        m.momentum = momentum
    net.eval()


def blend(old: dict[str, Tensor], new: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Statistics of a mixture with `share` of the new: variances count the distance between the means as well."""
    mixed = {}
    for key, mean in new.items():
        if key.endswith("running_mean"):
            variance = key.removesuffix("mean") + "var"
            apart = (mean - old[key]) ** 2
            mixed[key] = share * mean + (1 - share) * old[key]
            mixed[variance] = share * new[variance] + (1 - share) * old[variance] + share * (1 - share) * apart
    return mixed
