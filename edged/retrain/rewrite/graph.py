"""One convolution of an ONNX graph, and the nodes that are put in its place.

Guarantees of `replaced`: inputs, outputs, names of tensors that others read, metadata and weights stay; what a rewrite
computes from weights alone is left to the runtime, which does it once, when it loads the file: so a delivered file
grows by a few small matrices only, and weights that were pruned or shared pack as well as before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.retrain import source


@dataclass(frozen=True)
class Conv:
    """A convolution with constant weights [outputs, inputs / groups, kernel height, width] and a known size of picture."""

    name: str  # of the tensor it makes
    outputs: int
    inputs: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right
    size: tuple[int, int]  # height and width of what goes in
    source: str = ""  # names of tensors: what goes in, weights, bias
    weights: str = ""
    bias: str = ""
    groups: int = 1
    dilations: tuple[int, int] = (1, 1)
    quantized: bool = False

    @property
    def made(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        h, w = (
            (self.size[i] + self.pads[i] + self.pads[i + 2] - self.dilations[i] * (self.kernel[i] - 1) - 1)
            // self.strides[i] + 1
            for i in (0, 1)
        )  # fmt: skip
        return h, w

    @property
    def plain(self) -> bool:
        """Float, one group, no holes: what the rewrites here are for."""
        return self.groups == 1 and self.dilations == (1, 1) and not self.quantized and min(self.made) > 0

    @property
    def shape(self) -> str:
        """What makes it as fast as another: "64x27x27 -> 192, 5x5 / 1, pads 2 2 2 2"."""
        kernel, stride = "x".join(map(str, self.kernel)), "x".join(map(str, dict.fromkeys(self.strides)))
        return (
            f"{self.inputs}x{self.size[0]}x{self.size[1]} -> {self.outputs}, {kernel} / {stride}, "
            f"pads {' '.join(map(str, self.pads))}{', int8' if self.quantized else ''}"
        )

    @property
    def macs(self) -> int:
        """Multiply-adds of one picture, as it stands."""
        return int(np.prod(self.made) * np.prod(self.kernel)) * self.outputs * self.inputs // self.groups


@dataclass
class Draft:
    """Nodes and constants in the making; their names begin with `stem`."""

    conv: Conv
    stem: str
    weights: NDArray[Any] | None = None  # the convolution's, where they stand in the file as they are
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """One node; returns the name of what it makes."""
        from onnx import helper

        name = f"{self.stem}/{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def const(self, values: NDArray[Any] | list[int]) -> str:
        """float64 becomes float32; a list becomes int64."""
        from onnx import numpy_helper

        array = np.asarray(values, np.int64) if isinstance(values, list) else values
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"{self.stem}/const_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def reshape(self, name: str, shape: list[int]) -> str:
        return self.add("Reshape", name, self.const(shape))


Rewrite = Callable[[Draft], None]  # the last node makes what the convolution made


def convs(model: bytes) -> tuple[Conv, ...]:
    """The convolutions of a model whose weights are constants and whose sizes of picture are known, in their order."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(source.parse(model)).graph
    known = {t.name: tuple(t.dims) for t in graph.initializer}
    known |= {
        node.output[0]: tuple(a.t.dims) for node in graph.node if node.op_type == "Constant" for a in node.attribute
        if a.name == "value"
    }  # fmt: skip
    # torch's exporter writes equal constants once, and lets others be the Identity of them.
    known |= {
        node.output[0]: known[node.input[0]]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in known
    }
    dequantized = {
        node.output[0]: known[node.input[0]] for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in known
    }  # fmt: skip
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
        for v in (*graph.value_info, *graph.input, *graph.output)
    }
    found = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weights, shape = (known | dequantized).get(node.input[1]), shapes.get(node.input[0], ())
        if weights is None or len(weights) != 4 or len(shape) != 4 or not all(shape[1:]):
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            continue
        found.append(
            Conv(
                name=node.output[0],
                outputs=weights[0],
                inputs=shape[1],
                kernel=weights[2:],
                strides=tuple(attributes.get("strides", (1, 1))),
                pads=tuple(attributes.get("pads", (0, 0, 0, 0))),
                size=shape[2:],
                source=node.input[0],
                weights=node.input[1],
                bias=node.input[2] if len(node.input) > 2 else "",
                groups=attributes.get("group", 1),
                dilations=tuple(attributes.get("dilations", (1, 1))),
                quantized=node.input[1] in dequantized,
            )
        )
    return tuple(found)


def alone(model: bytes, conv: Conv) -> bytes:
    """A model of this convolution only: `x` float32 [n, inputs, height, width] -> a tensor by the convolution's name."""
    from onnx import TensorProto, helper

    parsed = source.parse(model)
    node = next(n for n in parsed.graph.node if conv.name in n.output)
    extra = [n for n in parsed.graph.node if n.op_type in ("Constant", "Identity") and n.output[0] in node.input[1:]]
    names = {*node.input[1:], *(name for n in extra for name in n.input)}
    constants = [t for t in parsed.graph.initializer if t.name in names]
    node.input[0] = "x"
    graph = helper.make_graph(
        [*extra, node], "alone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", conv.inputs, *conv.size])],
        [helper.make_tensor_value_info(conv.name, TensorProto.FLOAT, ["n", conv.outputs, *conv.made])], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=parsed.opset_import, ir_version=parsed.ir_version)
    return bytes(made.SerializeToString(deterministic=True))


def read_by(model: bytes, wanted: tuple[Conv, ...], batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Conv.name -> what goes into it for this batch (float32 [n, 3, px, px])."""
    from onnx import TensorProto, helper

    from edged import engine

    parsed = source.parse(model)
    there = [o.name for o in parsed.graph.output]
    names = [n for n in dict.fromkeys(conv.source for conv in wanted) if n not in there]
    entry = {i.name for i in parsed.graph.input}
    del parsed.graph.output[1:]
    for name in names:
        if name not in entry:
            parsed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    made = engine.load(parsed.SerializeToString(), runtime=engine.runtimes()[-1]).run(batch)
    found = dict(zip((o.name for o in parsed.graph.output), made, strict=True))
    return {conv.name: found.get(conv.source, batch) for conv in wanted}


def replaced(model: bytes, rewrites: dict[str, Rewrite]) -> bytes:
    """The same model with these convolutions (by `Conv.name`) written otherwise. Raises KeyError for one that is none."""
    import onnx

    parsed, there = source.parse(model), {conv.name: conv for conv in convs(model)}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in parsed.graph.initializer}
    taken = {*stored, *(name for node in parsed.graph.node for name in node.output)}
    drafts = {}
    for name, rewrite in rewrites.items():
        stem = name
        while any(other.startswith(f"{stem}/") for other in taken):
            stem += "_"
        draft = drafts[name] = Draft(there[name], stem, stored.get(there[name].weights))
        rewrite(draft)
        draft.nodes[-1].output[0] = name
    nodes = list(parsed.graph.node)
    del parsed.graph.node[:]
    for node in nodes:
        written = drafts[node.output[0]].nodes if node.op_type == "Conv" and node.output[0] in drafts else [node]
        parsed.graph.node.extend(written)
    for draft in drafts.values():
        parsed.graph.initializer.extend(draft.constants)
    read = {name for node in parsed.graph.node for name in node.input} | {o.name for o in parsed.graph.output}
    kept = [t for t in parsed.graph.initializer if t.name in read]
    del parsed.graph.initializer[:]
    parsed.graph.initializer.extend(kept)
    onnx.checker.check_model(parsed)
    return bytes(parsed.SerializeToString(deterministic=True))
