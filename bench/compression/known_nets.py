"""Networks that Intel published figures of, with random weights: their speed does not depend on what they know.

After the layer tables of: MobileNetV2 (Sandler et al. 2018), ResNet (He et al. 2015, strides as in torchvision), DenseNet
(Huang et al. 2016), Inception-v4 (Szegedy et al. 2016), MobileNet-SSD (Howard et al. 2017, Liu et al. 2015; the Caffe model for
VOC), YOLOv3-tiny (Redmon and Farhadi 2018). Batch norm is folded, boxes are not sorted out at the end (a small part).
"""

from __future__ import annotations

from collections.abc import Callable

from edged.engine.cost import Cost, Precision, by_kind
from edged.engine.onnx_write import Net, Tensor

Outputs = tuple[Tensor, ...]


def make(name: str, precision: Precision) -> tuple[bytes, tuple[Cost, ...]]:
    """The ONNX file of one network, and what it asks for."""
    px, build = NETS[name]
    net = Net((3, px, px), precision=precision)
    data = net.model(*build(net))
    return data, by_kind(net.costs)


def _mobilenet_v2(n: Net) -> Outputs:
    x = n.conv(n.x, 32, 3, stride=2, act="Clip")
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for wide, channels, repeats, stride in table:
        for i in range(repeats):
            y = n.conv(x, wide * x.shape[0], 1, act="Clip") if wide > 1 else x
            y = n.conv(n.depthwise(y, stride=1 if i else stride, act="Clip"), channels, 1, act="")
            x = n.add(x, y) if i else y
    return (n.full(n.mean(n.conv(x, 1280, 1, act="Clip")), 1000),)


def _resnet(n: Net, blocks: tuple[int, ...], deep: bool) -> Outputs:
    x = n.pool(n.conv(n.x, 64, 7, stride=2), 3, 2, pad=1)
    for stage, repeats in enumerate(blocks):
        narrow = 64 << stage
        out = 4 * narrow if deep else narrow
        for i in range(repeats):
            stride = 2 if stage and not i else 1
            if deep:
                y = n.conv(n.conv(n.conv(x, narrow, 1), narrow, 3, stride=stride), out, 1, act="")
            else:
                y = n.conv(n.conv(x, narrow, 3, stride=stride), narrow, 3, act="")
            same = stride == 1 and x.shape[0] == out
            x = n.add(y, x if same else n.conv(x, out, 1, stride=stride, act=""), "Relu")
    return (n.full(n.mean(x), 1000),)


def _densenet_121(n: Net) -> Outputs:
    x = n.pool(n.conv(n.x, 64, 7, stride=2), 3, 2, pad=1)
    for stage, repeats in enumerate((6, 12, 24, 16)):
        for _ in range(repeats):
            x = n.concat((x, n.conv(n.conv(n.norm(x), 128, 1), 32, 3, act="")))
        if stage < 3:
            x = n.pool(n.conv(n.norm(x), x.shape[0] // 2, 1, act=""), 2, 2, how="Average")
    return (n.full(n.mean(n.norm(x)), 1000),)


def _inception_v4(n: Net) -> Outputs:
    c = n.conv
    x = c(c(c(n.x, 32, 3, stride=2, pad=0), 32, 3, pad=0), 64, 3)
    x = n.concat((n.pool(x, 3, 2), c(x, 96, 3, stride=2, pad=0)))
    side = c(_line(n, c(x, 64, 1), (64, 64)), 96, 3, pad=0)
    x = n.concat((c(c(x, 64, 1), 96, 3, pad=0), side))
    x = n.concat((c(x, 192, 3, stride=2, pad=0), n.pool(x, 3, 2)))
    for _ in range(4):
        mean = c(n.pool(x, 3, 1, how="Average", pad=1), 96, 1)
        x = n.concat((mean, c(x, 96, 1), c(c(x, 64, 1), 96, 3), c(c(c(x, 64, 1), 96, 3), 96, 3)))
    side = c(c(c(x, 192, 1), 224, 3), 256, 3, stride=2, pad=0)
    x = n.concat((n.pool(x, 3, 2), c(x, 384, 3, stride=2, pad=0), side))
    for _ in range(7):
        mean = c(n.pool(x, 3, 1, how="Average", pad=1), 128, 1)
        x = n.concat(
            (mean, c(x, 384, 1), _line(n, c(x, 192, 1), (224, 256)), _line(n, c(x, 192, 1), (192, 224, 224, 256)))
        )
    side = c(_line(n, c(x, 256, 1), (256, 320)), 320, 3, stride=2, pad=0)
    x = n.concat((n.pool(x, 3, 2), c(c(x, 192, 1), 192, 3, stride=2, pad=0), side))
    for _ in range(3):
        mean = c(n.pool(x, 3, 1, how="Average", pad=1), 256, 1)
        short, long = c(x, 384, 1), c(c(c(x, 384, 1), 448, 1, k2=3), 512, 3, k2=1)
        ends = [c(y, 256, k, k2=4 - k) for y in (short, long) for k in (1, 3)]
        x = n.concat((mean, c(x, 256, 1), *ends))
    return (n.full(n.mean(x), 1000),)


def _line(n: Net, x: Tensor, channels: tuple[int, ...]) -> Tensor:
    """Convolutions 1x7 and 7x1 in turn."""
    for i, out in enumerate(channels):
        x = n.conv(x, out, 7 if i % 2 else 1, k2=1 if i % 2 else 7)
    return x


def _mobilenet_ssd(n: Net) -> Outputs:
    x = n.conv(n.x, 32, 3, stride=2)
    for channels, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5):
        x = n.conv(n.depthwise(x, stride=stride), channels, 1)
    found = [x]
    for channels, stride in ((1024, 2), (1024, 1)):
        x = n.conv(n.depthwise(x, stride=stride), channels, 1)
    found.append(x)
    for narrow, channels in ((256, 512), (128, 256), (128, 256), (64, 128)):
        x = n.conv(n.conv(x, narrow, 1), channels, 3, stride=2)
        found.append(x)
    return tuple(
        n.conv(y, boxes * each, 1, act="")
        for y, boxes in zip(found, (3, 6, 6, 6, 6, 6), strict=True)
        for each in (4, 21)
    )


def _yolo_v3_tiny(n: Net) -> Outputs:
    def conv(x: Tensor, out: int, k: int = 3) -> Tensor:
        return n.conv(x, out, k, act="LeakyRelu")

    x = n.x
    for channels in (16, 32, 64, 128):
        x = n.pool(conv(x, channels), 2, 2)
    side = conv(x, 256)
    x = n.pool(conv(n.pool(side, 2, 2), 512), 3, 1, pad=1)
    x = conv(conv(x, 1024), 256, 1)
    coarse = n.conv(conv(x, 512), 255, 1, act="")
    fine = n.concat((n.upsample(conv(x, 128, 1)), side))
    return coarse, n.conv(conv(fine, 256), 255, 1, act="")


NETS: dict[str, tuple[int, Callable[[Net], Outputs]]] = {
    "mobilenet-v2": (224, _mobilenet_v2),
    "resnet-18": (224, lambda n: _resnet(n, (2, 2, 2, 2), False)),
    "resnet-50": (224, lambda n: _resnet(n, (3, 4, 6, 3), True)),
    "densenet-121": (224, _densenet_121),
    "inception-v4": (299, _inception_v4),
    "mobilenet-ssd": (300, _mobilenet_ssd),
    "yolo-v3-tiny": (416, _yolo_v3_tiny),
}
