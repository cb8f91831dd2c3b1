"""Where the tensors lie in an ONNX file: runs of little-endian numbers, found without the `onnx` package.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edged.engine import onnx_file, protobuf
from edged.errors import Refused

LEAST = 32  # bytes of a tensor that is worth more than being part of the graph
_MAX_DEPTH = 16
_DIMS, _TYPE, _FLOATS, _NAME, _RAW, _DOUBLES = 1, 2, 4, 8, 9, 10
_ITEM = {1: 4, 4: 2, 5: 2, 6: 4, 7: 8, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}  # bytes; all others 1
_REALS = {1: 4, 10: 2, 11: 8}  # float, float16, double: bytes of one
# For each message the fields that lead to tensors, and the kind of message that they hold.
_WAYS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True)
class Tensor:
    """`start`, `size`: bytes of the file. `item`: bytes of one number, 1, 2, 4 or 8. `dims` as declared. `real`: IEEE 754."""

    name: str
    start: int
    size: int
    item: int
    dims: tuple[int, ...]
    real: bool = False


def find(model: bytes) -> list[Tensor]:
    """In the order of the file. Raises Refused (bad_model): not an ONNX model, or tensors that lie in another file."""
    try:
        found = list(_find(memoryview(model), 0, "model", 0))
    except (ValueError, IndexError, UnicodeDecodeError) as e:
        raise Refused(f"not an ONNX model: {e}", code="bad_model") from e
    return found


def not_numbers(model: bytes) -> list[str]:
    """Names of the tensors from LEAST bytes up that hold a NaN or an infinity, each once. Raises Refused as `find`."""
    found: dict[str, None] = {}
    for t in find(model):
        if t.real:
            values = np.frombuffer(model, f"<f{t.item}", t.size // t.item, t.start)
            if not np.isfinite(values).all():
                found[t.name] = None
    return list(found)


def _find(message: memoryview, start: int, kind: str, depth: int) -> Iterator[Tensor]:
    if kind == "tensor":
        yield from _tensor(message, start)
        return
    if depth > 3 * _MAX_DEPTH:
        raise ValueError(f"its subgraphs are nested more than {_MAX_DEPTH} deep")
    graphs = 0
    for number, wire, raw, whole in protobuf.fields(message):
        start += len(whole)
        if wire == protobuf.LEN and number in _WAYS[kind]:
            graphs += kind == "model"
            yield from _find(raw, start - len(raw), _WAYS[kind][number], depth + 1)
    if kind == "model" and not graphs:
        raise ValueError("it has no graph")


def _tensor(message: memoryview, start: int) -> Iterator[Tensor]:
    onnx_file._check_tensor(message)
    name, kind, dims, runs = "", 0, [], []
    for number, wire, raw, whole in protobuf.fields(message):
        start += len(whole)
        if number == _DIMS and wire == protobuf.VARINT:
            dims.append(protobuf.varint(raw, 0)[0])
        elif number == _DIMS and wire == protobuf.LEN:
            dims += protobuf.varints(raw)
        elif number == _TYPE and wire == protobuf.VARINT:
            kind = protobuf.varint(raw, 0)[0]
        elif number == _NAME and wire == protobuf.LEN:
            name = bytes(raw).decode()
        elif number in (_RAW, _FLOATS, _DOUBLES) and wire == protobuf.LEN and len(raw) >= LEAST:
            runs.append((number, start - len(raw), len(raw)))
    for number, at, size in runs:
        item = {_FLOATS: 4, _DOUBLES: 8}.get(number) or min(8, _ITEM.get(kind, 1))
        item = item if size % item == 0 else 1
        known = tuple(dims) if _product(dims) * item == size else (size // item,)
        yield Tensor(name, at, size, item, known, _REALS.get(kind) == item)


def _product(dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total
