"""A network that computes in float32 with just the values that its int8 file has (qdq.py), and can be trained so.

`wrap` puts `Fake` in the place of each convolution and full connection, under the same names in the state dict, so that
holds stay true. Batch norm's statistics are frozen and folded into the weights in each pass (Jacob et al., arXiv
1712.05877, section 3.2); weights and inputs pass a rounding whose gradient is that of the identity (straight through,
Bengio et al., arXiv 1308.3432); the range of each input is learned (LSQ, Esser et al., arXiv 1902.08153) from a start
that has the least squared error on calibration pictures.

Guarantees: `unwrap` gives a plain network with the folded weights, and the grids; qdq.write of both answers as the wrapped
network does, up to the order of sums (which now and then moves a value to the next step of its grid).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from edged.retrain.methods.qdq import LEVELS, WEIGHT_MOST, Grid

_KEPT = 1 << 16  # values of an input that calibration keeps
_SHARES = tuple(i / 20 for i in range(20, 5, -1))  # of the largest value seen, tried as the end of a range


class Fake(nn.Module):
    """One convolution or full connection with its batch norm, in simulated int8."""

    weight: Tensor
    bias: Tensor | None
    low: Tensor
    high: Tensor

    def __init__(self, inner: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.weight, self.bias = inner.weight, inner.bias
        self.low = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.high = nn.Parameter(torch.ones(()))
        self.seen: list[Tensor] | None = None  # while calibrating
        self._geometry = (inner, norm)  # in a tuple: known to torch under their own names only

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.folded()
        if self.seen is not None:
            flat = x.detach().flatten()
            self.seen.append(torch.cat((flat[:: max(1, len(flat) * 8 // _KEPT)], flat.amax()[None], flat.amin()[None])))
        else:
            scales = weight_scales(weight)
            shaped = scales.reshape(-1, *(1,) * (weight.ndim - 1))
            weight = torch.clamp(straight(weight / shaped), -WEIGHT_MOST, WEIGHT_MOST) * shaped
            if bias is not None:
                steps = scales * self._grid()[0].detach()
                bias = straight(bias / steps) * steps
            x = self._rounded_input(x)
        inner = self._geometry[0]
        if isinstance(inner, nn.Linear):
            return nn.functional.linear(x, weight, bias)
        return nn.functional.conv2d(x, weight, bias, inner.stride, inner.padding, inner.dilation, inner.groups)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weights and bias with the batch norm in them."""
        norm = self._geometry[1]
        if norm is None:
            return self.weight, self.bias
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        offset = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        return self.weight * gain.reshape(-1, 1, 1, 1), norm.bias + offset * gain

    def _rounded_input(self, x: Tensor) -> Tensor:
        scale, zero = self._grid()
        return (torch.clamp(straight(x / scale) + zero, 0, LEVELS) - zero) * scale

    def _grid(self) -> tuple[Tensor, Tensor]:
        low = torch.clamp(self.low, max=0.0)
        scale = torch.clamp(torch.clamp(self.high, min=0.0) - low, min=1e-6) / LEVELS
        return scale, torch.clamp(torch.round(-low / scale), 0, LEVELS).detach()

    @torch.no_grad()
    def grid(self) -> Grid:
        scale, zero = self._grid()
        return Grid(float(scale), int(zero))

    @torch.no_grad()
    def settle(self) -> None:
        """Choose the range with the least squared error on what was seen."""
        assert self.seen is not None
        values, self.seen = torch.cat(self.seen), None
        low, high = float(values.min().clamp(max=0)), float(values.max().clamp(min=1e-6))
        self.low.requires_grad_(low < 0)
        found = []
        for share in _SHARES:
            self.low.fill_(low * share)
            self.high.fill_(high * share)
            found.append((float((self._rounded_input(values) - values).square().mean()), -share))
        share = -min(found)[1]
        self.low.fill_(low * share)
        self.high.fill_(high * share)


class Idle(nn.Module):
    """A batch norm that is computed elsewhere: its tensors under their names, and nothing done."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        return x


def weight_scales(weight: Tensor) -> Tensor:
    """As qdq.weight_scales has them."""
    return torch.clamp(weight.detach().abs().flatten(1).amax(1), min=1e-8) / WEIGHT_MOST


def straight(x: Tensor) -> Tensor:
    """Rounded half to even; the gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()


def wrap(net: nn.Module) -> None:
    """In place, at any depth."""
    names = list(net._modules)
    for i, name in enumerate(names):
        module = net._modules[name]
        assert module is not None
        if isinstance(module, nn.Conv2d | nn.Linear):
            behind = net._modules[names[i + 1]] if isinstance(net, nn.Sequential) and i + 1 < len(names) else None
            norm = behind if isinstance(behind, nn.BatchNorm2d) and isinstance(module, nn.Conv2d) else None
            net._modules[name] = Fake(module, norm)
            if norm is not None:
                net._modules[names[i + 1]] = Idle(norm)
        elif not isinstance(module, Fake | Idle):
            wrap(module)


def layers(net: nn.Module) -> Iterator[tuple[str, Fake]]:
    return ((name, m) for name, m in net.named_modules() if isinstance(m, Fake))


def calibrate(net: nn.Module, batches: Iterator[Tensor]) -> None:
    """Set the range of each input from float32 NCHW pictures, computed in float."""
    net.eval()
    for _, layer in layers(net):
        layer.seen = []
    with torch.no_grad():
        for batch in batches:
            net(batch)
    for _, layer in layers(net):
        layer.settle()


@torch.no_grad()
def freeze(net: nn.Module, grids: Mapping[str, Grid]) -> None:
    """Set the ranges of these inputs, named by their layer's weight, for good."""
    for name, layer in layers(net):
        if (grid := grids.get(f"{name}.weight")) is not None:
            layer.low.requires_grad_(False).fill_(-grid.zero * grid.scale)
            layer.high.requires_grad_(False).fill_((LEVELS - grid.zero) * grid.scale)


@torch.no_grad()
def unwrap(net: nn.Module) -> dict[str, Grid]:
    """Put plain layers with folded weights back, in place; the grid of each layer's input by its weight's name."""
    grids = {f"{name}.weight": layer.grid() for name, layer in layers(net)}
    _plain(net)
    return grids


def _plain(net: nn.Module) -> None:
    for name, module in list(net._modules.items()):
        if isinstance(module, Fake):
            inner = module._geometry[0]
            weight, bias = module.folded()
            inner.weight = nn.Parameter(weight.clone())
            inner.bias = None if bias is None else nn.Parameter(bias.clone())
            net._modules[name] = inner
        elif isinstance(module, Idle):
            net._modules[name] = nn.Identity()
        elif module is not None:
            _plain(module)
