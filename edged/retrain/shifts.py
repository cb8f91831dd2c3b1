"""From an ONNX classifier to a network of integers (integer.py): scales that are powers of two, found on pictures.

A tensor's exponent is the one with the least squared error on the calibration pictures, of the smallest that holds all of
them and the next two below (which saturate the rare large values); where the file is quantized already, the smallest that
holds its own range. Weights have one exponent for each output channel (the last layer: one for all, so that its sums can be
compared). Biases are in the sums' own scale. An average is a sum times 1 / n as an 8-bit number.

Guarantees: the same file and pictures give the same network. Does not guarantee accuracy: the re-test measures it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engine import feed, patterns, preprocess
from edged.errors import Refused
from edged.retrain import integer, layers, windows
from edged.retrain.integer import HIGH, LOW, Network, Step
from edged.retrain.layers import Layer, Net

Array = NDArray[Any]
SAMPLES = 20_000  # values of a tensor, from each batch, that its exponent is chosen on
_KEEPS = ("maxpool", "flatten", "gather", "relu", "clip")  # their answer has their input's scale


def network(model: bytes, calibration: Iterable[NDArray[np.float32]] = ()) -> Network:
    """`calibration`: float batches [n, 3, px, px] of RGB 0..255; not needed where the file is quantized (QDQ).

    Raises Refused: a layer that is not known (bad_layer), sums that might overflow (overflow), no calibration (no_scales).
    """
    net = fused(layers.read(model))
    seen = _Seen()
    for batch in calibration:
        seen.add(forward(net, _planes(net, batch)))
    blank = preprocess.marshal(preprocess.to_float([patterns.picture(1, net.px)], net.px))
    shapes = {name: t.shape for name, t in forward(net, _planes(net, blank)).items()}
    return _Quantiser(net, seen, shapes).network()


def fused(net: Net) -> Net:
    """The same network with each relu or clip inside the layer before it, where nothing else reads that layer."""
    uses = Counter(name for layer in net.layers for name in layer.inputs)
    out: list[Layer] = []
    for layer in net.layers:
        before = next((i for i, b in enumerate(out) if layer.inputs and b.output == layer.inputs[0]), None)
        if layer.op in ("relu", "clip") and before is not None and uses[layer.inputs[0]] == 1:
            old = out[before]
            if old.op not in _KEEPS and old.output != net.output and old.output not in net.ranges:
                low = 0.0 if layer.op == "relu" else layer.low
                high = min(old.high, math.inf if layer.op == "relu" else layer.high)
                out[before] = replace(old, output=layer.output, low=max(old.low, low), high=high)
                continue
        out.append(layer)
    return replace(net, layers=tuple(out))


def forward(net: Net, planes: Array) -> dict[str, Array]:
    """Every tensor of the network for pictures [n, 3, px, px] as its layers see them, float32."""
    tensors = {net.input: planes.astype(np.float32)}
    for layer in net.layers:
        y = _float(layer, [tensors[name] for name in layer.inputs])
        if layer.op == "relu" or layer.low > -math.inf or layer.high < math.inf:
            y = np.clip(y, max(layer.low, 0.0) if layer.op == "relu" else layer.low, layer.high)
        tensors[layer.output] = y
    return tensors


def _float(layer: Layer, given: list[Array]) -> Array:
    x, op = given[0], layer.op
    if op == "add":
        return np.asarray(x + given[1])
    if op == "concat":
        return np.concatenate(given, axis=1)
    if op == "flatten":
        return x.reshape(len(x), -1)
    if op == "gather":
        return x[:, layer.weight]
    if op in ("maxpool", "avgpool"):
        kernel = layer.kernel if any(layer.kernel) else (x.shape[2], x.shape[3])
        fill = -np.inf if op == "maxpool" else 0
        seen = windows.windows(x, kernel, layer.strides, layer.pads, layer.dilations, fill=fill, ceil=layer.ceil)
        return np.asarray(seen.max(axis=(4, 5)) if op == "maxpool" else seen.mean(axis=(4, 5)), np.float32)
    if op in ("relu", "clip"):
        return x
    assert layer.weight is not None
    assert layer.bias is not None
    if op == "conv":
        y = windows.conv(x, layer.weight, layer.strides, layer.pads, layer.dilations, layer.group)
    elif op == "gemm":
        y = x @ layer.weight.T
    else:
        y = x * _channels(layer.weight, x.ndim)
    return np.asarray(y + _channels(layer.bias, y.ndim))


def _channels(values: Array, ndim: int) -> Array:
    return values.reshape(1, -1, *(1,) * (ndim - 2))


def _planes(net: Net, batch: NDArray[np.float32]) -> Array:
    fed = feed.fitting(batch, net.takes)
    return fed.transpose(0, 3, 1, 2) if fed.dtype == np.uint8 else fed


class _Seen:
    """The largest absolute value of each tensor, and some of its values."""

    def __init__(self) -> None:
        self.most: dict[str, float] = {}
        self.some: dict[str, list[Array]] = {}

    def add(self, tensors: dict[str, Array]) -> None:
        for name, t in tensors.items():
            flat = t.reshape(-1)
            self.most[name] = max(self.most.get(name, 0.0), float(np.abs(flat).max(initial=0.0)))
            self.some.setdefault(name, []).append(flat[:: max(1, len(flat) // SAMPLES)])

    def exponent(self, name: str) -> int | None:
        if name not in self.most:
            return None
        largest = holding(self.most[name])
        values = np.concatenate(self.some[name]).astype(np.float64)

        def error(e: int) -> float:
            q = np.clip(np.floor(values * 2.0**-e + 0.5), LOW, HIGH)
            return float(((q * 2.0**e - values) ** 2).sum())

        return min((largest, largest - 1, largest - 2), key=lambda e: (error(e), -e))


def holding(most: float) -> int:
    """The smallest exponent with which 8 bits hold `most`; 0 of nothing."""
    return math.ceil(math.log2(most / HIGH)) if most > 0 else 0


class _Quantiser:
    def __init__(self, net: Net, seen: _Seen, shapes: dict[str, tuple[int, ...]]) -> None:
        self._net, self._seen, self._shapes = net, seen, shapes
        self._exponent = {net.input: 0}
        self._zero = {net.input: LOW}
        self._steps: list[Step] = []
        self._wide = self._last()

    def network(self) -> Network:
        for layer in self._net.layers:
            getattr(self, f"_{layer.op}")(layer)
        return Network(
            tuple(self._steps), self._net.input, self._net.output, self._net.takes, self._exponent[self._net.output]
        )

    def _last(self) -> str:
        """The tensor whose sums are the answer: the output, before it was flattened."""
        name = self._net.output
        while (layer := next((x for x in self._net.layers if x.output == name), None)) is not None:
            if layer.op != "flatten":
                break
            name = layer.inputs[0]
        if layer is None or layer.op not in integer.SUMS:
            raise Refused("its last layer makes no sums of products", code="bad_layer")
        return name

    def _scale_of(self, layer: Layer) -> int:
        """The exponent of a layer's answer."""
        name = layer.output
        if (found := self._seen.exponent(name)) is not None:
            return found
        if (span := self._span(layer)) is not None:
            return holding(max(map(abs, span)))
        raise Refused(
            f"layer {layer.name[:60]!r}: no pictures to find its scale on, and the file says none",
            code="no_scales", hint="quantize the model first (int8), or give pictures",
        )  # fmt: skip

    def _span(self, layer: Layer) -> tuple[float, float] | None:
        """What the file's scales say of a layer's answer; for a layer without: of what is made of it unchanged, or what its
        input's range allows.
        """
        ranges = self._net.ranges
        if layer.output in ranges:
            return ranges[layer.output]
        after = [other for other in self._net.layers if layer.output in other.inputs]
        if len(after) == 1 and after[0].op in _KEEPS:
            return self._span(after[0])
        source = layer.inputs[0]
        if layer.op not in ("scale", "avgpool") or (source != self._net.input and source not in ranges):
            return None
        span = np.array(ranges.get(source, (0.0, 255.0)))
        if layer.weight is not None and layer.bias is not None:
            span = np.outer(span, layer.weight) + layer.bias
        return float(span.min()), float(span.max())

    def _limits(self, layer: Layer, exponent: int) -> tuple[int, int]:
        """Where its answer saturates: the layer's own limits, and those of the file's scales."""
        low, high = layer.low, layer.high
        if layer.output in self._net.ranges and layer.output not in self._seen.most:
            span = self._net.ranges[layer.output]
            low, high = max(low, span[0]), min(high, span[1])
        unit = 2.0**exponent
        return (
            LOW if low == -math.inf else max(LOW, min(HIGH, round(low / unit))),
            HIGH if high == math.inf else max(LOW, min(HIGH, round(high / unit))),
        )

    def _plain(self, layer: Layer, op: str, **more: Any) -> None:
        """A step that keeps its input's scale."""
        source = layer.inputs[0]
        self._exponent[layer.output], self._zero[layer.output] = self._exponent[source], self._zero[source]
        self._steps.append(Step(op, layer.name, layer.inputs, layer.output, **more))

    def _flatten(self, layer: Layer) -> None:
        self._plain(layer, "flatten")

    def _gather(self, layer: Layer) -> None:
        assert layer.weight is not None
        self._plain(layer, "gather", weight=layer.weight.astype(np.int32))

    def _maxpool(self, layer: Layer) -> None:
        self._plain(
            layer, "maxpool", kernel=layer.kernel, strides=layer.strides, pads=layer.pads, dilations=layer.dilations,
            ceil=layer.ceil,
        )  # fmt: skip

    def _relu(self, layer: Layer) -> None:
        self._clip(replace(layer, low=max(0.0, layer.low)))

    def _clip(self, layer: Layer) -> None:
        source = layer.inputs[0]
        zero, unit = self._zero[source], 2.0 ** self._exponent[source]
        low, high = (
            max(LOW, min(HIGH, zero + round(v / unit))) if math.isfinite(v) else edge
            for v, edge in ((layer.low, LOW), (layer.high, HIGH))
        )
        self._plain(layer, "clamp", low=low, high=high)

    def _add(self, layer: Layer) -> None:
        exponents = [self._exponent[n] for n in layer.inputs]
        if any(self._zero[n] for n in layer.inputs):
            raise Refused(f"layer {layer.name[:60]!r} adds the picture itself", code="bad_layer")
        least, own = min(exponents), self._scale_of(layer)
        low, high = self._limits(layer, own)
        self._made(layer, own)
        self._steps.append(
            Step("add", layer.name, layer.inputs, layer.output, shift=_int32([own - least]),
                 lefts=tuple(e - least for e in exponents), low=low, high=high)
        )  # fmt: skip

    def _concat(self, layer: Layer) -> None:
        if any(self._zero[n] for n in layer.inputs):
            raise Refused(f"layer {layer.name[:60]!r} joins the picture itself", code="bad_layer")
        own = max(self._exponent[n] for n in layer.inputs)
        self._made(layer, own)
        shifts = _int32([own - self._exponent[n] for n in layer.inputs])
        low, high = self._limits(layer, own)
        self._steps.append(Step("concat", layer.name, layer.inputs, layer.output, shift=shifts, low=low, high=high))

    def _made(self, layer: Layer, exponent: int) -> None:
        self._exponent[layer.output], self._zero[layer.output] = exponent, 0

    def _avgpool(self, layer: Layer) -> None:
        shape = self._shapes[layer.inputs[0]]
        kernel = layer.kernel if any(layer.kernel) else (shape[2], shape[3])
        n = kernel[0] * kernel[1]
        weight, bias = np.full((1,), 1 / n, np.float32), np.zeros(1, np.float32)
        self._sums(layer, weight, bias, times=n, kernel=kernel, strides=layer.strides, pads=layer.pads)

    def _conv(self, layer: Layer) -> None:
        assert layer.weight is not None
        assert layer.bias is not None
        self._sums(
            layer, layer.weight, layer.bias, group=layer.group, kernel=layer.kernel, strides=layer.strides,
            pads=layer.pads, dilations=layer.dilations,
        )  # fmt: skip

    def _gemm(self, layer: Layer) -> None:
        assert layer.weight is not None
        assert layer.bias is not None
        self._sums(layer, layer.weight, layer.bias)

    def _scale(self, layer: Layer) -> None:
        assert layer.weight is not None
        assert layer.bias is not None
        channels = self._shapes[layer.inputs[0]][1]
        weight, bias = (np.broadcast_to(v, (channels,)) for v in (layer.weight, layer.bias))
        self._sums(layer, weight, bias)

    def _sums(self, layer: Layer, weight: Array, bias: Array, *, times: int = 1, **geometry: Any) -> None:
        """A layer of products: weights and biases as integers, and the shift to the answer's scale."""
        source, wide = layer.inputs[0], layer.output == self._wide
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        most = np.abs(flat).max(axis=1)
        held = np.array([holding(m) for m in (np.full(len(most), most.max()) if wide else most)])
        # A bias takes at most half of the 32 bits' range; where weights are tiny beside it, they lose bits instead.
        room = np.ceil(np.log2(np.maximum(np.abs(bias.astype(np.float64)), 1e-300) / 2**30)) - self._exponent[source]
        held = np.maximum(held, (np.full(len(room), room.max()) if wide else room)).astype(np.int64)
        unit = 2.0**held
        w = np.clip(np.floor(flat / unit[:, None] + 0.5), LOW, HIGH).astype(np.int8)
        sums = held + self._exponent[source]
        b = np.floor(bias.astype(np.float64) * 2.0**-sums + 0.5).astype(np.int64)
        b = b - self._zero[source] * w.astype(np.int64).sum(axis=1) * times
        if np.abs(b).max(initial=0) > integer.LARGEST:
            raise Refused(f"layer {layer.name[:60]!r}: its biases do not fit into 32 bits", code="overflow")
        own = int(sums[0]) if wide else self._scale_of(layer)
        low, high = (-integer.LARGEST - 1, integer.LARGEST) if wide else self._limits(layer, own)
        if wide and layer.low > -math.inf:
            low = round(layer.low * 2.0**-own)
        if wide and layer.high < math.inf:
            high = round(layer.high * 2.0**-own)
        shift = np.where((w == 0).all(axis=1) & (b == 0), 0, own - sums)
        if shift.max(initial=0) > 31:  # its sums are too small to be seen in the answer
            b, w = np.where(shift > 31, 0, b), np.where((shift > 31)[:, None], 0, w).astype(np.int8)
            shift = np.where(shift > 31, 0, shift)
        self._made(layer, own)
        self._steps.append(
            Step(layer.op, layer.name, layer.inputs, layer.output, weight=w.reshape(weight.shape), bias=_int32(b),
                 shift=_int32(shift), low=low, high=high, wide=wide, fill=self._zero[source], **geometry)
        )  # fmt: skip


def _int32(values: Any) -> Array:
    return np.asarray(values, np.int32)
