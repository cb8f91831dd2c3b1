"""The packed file: a head that says what comes, the graph's bytes, then the tensors in the order of the ONNX file.

    "EPK" version | SHA-256 of the ONNX file | five lengths | CRC-32 | graph, deflated | side stream | body

Guarantees of `unpack`: the very bytes that were packed, or an error: Corrupt (bad_packed, cut_short, too_big) or, for
something that is no packed model at all, Refused (not_packed). Nothing is allocated that a length in the head claims
before that length is below `most`. Of `stream`: the same, but its last bytes come before the hash is compared: what came
may be used only when it has ended. Does not guarantee that the ONNX file is a good model. docs/format.md.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edged.engine.protobuf import leb128
from edged.errors import Corrupt, Refused
from edged.packed import parts, sparse, tensors
from edged.packed.dictionary import GRAPH_WORDS
from edged.packed.streams import Reader, Writer

MAGIC, VERSION = b"EPK", 2
MOST = 1 << 30  # bytes of an unpacked file, unless the caller knows better
_LENGTHS = 5
_LITERALS_AT_ONCE = 1 << 16
_SLACK = 64  # bytes that a coder may take above a tensor's own size


@dataclass(frozen=True)
class Head:
    sha256: str
    size: int  # of the ONNX file
    graph: int  # bytes outside of tensors
    graph_packed: int
    side: int
    body: int


@dataclass(frozen=True)
class Run:
    """One run of a tensor as it was read: bytes in the ONNX file, bytes packed (about: streams are shared), coder."""

    start: int
    size: int
    packed: int
    coder: str


def pack(onnx: bytes, *, coder: str = "") -> bytes:
    """The packed form of an ONNX file, checked by unpacking it; `coder` forces one for every tensor (benchmarks).

    Raises Refused (bad_model): no ONNX model, or one whose tensors lie in another file.
    """
    found = parts.find(onnx)
    only = tensors.CODERS.index(coder) if coder else None
    view = np.frombuffer(onnx, np.uint8)
    writer, literals, at = Writer(), bytearray(), 0
    runs = [(run, tensor) for tensor in found for run in _runs(tensor)]
    writer.side.number("runs", len(runs))
    whole: sparse.Whole | None = None
    for run, tensor in runs:
        if run is tensor:
            whole = None
        elif run.start == tensor.start:
            whole = _whole(view[tensor.start : tensor.start + tensor.size], tensor)
        writer.side.number("gap", run.start - at)
        writer.side.number("size", run.size)
        literals += onnx[at : run.start]
        writer = tensors.write(writer, view[run.start : run.start + run.size], run.item, run.dims, only, whole)
        at = run.start + run.size
    literals += onnx[at:]
    graph = _deflate(bytes(literals))
    side = writer.side.finish()
    body = b"".join(writer.body)
    digest = hashlib.sha256(onnx).digest()
    head = MAGIC + bytes((VERSION,)) + digest
    head += b"".join(map(leb128, (len(onnx), len(literals), len(graph), len(side), len(body))))
    check = zlib.crc32(side, zlib.crc32(graph, zlib.crc32(head)))
    packed = b"".join((head, check.to_bytes(4, "little"), graph, side, body))
    del writer, body
    for _ in stream(io.BytesIO(packed), most=len(onnx)):
        pass
    return packed


def unpack(packed: bytes | BinaryIO, *, most: int = MOST) -> bytes:
    """The ONNX file. Raises Corrupt and Refused as the module says."""
    file = io.BytesIO(packed) if isinstance(packed, bytes) else packed
    head, graph, reader = _open(file, most)
    out = io.BytesIO()
    if head.size:
        out.seek(head.size - 1)
        out.write(b"\0")
    _unpack(out, file, head, graph, reader)
    return out.getvalue()  # its own bytes, not a copy: nothing looks at them any more


def _unpack(out: io.BytesIO, file: BinaryIO, head: Head, graph: bytes, reader: Reader) -> None:
    """Tensors are decoded to where they belong, everything else is copied there."""
    whole, at = np.frombuffer(out.getbuffer(), np.uint8), 0

    def room(size: int) -> NDArray[np.uint8]:
        return whole[at : at + size]

    for chunk in _pieces(file, head, graph, reader, None, room):
        piece = np.frombuffer(chunk, np.uint8)
        if not np.shares_memory(piece, whole):
            whole[at : at + len(piece)] = piece
        at += len(piece)


def stream(file: BinaryIO, *, most: int = MOST, runs: list[Run] | None = None) -> Iterator[bytes | memoryview]:
    """The ONNX file piece by piece; nothing of it is good before the end. `runs` is filled with what was read."""
    head, graph, reader = _open(file, most)
    return _pieces(file, head, graph, reader, runs, lambda size: np.empty(size, np.uint8))


def _pieces(
    file: BinaryIO, head: Head, graph: bytes, reader: Reader, runs: list[Run] | None,
    room: Callable[[int], NDArray[np.uint8]],
) -> Iterator[bytes | memoryview]:  # fmt: skip
    """`room` gives so many bytes to decode a run to, at most once for each."""
    hashed, left = hashlib.sha256(), head.size
    inflate = zlib.decompressobj(-15, zdict=GRAPH_WORDS)
    given = 0

    def literals(size: int) -> Iterator[bytes]:
        nonlocal graph, given
        given += size
        if given > head.graph:
            raise Corrupt("more graph than the head says", code="bad_packed")
        while size:
            chunk = inflate.decompress(graph, min(size, _LITERALS_AT_ONCE))
            graph = inflate.unconsumed_tail
            if not chunk:
                raise Corrupt("the graph is cut short", code="bad_packed")
            size -= len(chunk)
            hashed.update(chunk)
            yield chunk

    try:
        for _ in range(reader.side.number("runs")):
            gap, size = reader.side.number("gap"), reader.side.number("size")
            left -= gap + size
            if left < 0 or size < 1:
                raise Corrupt("tensors that are larger than their file", code="bad_packed")
            yield from literals(gap)
            before = reader.taken, reader.side.taken
            reader.most = 2 * size + _SLACK
            data, coder = tensors.read(reader, size, room)
            hashed.update(memoryview(data))  # type: ignore[arg-type]  # an array is a buffer
            if runs is not None:
                packed = reader.taken - before[0] + reader.side.taken - before[1]
                runs.append(Run(head.size - left - size, size, packed, tensors.CODERS[coder]))
            yield memoryview(data)  # type: ignore[arg-type]  # an array is a buffer
        yield from literals(left)
    except zlib.error as e:
        raise Corrupt("the graph does not inflate", code="bad_packed") from e
    if given != head.graph or reader.taken != head.body or file.read(1):
        raise Corrupt("the packed model is longer than it should be", code="bad_packed")
    if hashed.hexdigest() != head.sha256:
        raise Corrupt("the unpacked model is not the one that was packed: its SHA-256 differs", code="bad_packed")


def _open(file: BinaryIO, most: int) -> tuple[Head, bytes, Reader]:
    start = file.read(len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC:
        raise Refused("not a packed model", code="not_packed")
    version = start[-1] if len(start) > len(MAGIC) else 0
    if not 1 <= version <= VERSION:
        raise Refused(f"packed by a version of the format that is not 1 to {VERSION}", code="not_packed")
    digest = _read(file, 32)
    raw, lengths = _lengths(file, _LENGTHS)
    head = Head(digest.hex(), *lengths)
    if head.size > most:
        raise Corrupt(f"it unpacks to {head.size} bytes, more than the {most} that are allowed", code="too_big")
    if head.graph > head.size or max(head.graph_packed, head.side, head.body) > 2 * head.size + 1024:
        raise Corrupt("lengths that contradict each other", code="bad_packed")
    check = int.from_bytes(_read(file, 4), "little")
    graph, side = _read(file, head.graph_packed), _read(file, head.side)
    if zlib.crc32(side, zlib.crc32(graph, zlib.crc32(start + digest + raw))) != check:
        raise Corrupt("the head of the packed model does not match its checksum", code="bad_packed")
    return head, graph, Reader(side, file, version)


def _lengths(file: BinaryIO, count: int) -> tuple[bytes, list[int]]:
    """LEB128 numbers: as they are written, and what they are."""
    raw, lengths = b"", []
    for _ in range(count):
        value = shift = 0
        while True:
            byte = _read(file, 1)
            raw += byte
            value |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
            if shift > 56:
                raise Corrupt("a length of more than 63 bits", code="bad_packed")
        lengths.append(value)
    return raw, lengths


def _read(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise Corrupt("the packed model is cut short", code="cut_short")
    return data


def _runs(tensor: parts.Tensor) -> Iterator[parts.Tensor]:
    """A tensor in runs of whole rows of at most MAX_ITEMS numbers."""
    items, dims = tensor.size // tensor.item, tensor.dims
    row = items // dims[0] if dims and dims[0] else items
    if items <= tensors.MAX_ITEMS:
        yield tensor
        return
    step = max(1, tensors.MAX_ITEMS // row) * row if row <= tensors.MAX_ITEMS else tensors.MAX_ITEMS
    for first in range(0, items, step):
        count = min(step, items - first)
        shape = (count // row, *dims[1:]) if count % row == 0 else (count,)
        yield parts.Tensor(tensor.name, tensor.start + first * tensor.item, count * tensor.item, tensor.item, shape)


def _whole(data: NDArray[np.uint8], tensor: parts.Tensor) -> sparse.Whole | None:
    """What is known of all rows of a tensor that is more than one run."""
    if len(tensor.dims) < 2:
        return None
    matrix = data.view(f"<u{tensor.item}").reshape(tensor.dims[0], -1)
    ones = np.zeros(matrix.shape[1], np.int64)
    for row in matrix:
        ones += row != 0
    return sparse.Whole(ones, len(matrix))


def _deflate(data: bytes) -> bytes:
    best = b""
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED):
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy, GRAPH_WORDS)
        made = packer.compress(data) + packer.flush()
        best = made if not best or len(made) < len(best) else best
    return best
