"""The weights of a network that zeros and codebooks are made of: names, folded norms, what counts.

Guarantees: names are those of the network's state dict, and folding keeps them (a folded norm leaves an Identity in its
place), so that a `Hold` of an earlier step still fits. Does not guarantee anything for norms outside an nn.Sequential
right behind their convolution: those stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def kernels(net: nn.Module) -> dict[str, Tensor]:
    """What may be pruned: kernels of convolutions and full connections, input to output.

    Depthwise kernels are left out: they are under 2 % of a MobileNet's weights, and a channel has only nine of them, so
    each zero costs accuracy and saves nearly nothing. So are norms and biases: few, and not redundant.
    """
    return {f"{name}.weight": module.weight for name, module in _layers(net) if not _depthwise(module)}


def shareable(net: nn.Module) -> dict[str, Tensor]:
    """What may have a codebook: every kernel, depthwise ones too, and every bias of them."""
    found: dict[str, Tensor] = {}
    for name, module in _layers(net):
        found[f"{name}.weight"] = module.weight
        if module.bias is not None:
            found[f"{name}.bias"] = module.bias
    return found


def counted(net: nn.Module) -> tuple[int, int]:
    """Parameters, and those of them that are not zero."""
    return sum(p.numel() for p in net.parameters()), sum(int(torch.count_nonzero(p)) for p in net.parameters())


def fold(net: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution before it, in place, leaving an Identity; returns `net`.

    Codebooks need it: exporting folds, which scales each output channel's kernels by a factor of its own and would make
    k values out of one for every channel. What goes is the norm's batch statistics in later training.
    """
    net.eval()
    for child in net.children():
        fold(child)
    if isinstance(net, nn.Sequential):
        before = ""
        for name, module in list(net.named_children()):
            conv: Any = getattr(net, before) if before else None
            if isinstance(module, nn.BatchNorm2d) and isinstance(conv, nn.Conv2d):
                net._modules[before] = fuse_conv_bn_eval(conv, module)
                net._modules[name] = nn.Identity()
            before = name
    return net


def _layers(net: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
