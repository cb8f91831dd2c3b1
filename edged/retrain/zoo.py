"""The networks, each after its paper, each with its normalisation inside. Names are parsed: `build("mobilenet-0.25",
2, 96)`.

Guarantees: input `image` float32 RGB 0..255, NCHW, any batch; output logits float32 [n, classes]; the same seed of
torch gives the same weights. Does not guarantee that an architecture suits a device: the gate says that.

| name              | paper                                                            | input           |
| ----------------- | ---------------------------------------------------------------- | --------------- |
| lenet-300-100     | LeCun et al., Gradient-based learning, 1998, section III.C       | luma, 28 px     |
| lenet-5           | the same, section II.B                                           | luma, 32 px     |
| mobilenet-<width> | Howard et al., MobileNets, arXiv 1704.04861, table 1             | RGB, 32..224 px |
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from edged.errors import Refused

# Luma of BT.601, the one that JPEG uses.
_LUMA = (0.299, 0.587, 0.114)


class Normalise(nn.Module):
    """0..255 to about -1..1, per channel; two element-wise operations in the delivered graph."""

    def forward(self, image: Tensor) -> Tensor:
        return image * (1 / 127.5) - 1.0


class Luma(nn.Module):
    """RGB to one channel of luma in -1..1, so that a LeNet takes the same pictures as everything else."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(_LUMA).reshape(1, 3, 1, 1) / 127.5, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.conv2d(image, self.weights) - 1.0


def lenet_300_100(classes: int, px: int) -> nn.Module:
    """LeNet-300-100: three fully connected layers on luma.

        layer   in        out   parameters (28 px, 10 classes)
        fc1     px * px   300   235,500
        fc2     300       100    30,100
        fc3     100       n       1,010

    ReLU in place of the paper's tanh, as in Deep Compression (arXiv 1510.00149), whose figures are the usual yardstick.
    """
    return nn.Sequential(
        Luma(),
        nn.Flatten(),
        nn.Linear(px * px, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def lenet_5(classes: int, px: int) -> nn.Module:
    """LeNet-5 on luma, 32 px as in the paper.

        layer  kernel         output at 32 px
        C1     5x5            6 @ 28x28
        S2     2x2 stride 2   6 @ 14x14
        C3     5x5            16 @ 10x10
        S4     2x2 stride 2   16 @ 5x5
        C5     5x5            120 @ 1x1     (a full connection, written so for other sizes)
        F6                    84
        output                n

    Departures, both usual since: ReLU and max pooling for tanh and trained averages, and C3 sees all six maps (the
    paper's table I leaves some out to save work).
    """
    side = ((px - 4) // 2 - 4) // 2
    return nn.Sequential(
        Luma(),
        nn.Conv2d(1, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def mobilenet(classes: int, width: float) -> nn.Module:
    """MobileNetV1 with width multiplier (the paper's alpha); channels are rounded to multiples of 8, at least 8.

        type       stride  output channels at width 1
        conv 3x3   2       32
        dw + pw    1       64
        dw + pw    2       128
        dw + pw    1       128
        dw + pw    2       256
        dw + pw    1       256
        dw + pw    2       512
        dw + pw    1       512   (five times)
        dw + pw    2       1024
        dw + pw    1       1024
        average, full connection to n

    dw = depthwise 3x3, pw = pointwise 1x1, each followed by batch norm and ReLU.
    """
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]

    def scaled(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    layers: list[nn.Module] = [Normalise(), *_conv_bn(3, scaled(32), 3, 2)]
    inputs = scaled(32)
    for channels, stride in plan:
        outputs = scaled(channels)
        layers += _conv_bn(inputs, inputs, 3, stride, groups=inputs)
        layers += _conv_bn(inputs, outputs, 1, 1)
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    net = nn.Sequential(*layers)
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


KNOWN = ("lenet-300-100", "lenet-5", "mobilenet-<width 0.125 to 1>")


def build(name: str, classes: int, input_px: int) -> nn.Module:
    """A fresh network by name. `input_px` is the side of the square input. Raises Refused: unknown name, size out of
    range.
    """
    if not 2 <= classes <= 1000:
        raise Refused(f"a classifier needs 2 to 1000 classes, not {classes}")
    if name == "lenet-300-100":
        return lenet_300_100(classes, _side(name, input_px, 16, 64))
    if name == "lenet-5":
        return lenet_5(classes, _side(name, input_px, 28, 64))
    match = re.fullmatch(r"mobilenet-(\d(?:\.\d{1,3})?)", name)
    if match and 0.125 <= float(match[1]) <= 1:
        _side(name, input_px, 32, 224)
        return mobilenet(classes, float(match[1]))
    raise Refused(f"no network is called {name[:40]!r}; known: {', '.join(KNOWN)}", code="unknown_network")


def _side(name: str, px: int, low: int, high: int) -> int:
    if not low <= px <= high:
        raise Refused(f"{name} takes pictures of {low} to {high} pixels a side, not {px}")
    return px
