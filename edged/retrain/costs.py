"""What the layers of an ONNX file ask of a processor (engine/cost.py), by shape inference of the onnx package: child side.

Guarantees: multiply-adds and bytes of every node whose shapes are known, at any batch; batch norm and ReLU after a
convolution count nothing (runtimes fuse them), neither do quantize and dequantize between int8 layers. What an operator
does that is not known here is not guessed: its bytes count as data movement, and `unknown` names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edged.engine import cost, probe
from edged.engine.cost import Cost, Kind, Precision
from edged.errors import Refused

FUSED = {"Relu", "Clip", "LeakyRelu", "PRelu", "BatchNormalization"}
FUSE_INTO = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization"}
VIEWS = {
    "Reshape", "Flatten", "Identity", "Constant", "Shape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "ConstantOfShape",
    "Gather", "Range",
}  # fmt: skip
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"}
ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Exp",
    "Softmax", "LogSoftmax", "BatchNormalization", "Elu", "Sqrt", "Pow", "Max", "Min", "LRN", "Mish", "Softplus",
}  # fmt: skip
MOVES = {
    "Concat",
    "Transpose",
    "Resize",
    "Upsample",
    "Slice",
    "Split",
    "Pad",
    "SpaceToDepth",
    "DepthToSpace",
    "Tile",
    "Expand",
}
_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 16: 2}  # of ONNX's element types


@dataclass(frozen=True)
class Asked:
    """`layers` in the order of the graph; `unknown`: operators that were counted as data movement only."""

    layers: tuple[Cost, ...]
    unknown: tuple[str, ...]

    @property
    def by_kind(self) -> tuple[Cost, ...]:
        return cost.by_kind(self.layers)


def of(model: bytes, *, px: int = 0, batch: int = 1) -> Asked:
    """Costs of one run. `px` replaces the input's sides (0 = as the file says). Raises Refused for what is no ONNX, and for
    shapes that are not known."""
    import onnx

    from edged.retrain import source

    parsed = source.parse(model)
    constants = {t.name: t for t in parsed.graph.initializer}
    given = [i for i in parsed.graph.input if i.name not in constants]
    if len(given) != 1:
        raise Refused(f"the model has {len(given)} inputs where one is needed", code="bad_model")
    for i, dim in enumerate(given[0].type.tensor_type.shape.dim):
        if i == 0:
            dim.dim_value = batch
        elif (px and dim.dim_value > 4) or not dim.dim_value:
            dim.dim_value = px
    del parsed.graph.value_info[:]
    for out in parsed.graph.output:
        out.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(parsed, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as e:
        raise Refused(
            f"the model's shapes do not fit together: {str(e).splitlines()[0][:200]}", code="bad_model"
        ) from e
    return _Count(inferred.graph, constants).all()


def of_frame(model: bytes, regions: int) -> tuple[Cost, ...]:
    """Costs of what a camera does with a decoded frame: cut, prepare, infer `regions` at once."""
    from edged.retrain import measure

    px = measure.input_px(model)
    _, frame = probe.prepared(px)
    return (*of(model, batch=regions).by_kind, frame)


class _Count:
    """One walk over a graph. Sizes are in elements, as inferred."""

    def __init__(self, graph, constants) -> None:  # type: ignore[no-untyped-def]  # onnx has no types
        self._graph, self._constants = graph, constants
        self._shapes: dict[str, tuple[int, ...]] = {n: tuple(t.dims) for n, t in constants.items()}
        self._types: dict[str, int] = {n: t.data_type for n, t in constants.items()}
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            self._shapes.setdefault(value.name, tuple(int(d.dim_value) for d in dims))
            self._types.setdefault(value.name, value.type.tensor_type.elem_type)
        self._makers = {out: node for node in graph.node for out in node.output}
        self._users: dict[str, list[object]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {o.name for o in graph.output}
        self._unknown: set[str] = set()

    def all(self) -> Asked:
        layers = tuple(c for node in self._graph.node if (c := self._one(node)) is not None)
        return Asked(layers, tuple(sorted(self._unknown)))

    def _one(self, node) -> Cost | None:  # type: ignore[no-untyped-def]
        op = node.op_type
        ins, outs = [n for n in node.input if n], [n for n in node.output if n]
        if op in VIEWS or all(n in self._constants for n in ins):
            return None
        if op in ("QuantizeLinear", "DequantizeLinear"):
            return self._convert(node)
        if op in FUSED and self._origin(ins[0]) in FUSE_INTO:
            return None
        precision: Precision = "int8" if self._is_small(ins[0]) else "float32"
        each = 1 if precision == "int8" else 4
        data = [n for n in ins if not self._is_weight(n)]
        moved = float(each * sum(map(self._size, (*data, *outs))))
        if op in ("Conv", "ConvTranspose"):
            return self._conv(node, op, precision, each, moved)
        if op in ("Gemm", "MatMul"):
            weights = [n for n in ins if self._is_weight(n)]
            inner = self._shape(ins[0])[-1]
            moved += each * max((self._size(n) for n in weights), default=0)
            return Cost("full", precision, float(self._size(outs[0]) * inner), moved)
        if op in POOLS:
            taps = _ints(node, "kernel_shape")
            window = math.prod(taps) if taps else self._size(ins[0]) // self._size(outs[0])
            return Cost("pool", precision, float(self._size(outs[0]) * window), moved)
        if op in ELEMENTWISE:
            return Cost("elementwise", precision, float(self._size(outs[0])), moved)
        if op not in MOVES:
            self._unknown.add(op)
        return Cost("movement", precision, 0.0, moved)

    def _conv(self, node, op: str, precision: Precision, each: int, moved: float) -> Cost:  # type: ignore[no-untyped-def]
        weights, groups = self._shape(node.input[1]), (_ints(node, "group") or (1,))[0]
        channels = weights[1] * groups if op == "Conv" else weights[0]
        taps, spatial = math.prod(weights[1:]), math.prod(weights[2:])
        made = self._size(node.output[0] if op == "Conv" else node.input[0])
        kind: Kind = cost.of_conv(channels, groups, spatial)
        return Cost(kind, precision, float(made * taps), moved + each * math.prod(weights))

    def _convert(self, node) -> Cost | None:  # type: ignore[no-untyped-def]
        """Only at the ends of the network, or next to a layer that stayed float, is anything converted."""
        name = node.input[0]
        if name in self._constants:
            return None
        if node.op_type == "QuantizeLinear":
            maker = self._makers.get(name)
            if maker is not None and (maker.op_type in FUSED or any(self._is_small(n) for n in maker.input)):
                return None
        elif not (set(node.output) & self._outputs):
            return None
        return Cost("convert", "int8", 0.0, float(5 * self._size(name)))

    def _is_small(self, name: str) -> bool:
        """Whether what a layer reads is int8, through views."""
        maker = self._makers.get(name)
        while maker is not None and maker.op_type in VIEWS and maker.input:
            maker = self._makers.get(maker.input[0])
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _is_weight(self, name: str) -> bool:
        maker = self._makers.get(name)
        return name in self._constants or (maker is not None and all(n in self._constants for n in maker.input))

    def _origin(self, name: str) -> str:
        maker = self._makers.get(name)
        return "" if maker is None else maker.op_type

    def _size(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes.get(name)
        if shape is None or any(n <= 0 for n in shape):
            raise Refused(f"the shape of {name[:80]!r} is not known before the model runs", code="bad_model")
        return shape


def _ints(node, name: str) -> tuple[int, ...]:  # type: ignore[no-untyped-def]
    for attribute in node.attribute:
        if attribute.name == name:
            return tuple(attribute.ints) or (int(attribute.i),)
    return ()
