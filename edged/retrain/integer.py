"""A network in integers alone: int8 by int8 into int32, scales that are powers of two, for processors without floats.

    value of a tensor = (q - zero) * 2 ** exponent, q int8
    sum    = bias + sum of weight * q                       int8 x int8 -> int32
    result = saturate((sum + 2 ** (shift - 1)) >> shift)    rounds half up; shift < 0 shifts to the left

`zero` is -128 for the picture (q = pixel - 128, exactly) and 0 elsewhere. The last layer's sums are the answer, in 32 bits.

Guarantees: `Network` is refused at birth unless no sum can leave 32 bits for any picture (the bound is the sum of absolute
products); what runs is bit by bit what the file says, on any machine; a file reads back as it was written. Does not
guarantee accuracy: shifts.py chooses the scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edged.engine import feed
from edged.engine.onnx_file import Takes
from edged.errors import Corrupt, Refused
from edged.retrain import weights_file, windows

Array = NDArray[Any]
VERSION = 1
LOW, HIGH = -128, 127
LARGEST = 2**31 - 1
SUMS = ("conv", "gemm", "scale", "avgpool")  # what multiplies; add, concat: what only shifts
_ARRAYS = ("weight", "bias", "shift")
OPS = (*SUMS, "add", "concat", "maxpool", "flatten", "gather", "clamp")


@dataclass(frozen=True, eq=False)
class Step:
    """One layer. `weight` int8 (conv [out, in / group, h, w], gemm [out, in], scale [c], avgpool [1]; gather int32 [c]),
    `bias` int32 [out], `shift` int32 [out] (add: [1]; concat: one per input), `lefts`: add's shifts to the left.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    weight: Array | None = None
    bias: Array | None = None
    shift: Array | None = None
    lefts: tuple[int, ...] = ()
    low: int = LOW
    high: int = HIGH
    wide: bool = False  # the sums are the answer; low and high are of 32 bits then
    fill: int = 0  # what padding holds: the input's zero
    group: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil: bool = False


@dataclass(frozen=True, eq=False)
class Network:
    """`exponent` of the output: answers are sums * 2 ** exponent. Raises Refused (code overflow, bad_model)."""

    steps: tuple[Step, ...]
    input: str
    output: str
    takes: Takes
    exponent: int

    def __post_init__(self) -> None:
        made = {self.input}
        for step in self.steps:
            if missing := [name for name in step.inputs if name not in made]:
                raise Refused(
                    f"layer {step.name[:60]!r} reads {missing[0][:60]!r}, which nothing made", code="bad_model"
                )
            prove(step)
            made.add(step.output)
        if self.output not in made - {self.input} or not -64 <= self.exponent <= 64:
            raise Refused("it has no answer", code="bad_model")


def bound(step: Step) -> int:
    """The largest sum that any input can make, with the half that is added before a shift."""
    shift = np.asarray([0] if step.shift is None or step.wide else step.shift, np.int64)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    if step.op in ("add", "concat"):
        lefts = step.lefts or (0,)
        return int(sum(128 << left for left in lefts) + half.max())
    assert step.weight is not None
    assert step.bias is not None
    weight = np.abs(step.weight.astype(np.int64))
    count = step.kernel[0] * step.kernel[1] if step.op == "avgpool" else 1
    each = weight * count if step.op in ("scale", "avgpool") else weight.reshape(len(weight), -1).sum(axis=1)
    return int((each * 128 + np.abs(step.bias.astype(np.int64)) + half).max())


def prove(step: Step) -> None:
    """Raises Refused when the step is none, or when its sums might not fit into 32 bits."""
    where = f"layer {step.name[:60]!r} ({step.op})"
    if step.op not in OPS:
        raise Refused(f"{where}: integers have no such layer", code="bad_model")
    if step.shift is not None and not ((step.shift >= -23) & (step.shift <= 31)).all():
        raise Refused(f"{where}: shifts of -23 to 31 are possible", code="bad_model")
    if not all(0 <= left <= 23 for left in step.lefts):
        raise Refused(f"{where}: its inputs' scales lie more than 23 bits apart", code="overflow")
    _fits(step, where)
    if step.op in SUMS or step.op in ("add", "concat"):
        most = bound(step)
        if most > LARGEST:
            raise Refused(f"{where} can overflow 32 bits: its sums reach {most}, {LARGEST} fit", code="overflow")


