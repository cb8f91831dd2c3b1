"""What a model file may be, judged on its bytes before any runtime sees them, without the `onnx` package.

`judge` takes one self-contained ONNX file whose operators are all ONNX's own, and refuses all else with a sentence:
other formats (pickles and archives first of all), tensors in other files, functions, training graphs, custom operators,
tensors whose declared size is not that of their data, sizes, numbers and depths beyond the caps below, a graph that
stands twice (protobuf would join the two), an input that is no picture, outputs that are no classes.

Guarantees: at most MAX_FIELDS protobuf fields are looked at and nothing is allocated for what a file merely declares.
Does not guarantee: that the graph makes sense, ends, or fits into memory when it runs; that is tried in a child.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edged.engine import onnx_file, protobuf
from edged.engine.onnx_file import (
    ATTRIBUTE_G,
    ATTRIBUTE_GRAPHS,
    ATTRIBUTE_SPARSE,
    ATTRIBUTE_SPARSES,
    ATTRIBUTE_T,
    ATTRIBUTE_TENSORS,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_SPARSE,
    GRAPH_VALUE_INFO,
    MODEL_FUNCTIONS,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    TENSOR_NAME,
    TENSOR_TYPE_SHAPE,
    TYPE_TENSOR,
    VALUE_NAME,
    VALUE_TYPE,
    Takes,
)
from edged.errors import Refused

MAX_BYTES = 64 * 2**20
MAX_FIELDS = 1_000_000
MAX_NODES = 20_000  # real classifiers have some hundreds
MAX_DEPTH = 4  # of graphs within graphs
MAX_RANK = 8
MAX_SIDE = 2**24  # of any one dimension
MAX_ELEMENTS = 2**28  # of any one tensor
MAX_OUTPUTS = 8
OWN_DOMAINS = ("", "ai.onnx")

_MODEL_TRAINING, _NODE_OP, _NODE_DOMAIN, _DIM_VALUE = 20, 4, 7, 1
_DIMS, _TYPE, _SEGMENT, _RAW = 1, 2, 3, 9
_FLOATS, _INT32S, _STRINGS, _INT64S, _DOUBLES, _UINT64S = 4, 5, 6, 7, 10, 11
# TensorProto.DataType -> bits, and the typed field that may hold its numbers. Text and complex numbers are not taken.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16} | dict.fromkeys(
    range(17, 21), 8
)
_BITS |= {21: 4, 22: 4}
_TYPED = {1: _FLOATS, 7: _INT64S, 11: _DOUBLES, 12: _UINT64S, 13: _UINT64S}  # all others: int32_data
_FIXED = {_FLOATS: 4, _DOUBLES: 8}

_OTHERS = (
    (b"\x80", "a Python pickle"),
    (b"PK", "a zip archive (as PyTorch and numpy save)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
    (b"<", "an XML document"),
    (b"{", "a JSON document"),
)


@dataclass(frozen=True)
class Facts:
    """What was found. `px` and `classes` are None where the file leaves them open."""

    takes: Takes
    px: int | None
    classes: int | None
    nodes: int
    tensors: int


def judge(data: bytes, *, classes: int | None = None, px: int | None = None, most: int = MAX_BYTES) -> Facts:
    """Raises Refused (codes bad_model, too_large) with what is wrong.

    `classes`, `px`: how many classes its first output should have, and its input's side in pixels, where known.
    """
    if len(data) > most:
        raise Refused(f"a model of {len(data)} bytes is too large ({most} at most)", code="too_large")
    for magic, words in _OTHERS:
        if data.startswith(magic):
            raise Refused(f"the file is {words}, not an ONNX model", code="bad_model")
    walk = _Walk()
    try:
        graph = walk.model(memoryview(data))
        facts = onnx_file.check(data)
        entry, side = _side(walk, graph, facts.input_name, facts.takes)
        columns = _columns(walk, graph)
    except (ValueError, IndexError, OverflowError) as e:
        raise Refused(f"the model cannot be taken: {e}", code="bad_model") from e
    if px is not None and side is not None and side != px:
        raise Refused(f"its input {entry!r} has {side} pixels a side where {px} are expected", code="bad_model")
    if classes is not None and columns is not None and columns != classes:
        raise Refused(f"it tells {columns} classes apart where {classes} are expected", code="bad_model")
    return Facts(facts.takes, side, columns, walk.nodes, walk.tensors)


class _Walk:
    """Once through everything; counts as it goes."""

    def __init__(self) -> None:
        self.left, self.nodes, self.tensors = MAX_FIELDS, 0, 0

    def fields(self, message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        for number, kind, raw, _ in protobuf.fields(message):
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            if number >= 1 << 29:  # parsers differ in what they make of it
                raise ValueError("a field has a number that there is not")
            yield number, kind, raw

    def model(self, model: memoryview) -> memoryview:
        graphs = []
        for number, kind, raw in self.fields(model):
            if number == MODEL_GRAPH and kind == protobuf.LEN:
                graphs.append(raw)
            elif number == MODEL_FUNCTIONS:
                raise ValueError("it brings functions of its own")
            elif number == _MODEL_TRAINING:
                raise ValueError("it brings a graph for training")
        if len(graphs) != 1:
            raise ValueError(f"it has {len(graphs)} graphs where one is needed")
        self.graph(graphs[0], 0)
        return graphs[0]

    def graph(self, graph: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ValueError(f"its graphs are nested more than {MAX_DEPTH} deep")
        for number, kind, raw in self.fields(graph):
            if kind != protobuf.LEN:
                continue
            if number == GRAPH_INITIALIZER:
                self.tensor(raw)
            elif number == GRAPH_SPARSE:
                raise ValueError("it has sparse tensors")
            elif number == GRAPH_NODE:
                self.node(raw, depth)
            elif number in (GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO):
                self.shape(raw)

    def node(self, node: memoryview, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} operators")
        for number, kind, raw in self.fields(node):
            if kind != protobuf.LEN:
                continue
            if number == _NODE_DOMAIN and (domain := bytes(raw).decode()) not in OWN_DOMAINS:
                raise ValueError(f"it uses operators beyond ONNX's own ({ascii(domain[:40])[1:-1]})")
            if number == NODE_ATTRIBUTE:
                self.attribute(raw, depth)

    def attribute(self, attribute: memoryview, depth: int) -> None:
        for number, kind, raw in self.fields(attribute):
            if kind != protobuf.LEN:
                continue
            if number in (ATTRIBUTE_T, ATTRIBUTE_TENSORS):
                self.tensor(raw)
            elif number in (ATTRIBUTE_G, ATTRIBUTE_GRAPHS):
                self.graph(raw, depth + 1)
            elif number in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES):
                raise ValueError("it has sparse tensors")

    def tensor(self, tensor: memoryview) -> None:
        """One tensor: here, of a known type, and as long as it says."""
        self.tensors += 1
        onnx_file._check_tensor(tensor)
        name = ascii(protobuf.text(tensor, TENSOR_NAME))[1:81]
        dims: list[int] = []
        element, runs = 0, 0
        held: dict[int, int] = {}
        for number, kind, raw in self.fields(tensor):
            if number == _DIMS:
                dims += islice(protobuf.varints(raw), MAX_RANK + 1)  # not packed, it is one number
            elif number == _TYPE and kind == protobuf.VARINT:
                element = protobuf.varint(raw, 0)[0]
            elif number in (_SEGMENT, _STRINGS):
                raise ValueError(f"tensor {name!r} is cut into segments, or text")
            elif number in (_RAW, _FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S):
                runs += number == _RAW
                held[number] = held.get(number, 0) + _numbers(number, kind, raw)
        if element not in _BITS:
            raise ValueError(f"tensor {name!r} is of a type that is not taken ({element})")
        count = _elements(dims, f"tensor {name!r}")
        held = {k: n for k, n in held.items() if n}
        where = next(iter(held), _RAW)
        bits = _BITS[element]
        wanted = (count * bits + 7) // 8 if where == _RAW else (count + 1) // 2 if bits == 4 else count
        fits = where in (_RAW, _TYPED.get(element, _INT32S))
        if len(held) > 1 or runs > 1 or not fits or held.get(where, 0) != wanted:
            raise ValueError(f"tensor {name!r} does not hold the {count} numbers that its shape asks for")

    def shape(self, value: memoryview) -> list[int | None] | None:
        """The shape of a value, None for an open side; None = there is none. Raises ValueError beyond the caps."""
        found: list[int | None] | None = None
        name = ascii(protobuf.text(value, VALUE_NAME))[1:81]
        for tensor in self._inside(value, VALUE_TYPE, TYPE_TENSOR):
            for shape in self._inside(tensor, TENSOR_TYPE_SHAPE):
                if found is not None:
                    raise ValueError(f"{name!r} has more than one shape")
                found = []
                for dim in self._inside(shape, 1):
                    whole = [raw for n, kind, raw in self.fields(dim) if (n, kind) == (1, protobuf.VARINT)]
                    sides = [protobuf.varint(raw, 0)[0] for raw in whole]
                    found.append(sides[-1] if sides else None)
        _elements([side for side in found or () if side is not None], f"{name!r}")
        return found

    def _inside(self, message: memoryview, *path: int) -> Iterator[memoryview]:
        for number, kind, raw in self.fields(message):
            if number == path[0] and kind == protobuf.LEN:
                yield from self._inside(raw, *path[1:]) if len(path) > 1 else (raw,)


def _elements(dims: list[int], what: str) -> int:
    if len(dims) > MAX_RANK:
        raise ValueError(f"{what} has {len(dims)} dimensions")
    count = 1
    for dim in dims:
        if dim > MAX_SIDE:  # a negative one is a number of 64 bits
            raise ValueError(f"{what} has a dimension of {dim if dim < 1 << 63 else dim - (1 << 64)}")
        count *= dim
    if count > MAX_ELEMENTS:
        raise ValueError(f"{what} has {count} elements")
    return count


def _numbers(field: int, kind: int, raw: memoryview) -> int:
    """How many numbers (raw: bytes) one field holds."""
    if kind != protobuf.LEN:
        return 1
    if field == _RAW:
        return len(raw)
    if field in _FIXED:
        return len(raw) // _FIXED[field] if len(raw) % _FIXED[field] == 0 else -1
    return int(np.count_nonzero(np.frombuffer(raw, np.uint8) < 0x80))


def _values(walk: _Walk, graph: memoryview, field: int) -> dict[str, list[int | None] | None]:
    return {
        protobuf.text(raw, VALUE_NAME): walk.shape(raw)
        for number, kind, raw in walk.fields(graph)
        if number == field and kind == protobuf.LEN
    }


def _side(walk: _Walk, graph: memoryview, name: str, takes: Takes) -> tuple[str, int | None]:
    """The input's name and its side in pixels: float32 [n, 3, px, px] or uint8 [n, px, px, 3]."""
    shape = _values(walk, graph, GRAPH_INPUT)[name]
    if shape is None:
        return name, None
    if len(shape) != 4:
        raise ValueError(f"its input {name!a} has {len(shape)} dimensions where a picture has four")
    colours, sides = (shape[1], shape[2:]) if takes == "float32" else (shape[3], shape[1:3])
    if colours not in (3, None):
        raise ValueError(f"its input {name!a} has {colours} colours where a picture has three")
    if None not in sides and sides[0] != sides[1]:
        raise ValueError(f"its input {name!a} is {sides[1]}x{sides[0]}, not square")
    return name, sides[0] if sides[0] is not None else sides[1]


def _columns(walk: _Walk, graph: memoryview) -> int | None:
    """The classes of the first output, [n, classes]."""
    outputs = _values(walk, graph, GRAPH_OUTPUT)
    if not 1 <= len(outputs) <= MAX_OUTPUTS:
        raise ValueError(f"it has {len(outputs)} outputs where one is needed")
    name, shape = next(iter(outputs.items()))
    if shape is None:
        return None
    if len(shape) != 2:
        raise ValueError(f"its output {name!a} has {len(shape)} dimensions where rows of classes have two")
    return shape[1]
