"""Multiply-adds of a network, counted where they happen."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def each(net: nn.Module, px: int) -> dict[nn.Module, int]:
    """Of each convolution and full connection, for one picture [1, 3, px, px], in the order of execution."""
    found: dict[nn.Module, int] = {}

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], out: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        found[module] = weight.numel() * (out.shape[2] * out.shape[3] if out.ndim == 4 else 1)

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    was = net.training
    net.eval()
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, px, px))
    finally:
        for hook in hooks:
            hook.remove()
        net.train(was)
    return found


def of(net: nn.Module, px: int) -> int:
    """For one picture, of all its convolutions and full connections, as `tables.Layer.macs` counts them."""
    return sum(each(net, px).values())