def _fits(step: Step, where: str) -> None:
    """Raises Refused where arrays, inputs or windows do not belong together."""
    inputs = {"add": len(step.lefts), "concat": 0 if step.shift is None else len(step.shift)}.get(step.op, 1)
    good = len(step.inputs) == inputs >= 1 and all(1 <= n <= 512 for n in (*step.kernel, *step.strides))
    good = good and all(1 <= n <= 64 for n in step.dilations) and all(0 <= n <= 64 for n in step.pads)
    good = good and LOW <= step.fill <= HIGH and step.group >= 1
    good = (
        good
        and (step.wide or LOW <= step.low <= step.high <= HIGH)
        and -LARGEST - 1 <= step.low <= step.high <= LARGEST
    )
    if step.op in SUMS:
        good = good and step.weight is not None and _belong(step, step.weight, step.bias, step.shift)
    if not good:
        raise Refused(f"{where}: its numbers do not belong together", code="bad_model")


def _belong(step: Step, weight: Array, bias: Array | None, shift: Array | None) -> bool:
    axes = {"conv": 4, "gemm": 2}.get(step.op, 1)
    if bias is None or shift is None or weight.ndim != axes or not bias.shape == shift.shape == (len(weight),):
        return False
    return step.op != "conv" or (weight.shape[2:] == step.kernel and len(weight) % step.group == 0)


def requantise(total: Array, shift: Array | int, low: int = LOW, high: int = HIGH) -> Array:
    """int32 sums -> int8: rounding shift (half up), then saturation at low and high. `shift` broadcasts."""
    shift = np.asarray(shift, np.int32)
    right = np.maximum(shift, 0)
    half = np.where(right > 0, np.int32(1) << np.maximum(right - 1, 0), 0).astype(np.int32)
    moved = (total + half) >> right
    # What is shifted to the left is cut to 8 bits first: what was beyond them stays beyond.
    moved = np.clip(moved, LOW, HIGH) << np.maximum(-shift, 0)
    return np.asarray(np.clip(moved, low, high), np.int8)


def integers(net: Network, pixels: Array) -> Array:
    """int8 [n, 3, px, px] (pixel - 128) -> the last layer's sums, int32 [n, classes]."""
    tensors: dict[str, Array] = {net.input: pixels}
    for step in net.steps:
        tensors[step.output] = _run(step, [tensors[name] for name in step.inputs])
    return tensors[net.output]


def _run(step: Step, given: list[Array]) -> Array:
    x = given[0]
    if step.op == "maxpool":
        seen = windows.windows(x, step.kernel, step.strides, step.pads, step.dilations, fill=LOW, ceil=step.ceil)
        return np.asarray(seen.max(axis=(4, 5)))
    if step.op == "flatten":
        return x.reshape(len(x), -1)
    if step.op == "gather":
        return x[:, step.weight]
    if step.op == "clamp":
        return np.clip(x, step.low, step.high)
    if step.op == "concat":
        assert step.shift is not None
        moved = [
            requantise(t.astype(np.int32), int(s), step.low, step.high) for t, s in zip(given, step.shift, strict=True)
        ]
        return np.concatenate(moved, axis=1)
    total = _added(step, given) if step.op == "add" else _summed(step, x)
    if step.wide:
        return np.clip(total, step.low, step.high)
    assert step.shift is not None
    return requantise(total, _channels(step.shift, total.ndim), step.low, step.high)


def _added(step: Step, given: list[Array]) -> Array:
    total = np.zeros(1, np.int32)
    for t, left in zip(given, step.lefts, strict=True):
        total = total + (t.astype(np.int32) << left)
    return total


