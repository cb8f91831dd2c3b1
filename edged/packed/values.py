"""What stands at the places that are told: by a codebook and one table per tier, or byte by byte. docs/format.md, 9.

A tier is a group of places whose values spread alike; the coder that calls this says which value is of which tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import codebook, frequencies
from edged.packed.frequencies import MAX_SYMBOLS
from edged.packed.rangecoder import Decoder
from edged.packed.streams import Part, Reader, Writer

Tables = list[list[int]]
MAX_TIERS = 16
_PLANE_GAIN = 0.98  # a plane of bytes is coded where that saves 2 %
_SAMPLE = 1 << 16


def distinct(values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger] | None:
    """Sorted; None where there are more than a codebook holds."""
    if len(values) > 4 * _SAMPLE and len(np.unique(values[:_SAMPLE])) > MAX_SYMBOLS:
        return None
    found = np.unique(values)
    return found if len(found) <= MAX_SYMBOLS else None


def write(
    writer: Writer, values: NDArray[np.unsignedinteger], tier: NDArray[np.uint8], tiers: int
) -> tuple[list[Part], list[bytes]]:
    """Sends codebook and tables; returns the symbols still to be sent, and bytes to be sent as they are after them."""
    side, book = writer.side, distinct(values)
    side.bit("planes", book is None)
    if book is not None:
        side.number("book", len(book))
        ordered = codebook.write(side, book)
        if len(book) < 2:
            return [], []
        order = np.argsort(ordered)
        symbols = order[np.searchsorted(ordered, values, sorter=order)].astype(np.uint8)
        rows: Tables = []
        for i in range(tiers):
            counts = np.bincount(symbols[tier == i], minlength=len(book)).tolist()
            rows.append(_write_row(writer, counts))
        return [(symbols, tier, rows)], []
    parts: list[Part] = []
    plain: list[bytes] = []
    planes = values.view(np.uint8).reshape(len(values), -1)
    for i in range(planes.shape[1]):
        plane = np.ascontiguousarray(planes[:, i])
        counts = np.bincount(plane, minlength=256)
        coded = entropy(counts) + 8 * 160 < 8 * len(plane) * _PLANE_GAIN
        side.bit("coded", coded)
        if coded:
            parts.append((plane, np.zeros(len(plane), np.uint8), [_write_row(writer, counts.tolist())]))
        else:
            plain.append(plane.tobytes())
    return parts, plain


@dataclass(frozen=True)
class Told:
    """What was sent of the values before their symbols."""

    book: NDArray[np.unsignedinteger] | None
    coded: tuple[bool, ...]  # of the planes
    tables: Sequence[Tables]  # of the tiers, or of each coded plane

    def parts(self, tier: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], Tables]]:
        """What is to be read for values of these tiers."""
        return [(tier if self.book is not None else np.zeros_like(tier), rows) for rows in self.tables]


def read(side: Decoder, count: int, item: int, tiers: int) -> Told:
    if not side.bit("planes"):
        size = side.number("book")
        if size > MAX_SYMBOLS or (count and not size):
            raise Corrupt("a codebook of an impossible size", code="bad_packed")
        book = codebook.read(side, size, item)
        if size < 2:
            return Told(book, (), [])
        return Told(book, (), [[_read_row(side, size) for _ in range(tiers)]])
    coded, tables = [], []
    for _ in range(item):
        coded.append(bool(side.bit("coded")))
        if coded[-1]:
            tables.append([_read_row(side, 256)])
    return Told(None, tuple(coded), tables)


def fill(
    reader: Reader, told: Told, symbols: Sequence[NDArray[np.uint8]], count: int, item: int
) -> NDArray[np.unsignedinteger]:
    """The values, once their symbols are read. Raises Corrupt."""
    if told.book is not None:
        if not len(told.book):
            return np.zeros(0, f"<u{item}")
        if not symbols:
            return np.full(count, told.book[0])
        return told.book.take(symbols[0], mode="clip")
    planes, left = np.empty((count, item), np.uint8), list(symbols)
    for i, coded in enumerate(told.coded):
        planes[:, i] = left.pop(0) if coded else np.frombuffer(reader.bulk(count), np.uint8)
    return planes.view(f"<u{item}").reshape(-1)


def bits(symbols: NDArray[np.integer], tier: NDArray[np.uint8], tiers: int, size: int) -> float:
    """What symbols and tables cost, about."""
    total = 0.0
    for i in range(tiers):
        counts = np.bincount(symbols[tier == i], minlength=size)
        total += entropy(counts) + 5 * size
    return total


def entropy(counts: NDArray[np.integer]) -> float:
    """Bits of symbols that come so often."""
    seen = counts[counts > 0].astype(np.float64)
    return float((seen * np.log2(seen.sum() / seen)).sum())


def _write_row(writer: Writer, counts: list[int]) -> list[int]:
    """A tier may be empty: then its table is never used."""
    empty = not any(counts)
    writer.side.bit("empty", empty)
    return frequencies.normalise([1] * len(counts)) if empty else frequencies.write_table(writer.side, counts)


def _read_row(side: Decoder, size: int) -> list[int]:
    return frequencies.normalise([1] * size) if side.bit("empty") else frequencies.read_table(side, size)
