"""An int8 file near the version before: frozen scales, and old weights kept unless they moved, so that a delta is small.

    scale    of the old channel; a new one where the new weights do not fit on it, or where far fewer weights change
    weight   the old whole number, unless the new one is more than `steps` away; then it moves by a multiple of 2 * steps + 1,
             so that a difference takes few values (a uniform quantizer of the difference, its middle cell is hysteresis)
    bias     the old one plus a multiple of UNIT * steps of its steps
    input    grids of the activations are the old ones

Each version is rounded from its own float weights, so no error adds up from version to version: a weight is off by at most
steps + 1/2 of its grid's steps, one that is clipped too, and one that is zero is zero; a bias is off by UNIT * steps / 2, a
quarter of what that many steps of one weight make out at the middle of the input's grid.

Layers are known by the names and shapes of their int8 tensors, which the same network and the same chain give again (torch's
exporter, onnxruntime's quantizer and qdq.py name by layer). Guarantees: pure; a layer that the version before does not have
stays as it was made; the same float weights and steps, with the file that came of them as the version before, give that very
file again. Does not guarantee an accuracy: who calls it judges the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.engine import onnx_file
from edged.errors import Refused
from edged.retrain import intake, source
from edged.retrain.methods import Near
from edged.retrain.methods.qdq import BIAS_MOST, WEIGHT_MOST

STEPS = 2  # of hysteresis
UNIT = 64  # of a bias: half a step of one weight at the middle of the input's grid, 128
_SCALE_COST = 8  # weights that may change instead of a scale: two floats of four bytes, that of the bias too
TURNED = 0.005  # of the answers that nearness may turn, beyond those that int8 turns
_NOTHING = "nothing is kept of the version before"

Answers = NDArray[np.int64]  # class indices, [n]
Weights = NDArray[np.float32]  # channels first: [n, k]


@dataclass(frozen=True)
class Layer:
    """A convolution or full connection in int8: names of its tensors; `whole` [n, k] and `scales` [n], channels first;
    `offsets` [n], the whole biases, None = it has none in int32.
    """

    node: str
    weight: str  # name of the int8 tensor
    shape: tuple[int, ...]
    axis: int
    whole: NDArray[np.int64]
    scale: str
    scales: NDArray[np.float32]
    given: str  # scale of its input
    zero: str  # of its input
    bias: str = ""
    bias_scale: str = ""
    offsets: NDArray[np.int64] | None = None


class Version:
    """An int8 file, taken apart: tensors by name, layers by the name of their int8 tensor."""

    def __init__(self, model: bytes) -> None:
        onnx_file.check(model)
        self.parsed = source.parse(model)
        self.tensors = {t.name: _array(t) for t in self.parsed.graph.initializer}
        if turned := intake.turned(self.parsed):
            self.tensors[turned] = np.ascontiguousarray(self.tensors[turned][:, ::-1])
        self.layers = {layer.weight: layer for layer in _layers(self.parsed.graph, self.tensors)}
        self.grids = dict(_grids(self.parsed.graph, self.tensors))
        self.floats = frozenset(
            n.name
            for n in self.parsed.graph.node
            if n.op_type in ("Conv", "Gemm", "MatMul") and len(n.input) > 1 and n.input[1] in self.tensors
        )


def read(model: bytes) -> Version:
    """The version before. Raises Refused: no ONNX, damaged, no layer in int8 (code other_model)."""
    try:
        found = Version(model)
    except (ValueError, KeyError, IndexError, TypeError) as e:
        raise Refused(f"it does not read back: {e}", code="bad_model") from e
    if not found.layers:
        raise Refused("it has no layer in int8", code="other_model")
    return found


def begin(previous: bytes) -> tuple[Version | None, str]:
    """The version before if there is one that can be read, and why not if there is none."""
    if not previous:
        return None, ""
    try:
        return read(previous), ""
    except Refused as e:
        return None, f"{_NOTHING}: {e}"


@dataclass(frozen=True)
class Found:
    """A file near the version before; `near` None = there is none that is good enough, and `note` says why."""

    data: bytes
    accuracy: float
    note: str
    near: Near | None = None


def nearest(
    made: bytes,
    exact: bytes,
    before: Version,
    enough: float,
    judge: Callable[[bytes], float],
    answer: Callable[[bytes], Answers],
) -> Found:
    """`made` with as many steps of hysteresis, STEPS at most, as leave it an accuracy of `enough` by `judge`, and all but TURNED
    of those answers of `exact` that `made` gives, too. `answer` gives a file's on many pictures: they need no label, where
    the few that have one for judging show no small loss.
    """
    wanted = answer(exact)

    def turned(file: bytes) -> float:
        return float((answer(file) != wanted).mean())

    usual = turned(made)
    dear: list[str] = []
    for steps in range(STEPS, -1, -1):
        data, found = keep(made, exact, before, steps)
        if found is None:
            return Found(made, 0.0, f"{_NOTHING}: few of its layers in int8 have these names and shapes")
        accuracy, lost = judge(data), turned(data)
        if accuracy >= enough and lost <= usual + TURNED:
            return Found(data, accuracy, f"{found}{''.join(f'; {d}' for d in dear)}", found)
        within = f"within {steps} step{'' if steps == 1 else 's'} it"
        dear.append(
            f"{within} gets {accuracy:.1%} right where {enough:.1%} are wanted" if accuracy < enough else
            f"{within} turns {lost:.1%} of the float model's answers, int8 alone {usual:.1%}"
        )  # fmt: skip
    return Found(made, 0.0, f"{_NOTHING}: {', '.join(dear)}")


def keep(made: bytes, exact: bytes, before: Version, steps: int) -> tuple[bytes, Near | None]:
    """`made`, an int8 file, with as much of `before` as `steps` allow; None where less than half of the weights
    are in layers that both have: then it is as it was.

    `exact` is the float model that `made` was quantized from, with the same names of its nodes.
    """
    now = Version(made)
    floats = _floats(exact)
    both = [
        (layer, before.layers[name]) for name, layer in now.layers.items()
        if name in before.layers and before.layers[name].shape == layer.shape
        and before.layers[name].axis == layer.axis and layer.node in floats
        and floats[layer.node][0].shape == layer.shape
    ]  # fmt: skip
    shared = sum(layer.whole.size for layer, _ in both)
    if 2 * shared < sum(layer.whole.size for layer in now.layers.values()):
        return made, None  # another network: a layer of a name in common says nothing
    values: dict[str, NDArray[Any]] = {}
    for names in now.grids.keys() & before.grids.keys():
        values |= dict(zip(names, before.grids[names], strict=True))
    kept = weights = channels = rescaled = 0
    for layer, old in both:
        weight, bias = floats[layer.node]
        given = float(values.get(layer.given, now.tensors[layer.given]))
        least = None if bias is None or layer.offsets is None else np.abs(bias) / (BIAS_MOST * given)
        scales, whole = rounded(_first(weight, layer.axis), old.whole, old.scales, steps, least)
        values[layer.scale] = scales
        values[layer.weight] = _back(whole, layer).astype(np.int8)
        if bias is not None and layer.offsets is not None:
            sizes = scales * np.float32(given)
            values[layer.bias_scale] = sizes
            values[layer.bias] = _offsets(bias, sizes, old.offsets, steps).astype(np.int32)
        kept += int((whole == old.whole).sum())
        weights, channels = weights + whole.size, channels + len(scales)
        rescaled += int((scales != old.scales).sum())
    data = _with(now.parsed, values)
    return data, Near(
        steps, weights, kept, channels, rescaled, round(_changed(now.tensors | values, before.tensors), 6)
    )


def rounded(
    weight: Weights, old: NDArray[np.int64], frozen: NDArray[np.float32], steps: int,
    least: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:  # fmt: skip
    """Scales [n] and whole weights [n, k], -64..64, of float weights [n, k] beside the old ones.

    Of three scales a channel takes the one that costs fewest bytes in a delta: the frozen one, the one on which the old whole
    numbers are nearest to the new weights (least squares: where a channel only got louder, as by new statistics of its batch
    norm, nothing changes but its scale), and the one that fits its largest weight. None may clip a weight by more than
    hysteresis may leave it off, nor be below `least` [n].
    """
    peak = np.abs(weight).max(axis=1)
    fitting = np.maximum(peak, 1e-8) / WEIGHT_MOST
    floor = peak / (WEIGHT_MOST + steps + 0.5)
    if least is not None:
        floor, fitting = np.maximum(floor, least), np.maximum(fitting, least)
    squares = np.square(old).sum(axis=1)
    nearest = np.maximum((weight * old).sum(axis=1) / np.maximum(squares, 1), floor)
    best_cost = np.full(len(weight), np.inf)
    best_scale, best_whole = np.empty(len(weight), np.float32), np.empty_like(old)
    for scale in (frozen, _up(nearest), _up(fitting)):
        whole = np.where(weight == 0, 0, moved(np.rint(weight / scale[:, None]).astype(np.int64), old, steps))
        cost = (whole != old).sum(axis=1) + _SCALE_COST * (scale != frozen)
        cost = np.where(scale >= floor, cost.astype(float), np.inf)
        better = cost < best_cost
        best_cost = np.where(better, cost, best_cost)
        best_scale = np.where(better, scale, best_scale)
        best_whole = np.where(better[:, None], whole, best_whole)
    return best_scale, best_whole


def moved(whole: NDArray[np.int64], old: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """The old number plus so many times 2 * steps + 1 as come nearest to the new one: within `steps` it stays the old one."""
    width = 2 * steps + 1
    found: NDArray[np.int64] = old + width * np.rint((whole - old) / width).astype(np.int64)
    return np.clip(found, -WEIGHT_MOST, WEIGHT_MOST)


def _offsets(
    bias: NDArray[np.float64], sizes: NDArray[np.float32], old: NDArray[np.int64] | None, steps: int
) -> NDArray[np.int64]:
    """Biases in whole steps: the old one plus whole units."""
    whole = np.rint(bias / sizes).astype(np.int64)
    if old is None:
        return whole
    unit = max(1, UNIT * steps)
    near = old + unit * np.rint((whole - old) / unit).astype(np.int64)
    return np.where(np.abs(near) < 2**31, near, whole)


def _up(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """As float32, never smaller."""
    found = scale.astype(np.float32)
    return np.where(found < scale, np.nextafter(found, np.float32(np.inf)), found)


def _changed(now: Mapping[str, NDArray[Any]], before: Mapping[str, NDArray[Any]]) -> float:
    total = sum(a.nbytes for a in now.values())
    same = sum(
        int((_bytes(a) == _bytes(before[name])).sum())
        for name, a in now.items()
        if name in before and before[name].nbytes == a.nbytes
    )
    return (total - same) / max(1, total)


def _bytes(a: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8)


# reading and writing


def _array(tensor: Any) -> NDArray[Any]:
    from onnx import numpy_helper

    found: NDArray[Any] = numpy_helper.to_array(tensor)
    return found


def _layers(graph: Any, tensors: Mapping[str, NDArray[Any]]) -> Iterator[Layer]:
    makers = {v: node for node in graph.node for v in node.output}

    def decoded(name: str) -> Any | None:
        node = makers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" and len(node.input) > 2 else None

    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        given, weight = decoded(node.input[0]), decoded(node.input[1])
        if given is None or weight is None or given.input[1] not in tensors or weight.input[0] not in tensors:
            continue
        whole, scales, zeros = (tensors[name] for name in weight.input)
        if whole.dtype != np.int8 or scales.ndim != 1 or zeros.any() or tensors[given.input[1]].size != 1:
            continue
        axis = next((a.i for a in weight.attribute if a.name == "axis"), 1) % whole.ndim
        if whole.shape[axis] != len(scales):
            continue
        more: dict[str, Any] = {}
        offset = decoded(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if offset is not None and tensors[offset.input[0]].dtype == np.int32:
            more = {
                "bias": offset.input[0], "bias_scale": offset.input[1],
                "offsets": tensors[offset.input[0]].astype(np.int64),
            }  # fmt: skip
        yield Layer(
            node.name, weight.input[0], whole.shape, axis, _first(whole, axis).astype(np.int64), weight.input[1], scales,
            given.input[1], given.input[2], **more,
        )  # fmt: skip


def _grids(
    graph: Any, tensors: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[tuple[str, str], tuple[NDArray[Any], NDArray[Any]]]]:
    """Names and values of scale and zero of what is quantized as it is computed."""
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) > 2:
            scale, zero = node.input[1:3]
            if scale in tensors and zero in tensors and tensors[scale].size == 1:
                yield (scale, zero), (tensors[scale], tensors[zero])


def _floats(exact: bytes) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float64] | None]]:
    """Weights and bias of each layer of a float model by the name of its node."""
    graph = source.parse(exact).graph
    tensors = {t.name: t for t in graph.initializer}
    for node in graph.node:  # torch writes equal tensors once, and the others as copies of it
        if node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    found = {}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.name and node.input[1] in tensors:
            bias = tensors.get(node.input[2]) if len(node.input) > 2 else None
            offsets = None if bias is None else _array(bias).astype(np.float64)
            found[node.name] = (_array(tensors[node.input[1]]).astype(np.float32), offsets)
    return found


def _first(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """[n, k], the channels of `axis` first."""
    moved = np.moveaxis(values, axis, 0)
    return moved.reshape(len(moved), -1)


def _back(values: NDArray[np.int64], layer: Layer) -> NDArray[np.int64]:
    shape = (layer.shape[layer.axis], *(n for i, n in enumerate(layer.shape) if i != layer.axis))
    return np.moveaxis(values.reshape(shape), 0, layer.axis)


def _with(parsed: Any, values: Mapping[str, NDArray[Any]]) -> bytes:
    """In the fields in which each tensor lies already, so that what stays the same has the same bytes."""
    for tensor in parsed.graph.initializer:
        if tensor.name in values and not np.array_equal(values[tensor.name], _array(tensor)):
            given = values[tensor.name]
            if tensor.HasField("raw_data"):
                tensor.raw_data = np.ascontiguousarray(given).tobytes()
            elif given.dtype == np.float32:
                tensor.float_data[:] = given.ravel().tolist()
            else:
                tensor.int32_data[:] = given.ravel().tolist()
    return bytes(parsed.SerializeToString(deterministic=True))
