"""Writes small networks as ONNX files without the onnx package, so that a camera can measure itself.

Guarantees: a file that the engine's runtimes load; the same calls give the same bytes (weights come from a seed, scaled as He
et al. 2015 so that values neither vanish nor overflow); `costs` says what each layer asks for. int8 = ONNX's QDQ form:
activations uint8 per tensor, weights int8 per channel in 7 bits. Does not guarantee that the network knows anything.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto; opset 17, IR version 8.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edged.engine.cost import Cost, Kind, Precision, of_conv
from edged.engine.protobuf import I32, block, leb128, whole

OPSET, IR_VERSION = 17, 8
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
_TYPES = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int32": INT32, "int64": INT64}
_RANGE = 4.0  # activations of unit variance; what is beyond saturates, which costs the same time


class Tensor(NamedTuple):
    """A value in the graph: its name and its shape without the batch, (channels, height, width) or (channels,)."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Net:
    """A network under construction. `x` is its input, float32 [batch, channels, height, width]."""

    def __init__(
        self, shape: tuple[int, ...], *, precision: Precision = "float32", batch: int = 1, seed: int = 1,
        dry: bool = False,
    ) -> None:  # fmt: skip
        """`dry`: no weights are made, only `costs` are of use."""
        self.precision, self.batch, self._dry = precision, batch, dry
        self.costs: list[Cost] = []
        self._dice = np.random.default_rng(seed)
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._n = 0
        self._input = Tensor("input", shape)
        self.x = self._input
        if self._int8:
            self.x = self._quantized(self._input, signed=True)
            self._note("convert", 0, 5 * self.x.size * batch)

    @property
    def _int8(self) -> bool:
        return self.precision == "int8"

    # --- layers

    def conv(
        self, x: Tensor, out: int, k: int = 3, *, stride: int = 1, pad: int | None = None, groups: int = 1,
        act: str = "Relu", k2: int | None = None,
    ) -> Tensor:  # fmt: skip
        """A convolution k x k2 (square where k2 is not given) with bias; `act` "" or an operator without inputs."""
        kh, kw = k, k if k2 is None else k2
        ph, pw = (kh // 2, kw // 2) if pad is None else (pad, pad)
        c, h, w = x.shape
        oh, ow = (h + 2 * ph - kh) // stride + 1, (w + 2 * pw - kw) // stride + 1
        made = Tensor(self._name(), (out, oh, ow))
        taps = c // groups * kh * kw
        weights = self._weights((out, c // groups, kh, kw), taps)
        attributes = {
            "kernel_shape": (kh, kw), "strides": (stride, stride), "pads": (ph, pw, ph, pw), "group": groups,
        }  # fmt: skip
        self._node("Conv", (x.name, *weights), made.name, **attributes)
        self._note(
            of_conv(c, groups, kh * kw), made.size * taps * self.batch,
            self._each * (x.size + made.size) * self.batch + self._each * out * taps,
        )  # fmt: skip
        return self._after(made, act)

    def depthwise(self, x: Tensor, k: int = 3, *, stride: int = 1, act: str = "Relu") -> Tensor:
        return self.conv(x, x.shape[0], k, stride=stride, groups=x.shape[0], act=act)

    def full(self, x: Tensor, out: int, act: str = "") -> Tensor:
        """A fully connected layer; a picture is flattened first."""
        if len(x.shape) > 1:
            flat = Tensor(self._name(), (x.size,))
            self._node("Flatten", (x.name,), flat.name, axis=1)
            x = self._quantized(flat, signed=False) if self._int8 else flat
        made = Tensor(self._name(), (out,))
        weights = self._weights((out, x.size), x.size)
        self._node("Gemm", (x.name, *weights), made.name, transB=1)
        self._note("full", out * x.size * self.batch, self._each * ((x.size + out) * self.batch + out * x.size))
        return self._after(made, act)

    def pool(self, x: Tensor, k: int, stride: int, *, how: str = "Max", pad: int = 0) -> Tensor:
        c, h, w = x.shape
        made = Tensor(self._name(), (c, (h + 2 * pad - k) // stride + 1, (w + 2 * pad - k) // stride + 1))
        self._node(
            f"{how}Pool", (x.name,), made.name, kernel_shape=(k, k), strides=(stride, stride), pads=(pad,) * 4
        )  # fmt: skip
        self._note("pool", made.size * k * k * self.batch, self._each * (x.size + made.size) * self.batch)
        return self._after(made, "")

    def mean(self, x: Tensor) -> Tensor:
        """Global average."""
        made = Tensor(self._name(), (x.shape[0], 1, 1))
        self._node("GlobalAveragePool", (x.name,), made.name)
        self._note("pool", x.size * self.batch, self._each * (x.size + made.size) * self.batch)
        return self._after(made, "")

    def add(self, x: Tensor, y: Tensor, act: str = "") -> Tensor:
        made = Tensor(self._name(), x.shape)
        self._node("Add", (x.name, y.name), made.name)
        self._note("elementwise", made.size * self.batch, self._each * 3 * made.size * self.batch)
        return self._after(made, act)

    def norm(self, x: Tensor, act: str = "Relu") -> Tensor:
        """Batch norm that stands before its convolution, so that nothing can fold it: a multiplication and an addition."""
        made, c = Tensor(self._name(), x.shape), x.shape[0]
        ones = [self._constant(np.full(c, v, np.float32)) for v in (0.9, 0.1, 0.1, 1.0)]
        self._node("BatchNormalization", (x.name, *ones), made.name)
        self._note("elementwise", made.size * self.batch, self._each * 2 * made.size * self.batch)
        return self._after(made, act)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        made = Tensor(self._name(), (sum(p.shape[0] for p in parts), *parts[0].shape[1:]))
        self._node("Concat", tuple(p.name for p in parts), made.name, axis=1)
        self._note("movement", 0, self._each * 2 * made.size * self.batch)
        return self._after(made, "")

    def upsample(self, x: Tensor, times: int = 2) -> Tensor:
        """By repeating pixels."""
        c, h, w = x.shape
        made = Tensor(self._name(), (c, h * times, w * times))
        scales = self._constant(np.array([1, 1, times, times], np.float32))
        self._node(
            "Resize", (x.name, "", scales), made.name, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
        self._note("movement", 0, self._each * (x.size + made.size) * self.batch)
        return self._after(made, "")

    def model(self, *outputs: Tensor) -> bytes:
        """The file, with these outputs."""
        if self._int8:
            self._note("convert", 0, sum(5 * o.size for o in outputs) * self.batch)
        given = _value(self._input.name, (self.batch, *self._input.shape))
        graph = [*(block(1, n) for n in self._nodes), block(2, b"net"), *(block(5, t) for t in self._tensors)]
        graph.append(block(11, given))
        graph += [block(12, _value(o.name, (self.batch, *o.shape))) for o in outputs]
        return b"".join(
            (whole(1, IR_VERSION), block(2, b"edged"), block(7, b"".join(graph)), block(8, whole(2, OPSET)))
        )

    # --- parts

    @property
    def _each(self) -> int:
        return 1 if self._int8 else 4

    def _note(self, kind: Kind, macs: float, moved: float) -> None:
        self.costs.append(Cost(kind, self.precision, float(macs), float(moved)))

    def _name(self) -> str:
        self._n += 1
        return f"t{self._n}"

    def _after(self, x: Tensor, act: str) -> Tensor:
        if act:
            made = Tensor(self._name(), x.shape)
            if act == "Clip":
                low, high = (self._constant(np.float32(v)) for v in (0, 6))
                self._node("Clip", (x.name, low, high), made.name)
            else:
                self._node(act, (x.name,), made.name)
            x = made
        return self._quantized(x, signed=act not in ("Relu", "Clip")) if self._int8 else x

    def _quantized(self, x: Tensor, *, signed: bool) -> Tensor:
        scale = self._constant(np.float32(_RANGE * (2 if signed else 1) / 255))
        zero = self._constant(np.uint8(128 if signed else 0))
        small, made = self._name(), Tensor(self._name(), x.shape)
        self._node("QuantizeLinear", (x.name, scale, zero), small)
        self._node("DequantizeLinear", (small, scale, zero), made.name)
        return made

    def _weights(self, shape: tuple[int, ...], taps: int) -> tuple[str, str]:
        """Names of weights and bias, dequantized where the network is int8."""
        if self._dry:
            return "", ""
        sigma = math.sqrt(2 / taps)
        weights = self._dice.standard_normal(shape, np.float32) * np.float32(sigma)
        bias = np.zeros(shape[0], np.float32)
        if not self._int8:
            return self._constant(weights), self._constant(bias)
        step = np.float32(3 * sigma / 63)
        whole = np.clip(np.round(weights / step), -63, 63).astype(np.int8)
        steps = np.full(shape[0], step, np.float32)
        return self._dequantized(whole, steps), self._dequantized(
            bias.astype(np.int32), steps * np.float32(_RANGE / 255)
        )

    def _dequantized(self, whole: NDArray[np.int8] | NDArray[np.int32], steps: NDArray[np.float32]) -> str:
        made = self._name()
        zero = self._constant(np.zeros(steps.shape, whole.dtype))
        self._node("DequantizeLinear", (self._constant(whole), self._constant(steps), zero), made, axis=0)
        return made

    def _constant(self, value: NDArray[np.generic] | np.generic) -> str:
        name, array = f"c{len(self._tensors)}", np.asarray(value)
        dims = b"".join(whole(1, n) for n in array.shape)
        kind = whole(2, _TYPES[array.dtype.name])
        self._tensors.append(dims + kind + block(8, name.encode()) + block(9, array.tobytes()))
        return name

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> None:
        parts = [block(1, name.encode()) for name in inputs] + [block(2, output.encode())]
        parts += [block(3, output.encode()), block(4, op.encode())]
        parts += [block(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(parts))


def _attribute(name: str, value: object) -> bytes:
    head = block(1, name.encode())
    if isinstance(value, str):
        return head + block(4, value.encode()) + whole(20, 3)
    if isinstance(value, float):
        return head + leb128(2 << 3 | I32) + struct.pack("<f", value) + whole(20, 1)
    if isinstance(value, int):
        return head + whole(3, value) + whole(20, 2)
    assert isinstance(value, tuple)
    return head + b"".join(whole(8, int(n)) for n in value) + whole(20, 7)


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(block(1, whole(1, n)) for n in shape)
    return block(1, name.encode()) + block(2, block(1, whole(1, FLOAT) + block(2, dims)))