def _summed(step: Step, x: Array) -> Array:
    """bias + sum of products, int32. The products are summed in a float type that holds every partial sum exactly (the
    bound is proven), since that is where fast matrix products are.
    """
    assert step.weight is not None
    assert step.bias is not None
    total: Array
    if step.op == "scale":
        total = x.astype(np.int32) * _channels(step.weight.astype(np.int32), x.ndim)
    elif step.op == "avgpool":
        kernel = step.kernel
        total = windows.windows(x, kernel, step.strides, step.pads, fill=step.fill).sum(axis=(4, 5), dtype=np.int32)
        total = total * step.weight.astype(np.int32)[0]
    else:
        kind: Any = np.float32 if bound(step) < 1 << 24 else np.float64
        weight = step.weight.astype(kind)
        if step.op == "conv":
            total = windows.conv(
                x.astype(kind), weight, step.strides, step.pads, step.dilations, step.group, fill=step.fill
            )
        else:
            total = x.astype(kind) @ weight.T
    return total.astype(np.int32) + _channels(step.bias, total.ndim)


def _channels(values: Array, ndim: int) -> Array:
    return values.reshape(1, -1, *(1,) * (ndim - 2))


class IntegerEngine:
    """The engine's Protocol over a network of integers."""

    runtime = "integers"

    def __init__(self, net: Network) -> None:
        self.takes = net.takes
        self._net = net

    def run(self, batch: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        planes = feed.fitting(batch, self.takes)
        if planes.dtype == np.uint8:
            planes = planes.transpose(0, 3, 1, 2)
        pixels = (np.clip(np.rint(planes), 0, 255).astype(np.int16) - 128).astype(np.int8)
        try:
            found = integers(self._net, pixels)
        except (ValueError, IndexError) as e:
            raise Refused(f"the model does not take {batch.shape}: {e}", code="bad_input") from e
        return ((found.astype(np.float64) * 2.0**self._net.exponent).astype(np.float32),)


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A step in the file's JSON: all of `Step` but its arrays."""

    op: str
    name: str
    inputs: tuple[str, ...]
    output: str
    lefts: tuple[int, ...]
    low: int
    high: int
    wide: bool
    fill: int
    group: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    ceil: bool


class _Head(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    input: str
    output: str
    takes: Takes
    exponent: int
    steps: tuple[_Row, ...]


def write(net: Network) -> bytes:
    """The file: safetensors (int8, int32) whose metadata hold the steps as JSON."""
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    rows = []
    for i, step in enumerate(net.steps):
        for key in _ARRAYS:
            value = getattr(step, key)
            if value is not None:
                tensors[f"{i}.{key}"] = np.ascontiguousarray(value)
        rows.append(_Row(**{name: getattr(step, name) for name in _Row.__struct_fields__}))
    head = _Head(
        version=VERSION, input=net.input, output=net.output, takes=net.takes, exponent=net.exponent, steps=tuple(rows)
    )  # fmt: skip
    return save(tensors, {"edged.integer": msgspec.json.encode(head).decode()})


def read(data: bytes) -> Network:
    """The file's network. Raises Corrupt for what is none, Refused for one that could overflow or does not hang together."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        head = msgspec.json.decode(weights_file.metadata(data)["edged.integer"], type=_Head)
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise Corrupt(f"no network of integers: {e}", code="bad_model") from e
    if head.version != VERSION:
        raise Corrupt(f"a network of integers of version {head.version}; {VERSION} is known here", code="bad_model")
    steps = []
    for i, row in enumerate(head.steps):
        held = {key: tensors.get(f"{i}.{key}") for key in _ARRAYS}
        kinds = {"weight": np.int32 if row.op == "gather" else np.int8, "bias": np.int32, "shift": np.int32}
        if any(v is not None and v.dtype != kinds[k] for k, v in held.items()):
            raise Corrupt(f"layer {i} holds numbers of another kind", code="bad_model")
        steps.append(Step(**{**msgspec.structs.asdict(row), **held}))
    return Network(tuple(steps), head.input, head.output, head.takes, head.exponent)
