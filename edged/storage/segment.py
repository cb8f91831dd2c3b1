"""The format of a segment: records one behind the other, each of which explains itself.

    segment     groups; each begins at a multiple of PAGE and was made durable by one flush
    group       records, packed
    record      head (fixed) | index: an entry for each body | document | bodies

A head names its own segment, generation and offset, so a record that was moved, or left over from an earlier generation
of the file, is not taken for one of this. It carries the SHA-256 of index and document, the index that of each body, and
the head a CRC-32 of itself. Document and bodies are sealed (seal.py); nothing here needs a key.

Guarantees: `scan` yields what is whole, in order, and stops at the first thing that is not. A group never shares a page
with an older one, so writing it cannot tear what was receipted. Does not guarantee that what is whole was receipted.

After: M. Rosenblum, J. Ousterhout, "The Design and Implementation of a Log-Structured File System", 1992.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PAGE = 4096
KINDS = ("frame", "crop")
_MAGIC = b"EDR1"
# magic, number of bodies, generation, segment, offset, length of all, length of the document, data key, id, SHA-256
_HEAD = struct.Struct("<4sIQIIII32s16s32s")
_CRC = struct.Struct("<I")
_ENTRY = struct.Struct("<16sB3xI32s")  # id, kind, length, SHA-256
HEAD_BYTES = _HEAD.size + _CRC.size
_MAX_BODIES = 4096
_READ = 64 * 1024  # enough for the head, index and document of nearly every record


@dataclass(frozen=True)
class Body:
    """A sealed picture. `id` 32 hex digits."""

    id: str
    kind: str
    sealed: bytes
    sha256: str

    @classmethod
    def of(cls, id: str, kind: str, sealed: bytes) -> Body:
        return cls(id, kind, sealed, hashlib.sha256(sealed).hexdigest())


@dataclass(frozen=True)
class Record:
    """What is to be written. `id` 32 hex digits: the document is sealed under it."""

    id: str
    key_id: str
    document: bytes
    bodies: tuple[Body, ...]

    @property
    def size(self) -> int:
        return (
            HEAD_BYTES + len(self.bodies) * _ENTRY.size + len(self.document) + sum(len(b.sealed) for b in self.bodies)
        )


@dataclass(frozen=True)
class Entry:
    """A body in a record on disk; `place` is its offset in the segment."""

    id: str
    kind: str
    place: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Found:
    """A record on disk."""

    id: str
    key_id: str
    segment: int
    generation: int
    offset: int
    length: int
    document: bytes
    entries: tuple[Entry, ...]

    @property
    def end(self) -> int:
        return self.offset + self.length


def pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


def encode(record: Record, segment: int, generation: int, offset: int) -> tuple[list[bytes], tuple[Entry, ...]]:
    """The record's bytes, in pieces to be written at `offset`, and where its bodies will lie."""
    place = offset + HEAD_BYTES + len(record.bodies) * _ENTRY.size + len(record.document)
    entries: list[Entry] = []
    for b in record.bodies:
        entries.append(Entry(b.id, b.kind, place, len(b.sealed), b.sha256))
        place += len(b.sealed)
    index = b"".join(
        _ENTRY.pack(bytes.fromhex(e.id), KINDS.index(e.kind), e.size, bytes.fromhex(e.sha256)) for e in entries
    )
    digest = hashlib.sha256(index + record.document).digest()
    head = _HEAD.pack(
        _MAGIC, len(entries), generation, segment, offset, record.size, len(record.document),
        record.key_id.encode("ascii"), bytes.fromhex(record.id), digest,
    )  # fmt: skip
    return [head + _CRC.pack(zlib.crc32(head)), index, record.document, *(b.sealed for b in record.bodies)], tuple(
        entries
    )


def read(fd: int, segment: int, offset: int, *, generation: int | None = None) -> Found | None:
    """The record at `offset`, None if none that is whole begins there. Its bodies are not looked at."""
    raw = os.pread(fd, _READ, offset)
    if len(raw) < HEAD_BYTES:
        return None
    head = raw[: _HEAD.size]
    if raw[:4] != _MAGIC or _CRC.unpack_from(raw, _HEAD.size)[0] != zlib.crc32(head):
        return None
    _, n, of, number, at, length, document_size, key_id, record_id, digest = _HEAD.unpack(head)
    if number != segment or at != offset or n > _MAX_BODIES or (generation is not None and of != generation):
        return None
    start, stop = HEAD_BYTES, HEAD_BYTES + n * _ENTRY.size + document_size
    if stop > length:
        return None
    if len(raw) < stop:
        raw = os.pread(fd, stop, offset)
    if len(raw) < stop or hashlib.sha256(raw[start:stop]).digest() != digest:
        return None
    entries: list[Entry] = []
    place = offset + stop
    for i in range(n):
        entry_id, kind, size, sha256 = _ENTRY.unpack_from(raw, start + i * _ENTRY.size)
        if kind >= len(KINDS):
            return None
        entries.append(Entry(entry_id.hex(), KINDS[kind], place, size, sha256.hex()))
        place += size
    if place != offset + length:
        return None
    document = raw[start + n * _ENTRY.size : stop]
    return Found(
        record_id.hex(), key_id.rstrip(b"\0").decode("ascii", "replace"), segment, of, offset, length, document,
        tuple(entries),
    )  # fmt: skip


def bodies(fd: int, entries: Sequence[Entry]) -> tuple[Body, ...] | None:
    """The bodies as they lie there, None unless every one of them is whole."""
    found: list[Body] = []
    for e in entries:
        sealed = os.pread(fd, e.size, e.place)
        if len(sealed) != e.size or hashlib.sha256(sealed).hexdigest() != e.sha256:
            return None
        found.append(Body(e.id, e.kind, sealed, e.sha256))
    return tuple(found)


def scan(fd: int, segment: int, start: int = 0, *, generation: int | None = None) -> Iterator[Found]:
    """Records from `start` on, until something is not a whole one of this generation (None: of the first one's)."""
    offset = start
    while (found := _whole(fd, segment, offset, generation)) is not None:
        generation = found.generation
        yield found
        offset = found.end


def salvage(fd: int, segment: int) -> list[Found]:
    """Every record of the file's newest generation that has a whole head and was not written over, whatever is damaged
    before it. Its bodies may be damaged.
    """
    size = os.fstat(fd).st_size
    found: dict[int, Found] = {}
    ahead = {0}
    while ahead:
        offset = min(ahead)
        ahead.remove(offset)
        if offset >= size or offset in found:
            continue
        record = read(fd, segment, offset)
        if record is not None:
            found[offset] = record
            ahead.add(record.end)
        if record is None or bodies(fd, record.entries) is None:
            ahead.add(pages(offset + 1))  # it may be what is left of a torn group
    newest = max((f.generation for f in found.values()), default=0)
    there = [f for f in found.values() if f.generation == newest]
    return [f for f, behind in zip(there, [*there[1:], None], strict=False) if not behind or f.end <= behind.offset]


def _whole(fd: int, segment: int, offset: int, generation: int | None) -> Found | None:
    """The whole record at `offset`; else the one at the next page: before it may stand what is left of a torn group."""
    for at in dict.fromkeys((offset, pages(offset))):
        found = read(fd, segment, at, generation=generation)
        if found is not None and bodies(fd, found.entries) is not None:
            return found
    return None
