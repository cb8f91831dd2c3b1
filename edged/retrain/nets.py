"""The networks as tables of layers, after their papers; `zoo` makes them of torch, `fits` counts what they cost.

Guarantees: imports nothing heavy; the rows are what `zoo.build` builds, one module a row (rows of one `block` together);
parameters and multiply-adds are those of the papers at the papers' size (tests hold them to it). Does not guarantee
that a runtime executes exactly these: it may fold and fuse.

| name              | paper                                              | side (of the figures) | parameters | multiply-adds |
| ----------------- | -------------------------------------------------- | --------------------- | ---------- | ------------- |
| lenet-300-100     | LeCun et al., Gradient-based learning, 1998, III.C | 16..64 (28)           | 0.27 M     | 0.27 M        |
| lenet-5           | the same, II.B                                     | 28..64 (32)           | 0.06 M     | 0.42 M        |
| lenet-5-caffe     | Caffe's examples/mnist/lenet.prototxt              | 28..64 (28)           | 0.43 M     | 2.29 M        |
| alexnet           | Krizhevsky, One weird trick, arXiv 1404.5997       | 64..224 (224)         | 61.1 M     | 0.71 G        |
| vgg-16            | Simonyan & Zisserman, arXiv 1409.1556, D           | 32..224 (224)         | 138.4 M    | 15.5 G        |
| mobilenet-<width> | Howard et al., MobileNets, arXiv 1704.04861        | 32..224 (224)         | 0.5..4.2 M | 41..569 M     |
| squeezenet-1.1    | Iandola et al., arXiv 1602.07360; release 1.1      | 32..224 (224)         | 1.24 M     | 0.35 G        |

Figures: at the side in brackets, 1000 classes (LeNets 10). Every network takes RGB 0..255 and normalises inside; the
LeNets see its luma only.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from edged.errors import Refused
from edged.retrain.tables import Kind, Layer

KNOWN = (
    "lenet-300-100", "lenet-5", "lenet-5-caffe", "mobilenet-<width 0.125 to 1>", "squeezenet-1.1", "alexnet", "vgg-16",
)  # fmt: skip
LISTED = (
    "lenet-300-100", "lenet-5", "lenet-5-caffe", "mobilenet-0.125", "mobilenet-0.25", "mobilenet-0.5",
    "mobilenet-0.75", "mobilenet-1.0", "squeezenet-1.1", "alexnet", "vgg-16",
)  # fmt: skip
_SIDES = {
    "lenet-300-100": (16, 64), "lenet-5": (28, 64), "lenet-5-caffe": (28, 64), "alexnet": (64, 224),
    "vgg-16": (32, 224), "squeezenet-1.1": (32, 224), "mobilenet": (32, 224),
}  # fmt: skip


def layers(name: str, classes: int, px: int) -> tuple[Layer, ...]:
    """The table of a network by name. Raises Refused: unknown name (code unknown_network), size or classes out of
    range.
    """
    if not 2 <= classes <= 1000:
        raise Refused(f"a classifier needs 2 to 1000 classes, not {classes}")
    width = width_of(name)
    low, high = sides(name)
    if not low <= px <= high:
        raise Refused(f"{name} takes pictures of {low} to {high} pixels a side, not {px}", code="bad_size")
    if width:
        return _mobilenet(classes, px, width)
    table = {
        "lenet-300-100": _lenet_300_100, "lenet-5": _lenet_5, "lenet-5-caffe": _lenet_5_caffe, "alexnet": _alexnet,
        "vgg-16": _vgg_16, "squeezenet-1.1": _squeezenet,
    }  # fmt: skip
    return table[name](classes, px)


def sides(name: str) -> tuple[int, int]:
    """The smallest and the largest input that a network takes. Raises Refused for an unknown name."""
    return _SIDES["mobilenet" if width_of(name) else name]


def width_of(name: str) -> float:
    """The width multiplier of a MobileNet, 0 for the others. Raises Refused for an unknown name."""
    if name in _SIDES and name != "mobilenet":
        return 0.0
    match = re.fullmatch(r"mobilenet-(\d(?:\.\d{1,3})?)", name)
    if match and 0.125 <= float(match[1]) <= 1:
        return float(match[1])
    raise Refused(f"no network is called {name[:40]!r}; known: {', '.join(KNOWN)}", code="unknown_network")


class _Table:
    """Rows as they are added; keeps count of channels and side."""

    def __init__(self, px: int) -> None:
        self.rows: list[Layer] = []
        self.channels, self.side = 3, px

    def add(self, kind: Kind, name: str = "", outputs: int = 0, **more: Any) -> None:
        row = Layer(name or kind, kind, self.channels, outputs or self.channels, self.side, **more)
        if kind in ("conv", "pool"):
            row = replace(row, side=(self.side + 2 * row.padding - row.kernel) // row.stride + 1)
        elif kind == "average":
            row = replace(row, side=1)
        elif kind == "flatten":
            row = replace(row, outputs=self.channels * self.side**2, side=1)
        self.rows.append(row)
        self.channels, self.side = row.outputs, row.side

    def conv(self, name: str, outputs: int, kernel: int, stride: int = 1, padding: int = 0, **more: Any) -> None:
        self.add("conv", name, outputs, kernel=kernel, stride=stride, padding=padding, **more)

    def full(self, name: str, outputs: int) -> None:
        self.add("full", name, outputs)

    def done(self) -> tuple[Layer, ...]:
        return tuple(self.rows)


def _lenet_300_100(classes: int, px: int) -> tuple[Layer, ...]:
    """LeNet-300-100: three full connections on luma.

        layer   in        out   parameters (28 px, 10 classes)
        fc1     px * px   300   235,500
        fc2     300       100    30,100
        fc3     100       n       1,010

    ReLU in place of the paper's tanh, as in Deep Compression (arXiv 1510.00149), whose figures are the usual yardstick.
    """
    t = _Table(px)
    t.add("luma", outputs=1)
    t.add("flatten")
    for name, outputs in (("fc1", 300), ("fc2", 100)):
        t.full(name, outputs)
        t.add("relu")
    t.full("fc3", classes)
    return t.done()


def _lenet_5(classes: int, px: int) -> tuple[Layer, ...]:
    """LeNet-5 on luma, 32 px as in the paper.

        layer  kernel         output at 32 px   parameters (10 classes)
        C1     5x5            6 @ 28x28            156
        S2     2x2 stride 2   6 @ 14x14
        C3     5x5            16 @ 10x10         2,416  (paper: 1,516)
        S4     2x2 stride 2   16 @ 5x5
        C5     5x5            120 @ 1x1         48,120  (a full connection, written so for other sizes)
        F6                    84                10,164
        output                n                    850

    Departures, all usual since: ReLU and max pooling for tanh and trained averages, C3 sees all six maps (the paper's
    table I leaves some out to save work), a full connection for the radial basis functions at the end.
    """
    t = _Table(px)
    t.add("luma", outputs=1)
    for n, outputs in ((1, 6), (3, 16)):
        t.conv(f"C{n}", outputs, 5)
        t.add("relu")
        t.add("pool", f"S{n + 1}", kernel=2, stride=2)
    t.add("flatten")
    for name, outputs in (("C5", 120), ("F6", 84)):
        t.full(name, outputs)
        t.add("relu")
    t.full("output", classes)
    return t.done()


def _lenet_5_caffe(classes: int, px: int) -> tuple[Layer, ...]:
    """The LeNet-5 of Caffe's example, which papers on compression mean (Deep Compression, arXiv 1510.00149, table 3).

        layer  kernel         output at 28 px   parameters (10 classes)
        conv1  5x5            20 @ 24x24            520
        pool1  2x2 stride 2   20 @ 12x12
        conv2  5x5            50 @ 8x8           25,050
        pool2  2x2 stride 2   50 @ 4x4
        ip1                   500               400,500
        ip2                   n                   5,010

    As in lenet.prototxt, the only ReLU is that behind ip1; the pools take maxima.
    """
    t = _Table(px)
    t.add("luma", outputs=1)
    for n, outputs in ((1, 20), (2, 50)):
        t.conv(f"conv{n}", outputs, 5)
        t.add("pool", f"pool{n}", kernel=2, stride=2)
    t.add("flatten")
    t.full("ip1", 500)
    t.add("relu")
    t.full("ip2", classes)
    return t.done()


def _alexnet(classes: int, px: int) -> tuple[Layer, ...]:
    """AlexNet in one tower, as in "One weird trick" (2014), the form that is meant by 61.1 M parameters.

        layer   kernel                  output at 224 px   parameters
        conv1   11x11 stride 4 pad 2    64 @ 55x55              23,296
        pool    3x3 stride 2            64 @ 27x27
        conv2   5x5 pad 2               192 @ 27x27            307,392
        pool    3x3 stride 2            192 @ 13x13
        conv3   3x3 pad 1               384 @ 13x13            663,936
        conv4   3x3 pad 1               256 @ 13x13            884,992
        conv5   3x3 pad 1               256 @ 13x13            590,080
        pool    3x3 stride 2            256 @ 6x6
        fc6     dropout 0.5 before      4096                37,752,832
        fc7     dropout 0.5 before      4096                16,781,312
        fc8                             n                    4,097,000 (1000 classes)

    The two towers of 2012 (arXiv-less; NIPS 25) were one network cut in half to fit two GPUs: 96-256-384-384-256
    channels in two groups, 60,965,224 parameters, 724 M multiply-adds. Departure from both: no response normalisation,
    which won nothing (VGG, section 4.1). Below 224 px fc6 has fewer inputs.
    """
    t = _Table(px)
    t.add("scale")
    for n, outputs, kernel, stride, padding, pooled in (
        (1, 64, 11, 4, 2, True), (2, 192, 5, 1, 2, True), (3, 384, 3, 1, 1, False), (4, 256, 3, 1, 1, False),
        (5, 256, 3, 1, 1, True),
    ):  # fmt: skip
        t.conv(f"conv{n}", outputs, kernel, stride, padding)
        t.add("relu")
        if pooled:
            t.add("pool", f"pool{n}", kernel=3, stride=2)
    t.add("flatten")
    for name in ("fc6", "fc7"):
        t.add("dropout")
        t.full(name, 4096)
        t.add("relu")
    t.full("fc8", classes)
    return t.done()


def _vgg_16(classes: int, px: int) -> tuple[Layer, ...]:
    """VGG-16, configuration D: 3x3 convolutions with padding 1, a 2x2 pool with stride 2 after each group.

        layers          output at 224 px   parameters
        conv1_1, 1_2    64 @ 224x224           38,720
        conv2_1, 2_2    128 @ 112x112         221,440
        conv3_1..3_3    256 @ 56x56         1,475,328
        conv4_1..4_3    512 @ 28x28         5,899,776
        conv5_1..5_3    512 @ 14x14         7,079,424
        fc6             4096              102,764,544   dropout 0.5 after
        fc7             4096               16,781,312   dropout 0.5 after
        fc8             n                   4,097,000   (1000 classes)

    Below 224 px fc6 has fewer inputs: 8.4 M parameters at 64 px.
    """
    t = _Table(px)
    t.add("scale")
    for group, (outputs, times) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for n in range(1, times + 1):
            t.conv(f"conv{group}_{n}", outputs, 3, 1, 1)
            t.add("relu")
        t.add("pool", f"pool{group}", kernel=2, stride=2)
    t.add("flatten")
    for name in ("fc6", "fc7"):
        t.full(name, 4096)
        t.add("relu")
        t.add("dropout")
    t.full("fc8", classes)
    return t.done()


def _mobilenet(classes: int, px: int, width: float) -> tuple[Layer, ...]:
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
        dw + pw    1       1024  (the paper's table says stride 2, its sizes say 1)
        average, full connection to n

    dw = depthwise 3x3, pw = pointwise 1x1, each followed by batch norm and ReLU.
    """
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    t = _Table(px)

    def scaled(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    def conv_bn(name: str, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        t.conv(name, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        t.add("norm")
        t.add("relu")

    t.add("scale")
    conv_bn("conv", scaled(32), 3, 2)
    for n, (channels, stride) in enumerate(plan, 1):
        conv_bn(f"dw{n}", t.channels, 3, stride, groups=t.channels)
        conv_bn(f"pw{n}", scaled(channels), 1, 1)
    t.add("average")
    t.add("flatten")
    t.full("fc", classes)
    return t.done()


def _squeezenet(classes: int, px: int) -> tuple[Layer, ...]:
    """SqueezeNet 1.1: table 1 of the paper with the authors' later changes (a third of the work of 1.0).

        layer      output at 224 px   squeeze, expand 1x1, expand 3x3
        conv1      64 @ 111x111       3x3 stride 2
        pool       64 @ 55x55         3x3 stride 2, as all pools
        fire2, 3   128 @ 55x55        16, 64, 64
        pool       128 @ 27x27
        fire4, 5   256 @ 27x27        32, 128, 128
        pool       256 @ 13x13
        fire6, 7   384 @ 13x13        48, 192, 192
        fire8, 9   512 @ 13x13        64, 256, 256
        conv10     n @ 13x13          dropout 0.5 before; 1x1
        average

    Fire: a 1x1 convolution squeezes the channels, a 1x1 and a 3x3 beside each other expand them. ReLU after each
    convolution, conv10 too.
    """
    t = _Table(px)
    t.add("scale")
    t.conv("conv1", 64, 3, 2)
    t.add("relu")
    t.add("pool", "pool1", kernel=3, stride=2)
    for n, squeeze in ((2, 16), (3, 16), (4, 32), (5, 32), (6, 48), (7, 48), (8, 64), (9, 64)):
        block, expand = f"fire{n}", squeeze * 4
        t.conv(f"{block}/squeeze", squeeze, 1, block=block)
        t.add("relu", f"{block}/squeeze_relu", block=block)
        t.conv(f"{block}/expand1", expand, 1, block=block)
        t.channels = squeeze  # beside, not behind it
        t.conv(f"{block}/expand3", expand, 3, 1, 1, block=block)
        t.add("join", f"{block}/join", 2 * expand, block=block)
        t.add("relu", f"{block}/relu", block=block)
        if n in (3, 5):
            t.add("pool", f"pool{n}", kernel=3, stride=2)
    t.add("dropout")
    t.conv("conv10", classes, 1)
    t.add("relu")
    t.add("average")
    t.add("flatten")
    return t.done()
