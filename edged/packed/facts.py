"""What is in a packed model or a delta, tensor by tensor."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from edged.errors import Refused
from edged.packed import container, delta, parts


@dataclass(frozen=True)
class Part:
    """One tensor. `size` in the ONNX file and `packed` in bytes; the latter to a byte or two: tensors share streams."""

    name: str
    dims: tuple[int, ...]
    size: int
    packed: int
    coder: str


@dataclass(frozen=True)
class Facts:
    sha256: str  # of the ONNX file
    size: int  # of the ONNX file, bytes
    packed: int  # of the packed file, bytes
    graph: int  # bytes of the ONNX file outside of tensors
    graph_packed: int  # what they take in the packed file
    head: int  # bytes of the packed file that are neither: hash, lengths, and where the tensors lie
    parts: tuple[Part, ...]  # with the graph and the head they are all of the packed file

    @property
    def ratio(self) -> float:
        return self.size / self.packed


def look(packed: bytes, *, most: int = container.MOST) -> Facts:
    """Reads all of it: what it says is true. Raises as `container.unpack` does."""
    runs: list[container.Run] = []
    onnx = b"".join(bytes(piece) for piece in container.stream(io.BytesIO(packed), most=most, runs=runs))
    graph = container._open(io.BytesIO(packed), most)[0].graph_packed
    return _facts(onnx, len(packed), graph, runs, parts.find(onnx), "")


def look_delta(old: bytes, data: bytes, *, most: int = container.MOST) -> Facts:
    """The same of a delta; `coder` is what the tensor was coded as. Raises as `delta.rebuild` does."""
    runs: list[container.Run] = []
    new = b"".join(bytes(piece) for piece in delta.stream(old, io.BytesIO(data), most=most, runs=runs))
    inserted = delta._open(io.BytesIO(data), most)[0].inserts_packed
    try:
        tensors = parts.find(new)
    except Refused:
        tensors = []
    return _facts(new, len(data), inserted, runs, tensors, "the same")


def _facts(
    onnx: bytes, packed: int, graph: int, runs: Sequence[container.Run], tensors: Sequence[parts.Tensor], none: str
) -> Facts:
    """`graph`: bytes that tell of all but the tensors; `none`: what coded a tensor without a run."""
    found = []
    for tensor in tensors:
        own = [r for r in runs if tensor.start <= r.start < tensor.start + tensor.size]
        coders = "+".join(sorted({r.coder for r in own})) or none
        found.append(Part(tensor.name, tensor.dims, tensor.size, sum(r.packed for r in own), coders))
    size = sum(p.size for p in found)
    head = packed - graph - sum(p.packed for p in found)
    return Facts(hashlib.sha256(onnx).hexdigest(), len(onnx), packed, len(onnx) - size, graph, head, tuple(found))
