"""What makes a new model file of an old one: the way to a camera that has the old one. docs/format.md, 15 to 17.

    "EPD" version | SHA-256 of the new file | SHA-256 of the old file | five lengths | CRC-32 | inserts, deflated | side
    stream | body

A tensor that has changed is a run, coded by what differs from the tensor that it was (residual.py); everything else, a
tensor that has not changed too, is copied from the old file or inserted (copies.py). A reader needs to know nothing of
ONNX. Guarantees of `rebuild`: the very bytes that `make` was given, or an error: Corrupt (bad_packed, cut_short,
too_big), or Refused where it is no delta at all (not_packed) or was made against another file (wrong_source). Nothing is
allocated that a length claims before that length is below `most`. Does not guarantee that a delta is smaller than the
packed file: whoever has both takes the smaller one.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from edged.engine.protobuf import leb128
from edged.errors import Corrupt, Refused
from edged.packed import container, parts, residual
from edged.packed.container import MOST, Run
from edged.packed.copies import Old
from edged.packed.dictionary import GRAPH_WORDS
from edged.packed.parts import Tensor
from edged.packed.streams import Reader, Writer
from edged.packed.tensors import ITEM_SIZES

MAGIC, VERSION = b"EPD", 2
_LENGTHS = 5
_AT_ONCE = 1 << 16
_SLACK = 64  # bytes that a coder may take above a tensor's own size


@dataclass(frozen=True)
class Head:
    """`sha256`, `size`: of the new file; `source`: SHA-256 of the old one; all others are bytes of the delta."""

    sha256: str
    source: str
    size: int
    inserts: int  # before they were deflated
    inserts_packed: int
    side: int
    body: int


def make(old: bytes, new: bytes, tell: Callable[[float], None] = lambda _: None) -> bytes:
    """A delta from old to new, rebuilt once to be sure. Any bytes will do; those that are no model are copied or inserted.

    Seconds of CPU for each MB that differs; `tell` is told the share that is done.
    """
    found, known = _tensors(new), _tensors(old)
    view, before = np.frombuffer(new, np.uint8), np.frombuffer(old, np.uint8)
    runs = [run for tensor, base in _pairs(found, known) for run in _runs(tensor, base, new, old)]
    copies = Old(old, _between(known, len(old)))
    writer, inserts, at, source = Writer(), bytearray(), 0, 0

    def copy_to(end: int) -> None:
        nonlocal at, source
        for insert, size, start in copies.pieces(new, at, end, source):
            writer.side.number("insert", insert)
            inserts.extend(new[at : at + insert])
            at, source = at + insert, source + insert
            if at < end:
                writer.side.number("copy", size)
            if size:
                writer.side.number("from", _folded(start - source))
                at, source = at + size, start + size

    writer.side.number("runs", len(runs))
    for run, base in runs:
        writer.side.number("gap", run.start - at)
        writer.side.number("size", run.size)
        copy_to(run.start)
        start = source if base is None else base
        writer.side.number("base", _folded(start - source))
        piece = None if base is None else before[base : base + run.size]
        writer = residual.write(writer, view[run.start : run.start + run.size], piece, run.item, run.dims)
        at, source = run.start + run.size, start + run.size
        tell(at / len(new))
    copy_to(len(new))
    packed = container._deflate(bytes(inserts)) if inserts else b""
    side, body = writer.side.finish(), b"".join(writer.body)
    head = MAGIC + bytes((VERSION,)) + hashlib.sha256(new).digest() + hashlib.sha256(old).digest()
    head += b"".join(map(leb128, (len(new), len(inserts), len(packed), len(side), len(body))))
    check = zlib.crc32(side, zlib.crc32(packed, zlib.crc32(head)))
    delta = b"".join((head, check.to_bytes(4, "little"), packed, side, body))
    for _ in stream(old, io.BytesIO(delta), most=len(new)):
        pass
    return delta


def rebuild(old: bytes, delta: bytes | BinaryIO, *, most: int = MOST) -> bytes:
    """The new file. Raises Corrupt and Refused as the module says."""
    out = io.BytesIO()
    for piece in stream(old, io.BytesIO(delta) if isinstance(delta, bytes) else delta, most=most):
        out.write(piece)
    return out.getvalue()


def stream(
    old: bytes, file: BinaryIO, *, most: int = MOST, runs: list[Run] | None = None
) -> Iterator[bytes | memoryview]:
    """The new file piece by piece; nothing of it is good before the end. `runs` is filled with what was read."""
    head, packed, reader = _open(file, most)
    if hashlib.sha256(old).hexdigest() != head.source:
        raise Refused(f"the delta is from another file, {head.source[:12]}...", code="wrong_source")
    hashed = hashlib.sha256()
    for piece in _pieces(old, head, _Inserts(packed, head.inserts), reader, runs):
        hashed.update(piece)
        yield piece
    if reader.taken != head.body or file.read(1):
        raise Corrupt("the delta is longer than it should be", code="bad_packed")
    if hashed.hexdigest() != head.sha256:
        raise Corrupt("the file is not the one that the delta was made for: its SHA-256 differs", code="bad_packed")


class _Inserts:
    """Bytes that the old file does not have, in their order."""

    def __init__(self, packed: bytes, size: int) -> None:
        self._packed, self._left = packed, size
        self._inflate = zlib.decompressobj(-15, zdict=GRAPH_WORDS)

    def take(self, size: int) -> Iterator[bytes]:
        self._left -= size
        if self._left < 0:
            raise Corrupt("more is inserted than the head says", code="bad_packed")
        while size:
            try:
                piece = self._inflate.decompress(self._packed, min(size, _AT_ONCE))
            except zlib.error as e:
                raise Corrupt("what is inserted does not inflate", code="bad_packed") from e
            self._packed = self._inflate.unconsumed_tail
            if not piece:
                raise Corrupt("what is inserted is cut short", code="bad_packed")
            size -= len(piece)
            yield piece

    def end(self) -> None:
        if self._left:
            raise Corrupt("less is inserted than the head says", code="bad_packed")


def _pieces(
    old: bytes, head: Head, inserts: _Inserts, reader: Reader, runs: list[Run] | None
) -> Iterator[bytes | memoryview]:
    side, base = reader.side, np.frombuffer(old, np.uint8)
    left, source = head.size, 0

    def copied(size: int) -> Iterator[bytes | memoryview]:
        nonlocal source
        while size:
            insert = side.number("insert")
            copy = side.number("copy") if insert < size else 0
            size -= insert + copy
            if size < 0 or not insert + copy:
                raise Corrupt("pieces that do not fit their file", code="bad_packed")
            yield from inserts.take(insert)
            source += insert
            if copy:
                source += _unfolded(side.number("from"))
                if not 0 <= source <= len(old) - copy:
                    raise Corrupt("a piece of the old file that it does not have", code="bad_packed")
                yield memoryview(old)[source : source + copy]
                source += copy

    for _ in range(side.number("runs")):
        gap, size = side.number("gap"), side.number("size")
        left -= gap + size
        if left < 0 or size < 1:
            raise Corrupt("tensors that are larger than their file", code="bad_packed")
        yield from copied(gap)
        source += _unfolded(side.number("base"))
        known = base[source : source + size] if 0 <= source <= len(old) - size else None
        reader.most = 2 * size + _SLACK
        before = reader.taken + side.taken
        data, form = residual.read(reader, size, known)
        if runs is not None:
            packed = reader.taken + side.taken - before
            runs.append(Run(head.size - left - size, size, packed, residual.FORMS[form]))
        yield memoryview(data)  # type: ignore[arg-type]  # an array is a buffer
        source += size
    yield from copied(left)
    inserts.end()


def _open(file: BinaryIO, most: int) -> tuple[Head, bytes, Reader]:
    start = file.read(len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC:
        raise Refused("not a delta", code="not_packed")
    version = start[-1] if len(start) > len(MAGIC) else 0
    if not 1 <= version <= VERSION:
        raise Refused(f"a delta by a version of the format that is not 1 to {VERSION}", code="not_packed")
    digests = container._read(file, 64)
    raw, lengths = container._lengths(file, _LENGTHS)
    head = Head(digests[:32].hex(), digests[32:].hex(), *lengths)
    if head.size > most:
        raise Corrupt(f"it makes {head.size} bytes, more than the {most} that are allowed", code="too_big")
    if head.inserts > head.size or max(head.inserts_packed, head.side, head.body) > 2 * head.size + 1024:
        raise Corrupt("lengths that contradict each other", code="bad_packed")
    check = int.from_bytes(container._read(file, 4), "little")
    packed, side = container._read(file, head.inserts_packed), container._read(file, head.side)
    if zlib.crc32(side, zlib.crc32(packed, zlib.crc32(start + digests + raw))) != check:
        raise Corrupt("the head of the delta does not match its checksum", code="bad_packed")
    return head, packed, Reader(side, file, version)


# --- what is made of what


def _tensors(data: bytes) -> list[Tensor]:
    try:
        return [t for t in parts.find(data) if t.item in ITEM_SIZES]
    except Refused:
        return []


def _pairs(new: list[Tensor], old: list[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    """For each new tensor the old one of the same name and shape, else the next that is left of the same shape."""
    named = {(t.name, t.dims, t.item): t for t in old}
    kept = {key for t in new if (key := (t.name, t.dims, t.item)) in named}
    others: dict[tuple[tuple[int, ...], int], list[Tensor]] = defaultdict(list)
    for t in reversed(old):
        if (t.name, t.dims, t.item) not in kept:
            others[t.dims, t.item].append(t)
    found = []
    for t in new:
        base = named.get((t.name, t.dims, t.item))
        if base is None and others[t.dims, t.item]:
            base = others[t.dims, t.item].pop()
        found.append((t, base))
    return found


def _runs(tensor: Tensor, base: Tensor | None, new: bytes, old: bytes) -> Iterator[tuple[Tensor, int | None]]:
    """Those runs of a tensor that changed, and where in the old file they were."""
    for run in container._runs(tensor):
        at = None if base is None else base.start + run.start - tensor.start
        if at is None or new[run.start : run.start + run.size] != old[at : at + run.size]:
            yield run, at


def _between(tensors: list[Tensor], size: int) -> Iterator[tuple[int, int]]:
    """What is not in a tensor."""
    at = 0
    for tensor in sorted(tensors, key=lambda t: t.start):
        yield at, tensor.start
        at = tensor.start + tensor.size
    yield at, size


def _folded(n: int) -> int:
    """Of either sign as a number that is not negative."""
    return 2 * n if n >= 0 else -2 * n - 1


def _unfolded(n: int) -> int:
    return n >> 1 if not n & 1 else -(n >> 1) - 1
