"""The networks of torch, made from the tables in `nets`, each with its normalisation inside: `build("mobilenet-0.25",
2, 96)`.

Guarantees: input `image` float32 RGB 0..255, NCHW, any batch; output logits float32 [n, classes]; the same seed of
torch gives the same weights; module i of the network is row i of its table (a `Fire` stands for the rows of its block),
so names in weights files stay what they are. Does not guarantee that an architecture suits a device: the gate says that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from edged.retrain import nets
from edged.retrain.tables import Layer

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


class Fire(nn.Module):
    """SqueezeNet's block: squeeze by 1x1, expand by 1x1 and 3x3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand1: int, expand3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand1, 1)
        self.expand3 = nn.Conv2d(squeeze, expand3, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        squeezed = nn.functional.relu(self.squeeze(maps), inplace=True)
        return nn.functional.relu(torch.cat((self.expand1(squeezed), self.expand3(squeezed)), 1), inplace=True)


def build(name: str, classes: int, input_px: int) -> nn.Sequential:
    """A fresh network by name. `input_px` is the side of the square input. Raises Refused: unknown name, size out of
    range.
    """
    rows = nets.layers(name, classes, input_px)
    modules: list[nn.Module] = []
    for block, of in groupby(rows, key=lambda row: row.block):
        if block:
            convs = {row.name.split("/")[1]: row for row in of if row.kind == "conv"}
            widths = {part: row.outputs for part, row in convs.items()}
            modules.append(Fire(convs["squeeze"].inputs, **widths))
        else:
            modules += [_module(row) for row in of]
    net = nn.Sequential(*modules)
    if name.startswith("mobilenet"):
        for module in net:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif not name.startswith("lenet"):
        _start(net)
    return net


def _module(row: Layer) -> nn.Module:
    if row.kind == "conv":
        return nn.Conv2d(
            row.inputs, row.outputs, row.kernel, row.stride, row.padding, groups=row.groups, bias=row.bias
        )  # fmt: skip
    if row.kind == "full":
        return nn.Linear(row.inputs, row.outputs)
    if row.kind == "norm":
        return nn.BatchNorm2d(row.outputs)
    if row.kind == "pool":
        return nn.MaxPool2d(row.kernel, row.stride)
    return _PLAIN[row.kind]()


_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "scale": Normalise, "luma": Luma, "relu": partial(nn.ReLU, inplace=True), "flatten": nn.Flatten,
    "average": partial(nn.AdaptiveAvgPool2d, 1), "dropout": nn.Dropout,
}  # fmt: skip


def _start(net: nn.Module) -> None:
    """He's start values (arXiv 1502.01852) for the networks without batch norm, which do not start learning from the
    papers' fixed deviation of 0.01; that one is kept for the classifier.
    """
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for module in weighted:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(weighted[-1].weight, std=0.01)


def blocks(net: nn.Sequential) -> list[int]:
    """Where a network may be cut: `net[:i]` is then the stem and `net[i:]` the tail, for each i, in rising order.

    A cut lies behind each block's activation and pooling and before the dropout of the next; a depthwise and its
    pointwise convolution are one block. The last cut leaves the classifier alone in the tail; there is none before the
    first block.
    """
    layers = list(net)
    weighted = [i for i, m in enumerate(layers) if _weighted(m) and not _pointwise_of(layers[:i])]
    return [i - 1 if isinstance(layers[i - 1], nn.Dropout) else i for i in weighted[1:]]


def head(net: nn.Sequential) -> int:
    """The index of the classifier: the last layer with weights, a full connection or (SqueezeNet) a convolution."""
    return max(i for i, m in enumerate(list(net)) if _weighted(m))


def _weighted(module: nn.Module) -> bool:
    return not isinstance(module, nn.BatchNorm2d) and next(module.parameters(), None) is not None


def _pointwise_of(before: list[nn.Module]) -> bool:
    """Whether the next layer only mixes the channels of a depthwise convolution."""
    last = next((m for m in reversed(before) if _weighted(m)), None)
    return isinstance(last, nn.Conv2d) and last.groups == last.in_channels > 1
