"""The preparation of a picture moved into the graph: the delivered file takes what the camera holds, uint8 BGR
[n, px, px, 3], so that training and camera cannot differ in channel order, layout or number format.

    image uint8 NHWC -> Cast -> Transpose -> what took float32 RGB NCHW before

The order of the channels costs nothing where the first layer is a convolution behind element-wise operations: its kernels
are stored in the other order. Elsewhere a Gather turns it.

Guarantees: the answers are those of the float file, to the rounding of a sum taken in another order; metadata, output and
free batch stay; a file that takes uint8 already is left as it is, byte for byte. The size is not changed in the graph:
`preprocess` resizes on both ends.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from edged.engine import onnx_file
from edged.errors import Refused
from edged.retrain import source

INPUT = "edged.input"  # key of metadata_props; its value says what the file takes
BGR = "uint8 bgr nhwc"
_ONE_BY_ONE = ("Mul", "Sub", "Add", "Div", "QuantizeLinear", "DequantizeLinear")


def inside(model: bytes) -> bytes:
    """The file with the preparation in it. Raises Refused for a file whose input is not float32 [n, 3, px, px]."""
    from onnx import TensorProto, helper, numpy_helper

    if onnx_file.check(model).takes == "uint8":
        return model
    parsed = source.parse(model)
    graph = parsed.graph
    constants = {t.name for t in graph.initializer}
    entry = next(i for i in graph.input if i.name not in constants)
    dims = entry.type.tensor_type.shape.dim
    sides = [d.dim_value for d in dims]
    if len(sides) != 4 or sides[1] != 3 or sides[2] != sides[3] or sides[2] < 8:
        raise Refused(f"the model's input is {sides}, not [n, 3, px, px]", code="bad_model")
    px, name = sides[2], entry.name
    picture, planes = f"{name}/float", f"{name}/planes"
    if taken := {picture, planes} & _values(graph):
        raise Refused(f"the model has a value called {min(taken)!r} already", code="bad_model")
    _rename_uses(graph, name, planes)
    before = [
        helper.make_node("Cast", [name], [picture], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [picture], [planes], perm=[0, 3, 1, 2]),
    ]
    kernels = _first_kernels(graph, planes)
    if kernels is None:
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), f"{name}/order"))
        before[1].output[0] = f"{name}/bgr"
        before.append(helper.make_node("Gather", [f"{name}/bgr", f"{name}/order"], [planes], axis=1))
    else:
        turned = np.ascontiguousarray(numpy_helper.to_array(kernels)[:, ::-1])
        kernels.CopyFrom(numpy_helper.from_array(turned, kernels.name))
    for node in reversed(before):
        graph.node.insert(0, node)
    kind = entry.type.tensor_type
    kind.elem_type = TensorProto.UINT8
    first = dims[0].dim_param or dims[0].dim_value or "n"
    entry.CopyFrom(helper.make_tensor_value_info(name, TensorProto.UINT8, [first, px, px, 3]))
    return source.with_metadata(bytes(parsed.SerializeToString(deterministic=True)), {INPUT: BGR})


def turned(parsed: Any) -> str:
    """Name of the tensor of kernels [out, 3, k, k] that `inside` has put into the other order in a parsed file; "" = none."""
    if INPUT not in {p.key for p in parsed.metadata_props}:
        return ""
    graph = parsed.graph
    constants = {t.name for t in graph.initializer}
    planes = next((f"{i.name}/planes" for i in graph.input if i.name not in constants), "")
    if not any(node.op_type == "Transpose" and planes in node.output for node in graph.node):
        return ""
    kernels = _first_kernels(graph, planes)
    return "" if kernels is None else str(kernels.name)


def _values(graph: Any) -> set[str]:
    return {v for node in graph.node for v in (*node.input, *node.output)} | {t.name for t in graph.initializer}


def _rename_uses(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for i, value in enumerate(node.input):
            if value == old:
                node.input[i] = new


def _first_kernels(graph: Any, name: str) -> Any | None:
    """The tensor [out, 3, k, k] of the first convolution's kernels where nothing before it looks at channels; None where it
    is not so simple: another kind of layer, kernels that serve twice, a number for each channel on the way.
    """
    tensors = {t.name: t for t in graph.initializer}
    makers = {v: node for node in graph.node for v in node.output}
    uses = Counter(v for node in graph.node for v in node.input)
    while uses[name] == 1:
        node = next(n for n in graph.node if name in n.input)
        if node.op_type == "Conv" and node.input[0] == name:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            return _own(node.input[1], tensors, makers, uses) if groups == 1 else None
        others = [v for v in node.input if v and v != name]
        if node.op_type not in _ONE_BY_ONE or any(_size(v, tensors, makers) != 1 for v in others):
            return None
        name = node.output[0]
    return None


def _own(name: str, tensors: dict[str, Any], makers: dict[str, Any], uses: Counter[str]) -> Any | None:
    """The initialiser behind the kernels, through a DequantizeLinear along the outputs."""
    node = makers.get(name)
    if node is not None and node.op_type == "DequantizeLinear" and uses[name] == 1:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if axis != 0 and _size(node.input[1], tensors, makers) != 1:
            return None
        name = node.input[0]
    tensor = tensors.get(name)
    return tensor if tensor is not None and uses[name] == 1 and list(tensor.dims)[1:2] == [3] else None


def _size(name: str, tensors: dict[str, Any], makers: dict[str, Any]) -> int:
    """How many numbers a constant holds; 0 for what is none."""
    if name in tensors:
        return int(np.prod(list(tensors[name].dims), dtype=np.int64))
    node = makers.get(name)
    if node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return _size(node.input[0], tensors, makers)
    if node is None or node.op_type != "Constant":
        return 0
    value = next((a.t for a in node.attribute if a.name == "value"), None)
    return 0 if value is None else int(np.prod(list(value.dims), dtype=np.int64))
