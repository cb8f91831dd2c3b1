"""The plate network in torch: luma in, heat and boxes out at an eighth of its size. Needed to train, never to run.

Fully convolutional; the sides of the input are multiples of STEP. Centre heat and box regression after CenterNet (Zhou,
Wang, Kraehenbuehl 2019, arXiv 1904.07850); depthwise 5x5 blocks at strides 8 to 32 give it a view of the whole vehicle at
little cost. Upsampling is a depthwise transposed convolution, because nearest-neighbour resizing fails on one runtime
when it is held to SSE4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STRIDE = 8
STEP = 32


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.03),
        nn.ReLU(inplace=True),
    )


class _Block(nn.Module):
    """Depthwise 5x5, then pointwise, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Conv2d(width, width, 5, 1, 2, groups=width, bias=False), nn.BatchNorm2d(width))
        self.point = _conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.point(self.deep(x))
        return out


class _Up(nn.Module):
    """Twice the size and `outputs` channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.point = _conv(inputs, outputs, 1)
        self.grow = nn.ConvTranspose2d(outputs, outputs, 4, 2, 1, groups=outputs, bias=False)
        line = torch.tensor([0.25, 0.75, 0.75, 0.25])  # starts as bilinear
        with torch.no_grad():
            self.grow.weight.copy_((line[:, None] * line[None])[None, None].expand_as(self.grow.weight))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.grow(self.point(x))
        return out


class PlateNet(nn.Module):
    """[n,1,H,W] luma 0..255 -> [n,5,H/8,W/8]: heat (logit), dx, dy in cells from the cell's middle, log w, log h in cells."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        w8, w16, w32 = width, width * 5 // 3, width * 2
        self.stem = nn.Sequential(_conv(1, 12, 5, 2), _conv(12, 24, 3, 2), _Block(24))
        self.at8 = nn.Sequential(_conv(24, w8, 3, 2), _Block(w8), _Block(w8))
        self.at16 = nn.Sequential(_conv(w8, w16, 3, 2), *(_Block(w16) for _ in range(3)))
        self.at32 = nn.Sequential(_conv(w16, w32, 3, 2), *(_Block(w32) for _ in range(3)))
        self.up16, self.join16 = _Up(w32, w16), _Block(w16)
        self.up8, self.join8 = _Up(w16, w8), nn.Sequential(_Block(w8), _Block(w8))
        self.head = nn.Conv2d(w8, 5, 1)
        with torch.no_grad():
            assert self.head.bias is not None
            self.head.bias.copy_(torch.tensor([-4.0, 0.0, 0.0, 1.5, 0.5]))
            self.head.weight.mul_(0.3)

    def forward(self, luma: Tensor) -> Tensor:
        x8 = self.at8(self.stem(luma * (1 / 64) - 1.7))
        x16 = self.at16(x8)
        x16 = self.join16(x16 + self.up16(self.at32(x16)))
        out: Tensor = self.head(self.join8(x8 + self.up8(x16)))
        return out


class Exported(nn.Module):
    """The network as the file holds it: heat as a probability [n,1,h,w] and the box numbers [n,4,h,w]."""

    def __init__(self, net: PlateNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, luma: Tensor) -> tuple[Tensor, Tensor]:
        out = self.net(luma)
        return torch.sigmoid(out[:, :1]), out[:, 1:]


def targets(boxes: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Heat [n,size,size], weights of it, and boxes [n,5,size,size] (four numbers and their weight) for boxes [n,k,5].

    Boxes are x, y, w, h in pixels of the input and 1 for a plate, -1 for one to be ignored, 0 for none.
    """
    n, most, _ = boxes.shape
    grid = torch.arange(size) + 0.5
    heat, weight = torch.zeros(n, size, size), torch.ones(n, size, size)
    place = torch.zeros(n, 5, size, size)
    for k in range(most):
        x, y, w, h = (boxes[:, k, i, None, None] / STRIDE for i in range(4))
        kind = boxes[:, k, 4, None, None]
        if not kind.any():
            continue
        middle_x, middle_y = x + w / 2, y + h / 2
        dx, dy = middle_x - grid[None, None, :], middle_y - grid[None, :, None]  # [n,1,size] and [n,size,1]
        spread_x, spread_y = (w * 0.12).clamp(min=0.45), (h * 0.18).clamp(min=0.45)
        bell = torch.exp(-(dx**2) / (2 * spread_x**2) - dy**2 / (2 * spread_y**2))
        at_centre = (dx.abs() <= 0.5) & (dy.abs() <= 0.5)
        bell = torch.where(at_centre, torch.ones_like(bell), bell.clamp(max=0.97))
        plate = kind > 0
        heat = torch.where(plate, torch.maximum(heat, bell), heat)
        inside = (dx.abs() <= w * 0.6 + 0.5) & (dy.abs() <= h * 0.6 + 0.5)
        weight = torch.where((kind < 0) & inside, torch.zeros_like(weight), weight)
        near = plate & (dx.abs() <= (w * 0.2).clamp(min=0.8)) & (dy.abs() <= (h * 0.25).clamp(min=0.8))
        shape = near.shape
        numbers = torch.stack([
            dx.expand(shape), dy.expand(shape), w.clamp(min=0.1).log().expand(shape),
            h.clamp(min=0.1).log().expand(shape), torch.ones(shape),
        ], 1)  # fmt: skip
        place = torch.where(near[:, None], numbers, place)
    return heat, weight, place


def loss(out: Tensor, boxes: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of the heat and relative error of the boxes; `trust` [n] weighs the negatives of each picture."""
    heat, weight, place = targets(boxes, out.shape[-1])
    logit = out[:, 0]
    chance = torch.sigmoid(logit).clamp(1e-5, 1 - 1e-5)
    hit = heat >= 1
    near = (heat > 0.01).float()
    believed = near + (1 - near) * trust[:, None, None]
    miss = -torch.log(1 - chance) * chance**2 * (1 - heat) ** 4 * weight * believed
    found = -torch.log(chance) * (1 - chance) ** 2
    count = hit.sum().clamp(min=1)
    of_heat = (torch.where(hit, found, torch.zeros_like(found)).sum() * 1.5 + miss.sum()) / count
    share = place[:, 4]
    size_x, size_y = place[:, 2].exp().clamp(min=1.5), place[:, 3].exp().clamp(min=0.8)
    error = (
        (out[:, 1] - place[:, 0]).abs() / size_x * 2
        + (out[:, 2] - place[:, 1]).abs() / size_y * 2
        + (out[:, 3] - place[:, 2]).abs()
        + (out[:, 4] - place[:, 3]).abs()
    )
    return of_heat, (error * share).sum() / share.sum().clamp(min=1)
