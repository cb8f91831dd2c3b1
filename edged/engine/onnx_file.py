"""What must be known of an ONNX file before a runtime sees it, read from its protobuf bytes without the `onnx` package.

Guarantees of `check`: the bytes are one ModelProto with a graph, no tensor anywhere in it lies in another file, and
exactly one input is not a constant; that one is float32 or uint8. Does not guarantee: that the graph makes sense (the runtime
decides that).

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edged.engine import protobuf
from edged.errors import Refused

Takes = Literal["float32", "uint8"]

_MAX_DEPTH = 16  # of subgraphs; real models have at most a few

MODEL_OPSET, MODEL_GRAPH, MODEL_FUNCTIONS = 8, 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO, GRAPH_SPARSE = 1, 5, 11, 12, 13, 15
NODE_ATTRIBUTE, FUNCTION_NODE, FUNCTION_ATTRIBUTE = 5, 7, 11
ATTRIBUTE_T, ATTRIBUTE_G, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = (
    5,
    6,
    10,
    11,
    22,
    23,
)
TENSOR_NAME, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 13, 14
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_TYPE_ELEM, TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIM, DIM_VALUE = 1, 1
FLOAT, UINT8 = 1, 2
TAKES: dict[int, Takes] = {FLOAT: "float32", UINT8: "uint8"}


@dataclass(frozen=True)
class Facts:
    """What a graph's own header says."""

    input_name: str
    takes: Takes
    domains: tuple[str, ...]  # of the operator sets that it imports; "" is ONNX's own
    outputs: tuple[str, ...]  # names, in the order in which an engine answers
    shape: tuple[int, ...] = ()  # of the input; 0 = any


def check(data: bytes) -> Facts:
    """Raises Refused (code bad_model) for bytes that are not one self-contained ONNX model with one input of
    float32 or uint8.
    """
    try:
        return _check(memoryview(data))
    except (ValueError, IndexError, UnicodeDecodeError) as e:
        raise Refused(f"not an ONNX model: {e}", code="bad_model") from e


def with_input_shape(data: bytes, input_name: str, shape: Sequence[int]) -> bytes:
    """The same model with the shape of one input replaced; sizes noted for outputs and inner values are dropped."""
    dims = b"".join(protobuf.block(SHAPE_DIM, protobuf.whole(DIM_VALUE, n)) for n in shape)
    tensor = protobuf.whole(TENSOR_TYPE_ELEM, FLOAT) + protobuf.block(TENSOR_TYPE_SHAPE, dims)
    value = _value(input_name, tensor)
    out: list[bytes | memoryview] = []
    for number, _kind, raw, whole in protobuf.fields(memoryview(data)):
        if number == MODEL_GRAPH:
            whole = memoryview(protobuf.block(MODEL_GRAPH, _reshape_graph(raw, input_name, value)))
        out.append(whole)
    return b"".join(out)


def _check(model: memoryview) -> Facts:
    graph, domains = None, []
    for number, kind, raw, _ in protobuf.fields(model):
        if number == MODEL_GRAPH and kind == protobuf.LEN:
            graph = raw
        elif number == MODEL_OPSET and kind == protobuf.LEN:
            domains.append(protobuf.text(raw, 1))
        elif number == MODEL_FUNCTIONS and kind == protobuf.LEN:
            for inner, _kind, node, _whole in protobuf.fields(raw):
                if inner == FUNCTION_NODE:
                    _check_node(node, 1)
                elif inner == FUNCTION_ATTRIBUTE:
                    _check_attribute(node, 1)
    if graph is None or not domains:
        raise ValueError("it has no graph" if graph is None else "it names no operator set")
    constants = _check_graph(graph, 0)
    inputs, outputs = [], []
    for number, _kind, raw, _ in protobuf.fields(graph):
        if number == GRAPH_OUTPUT:
            outputs.append(protobuf.text(raw, VALUE_NAME))
        elif number == GRAPH_INPUT and protobuf.text(raw, VALUE_NAME) not in constants:
            inputs.append((protobuf.text(raw, VALUE_NAME), _element_type(raw), _shape(raw)))
    if len(inputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs where exactly one is needed")
    name, element, shape = inputs[0]
    if element not in TAKES:
        raise ValueError(f"its input {name!r} is not float32 and not uint8")
    return Facts(name, TAKES[element], tuple(domains), tuple(outputs), shape)


def _check_graph(graph: memoryview, depth: int) -> set[str]:
    """Look at every tensor; returns the names of the constants."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"its subgraphs are nested more than {_MAX_DEPTH} deep")
    constants = set()
    for number, kind, raw, _ in protobuf.fields(graph):
        if kind != protobuf.LEN:
            continue
        if number == GRAPH_INITIALIZER:
            _check_tensor(raw)
            constants.add(protobuf.text(raw, TENSOR_NAME))
        elif number == GRAPH_SPARSE:
            _check_sparse(raw)
        elif number == GRAPH_NODE:
            _check_node(raw, depth)
    return constants


def _check_node(node: memoryview, depth: int) -> None:
    for number, kind, raw, _ in protobuf.fields(node):
        if number == NODE_ATTRIBUTE and kind == protobuf.LEN:
            _check_attribute(raw, depth)


def _check_attribute(attribute: memoryview, depth: int) -> None:
    for number, kind, raw, _ in protobuf.fields(attribute):
        if kind != protobuf.LEN:
            continue
        if number in (ATTRIBUTE_T, ATTRIBUTE_TENSORS):
            _check_tensor(raw)
        elif number in (ATTRIBUTE_G, ATTRIBUTE_GRAPHS):
            _check_graph(raw, depth + 1)
        elif number in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES):
            _check_sparse(raw)


def _check_sparse(tensor: memoryview) -> None:
    for number, kind, raw, _ in protobuf.fields(tensor):
        if number in (1, 2) and kind == protobuf.LEN:  # SparseTensorProto.values, .indices
            _check_tensor(raw)


def _check_tensor(tensor: memoryview) -> None:
    for number, kind, raw, _ in protobuf.fields(tensor):
        location = number == TENSOR_DATA_LOCATION and kind == protobuf.VARINT and bytes(raw) != b"\x00"
        if location or number == TENSOR_EXTERNAL_DATA:
            raise ValueError(f"tensor {protobuf.text(tensor, TENSOR_NAME)[:80]!r} lies in another file")


def _tensor_type(value: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a value's type, where it is a tensor's."""
    for number, _k, kind_of, _ in protobuf.fields(value):
        if number == VALUE_TYPE:
            for inner, _k2, tensor, _w in protobuf.fields(kind_of):
                if inner == TYPE_TENSOR:
                    for field, kind, raw, _w2 in protobuf.fields(tensor):
                        yield field, kind, raw


def _element_type(value: memoryview) -> int:
    element = 0
    for field, kind, raw in _tensor_type(value):
        if field == TENSOR_TYPE_ELEM and kind == protobuf.VARINT:
            element = protobuf.varint(raw, 0)[0]
    return element


def _shape(value: memoryview) -> tuple[int, ...]:
    """() where none is written, 0 for a side without a number."""
    shape: list[int] = []
    for field, kind, raw in _tensor_type(value):
        if field == TENSOR_TYPE_SHAPE and kind == protobuf.LEN:
            shape = [
                sum(
                    protobuf.varint(number, 0)[0]
                    for side, k, number, _ in protobuf.fields(dim)
                    if side == DIM_VALUE and k == protobuf.VARINT
                )
                for inner, _k, dim, _w in protobuf.fields(raw)
                if inner == SHAPE_DIM
            ]
    return tuple(shape)


def _reshape_graph(graph: memoryview, input_name: str, value: bytes) -> bytes:
    out: list[bytes | memoryview] = []
    for number, _kind, raw, whole in protobuf.fields(graph):
        if number == GRAPH_INPUT and protobuf.text(raw, VALUE_NAME) == input_name:
            out.append(protobuf.block(GRAPH_INPUT, value))
        elif number == GRAPH_OUTPUT:
            out.append(protobuf.block(GRAPH_OUTPUT, _without_shape(raw)))
        elif number != GRAPH_VALUE_INFO:
            out.append(whole)
    return b"".join(out)


def _without_shape(value: memoryview) -> bytes:
    tensor = protobuf.whole(TENSOR_TYPE_ELEM, _element_type(value))
    if sides := len(_shape(value)):  # OpenCV wants to know how many there are
        tensor += protobuf.block(TENSOR_TYPE_SHAPE, sides * protobuf.block(SHAPE_DIM, b""))
    return _value(protobuf.text(value, VALUE_NAME), tensor)


def _value(name: str, tensor: bytes) -> bytes:
    """A ValueInfoProto of a tensor's type."""
    return protobuf.block(VALUE_NAME, name.encode()) + protobuf.block(VALUE_TYPE, protobuf.block(TYPE_TENSOR, tensor))
