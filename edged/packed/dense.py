"""A tensor without a value that stands out: symbols by one table per class of rows, or byte by byte. docs/format.md, 12."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import values
from edged.packed.streams import Reader, Writer

MAX_ROWS = 1 << 16
_TRIED = (1, 2, 3, 4, 6, 8)


def write(writer: Writer, items: NDArray[np.unsignedinteger], rows: Sequence[int]) -> None:
    """`rows`: numbers of rows worth trying."""
    tiers, classes = 1, np.zeros(1, np.uint8)
    book = values.distinct(items)
    if book is not None and len(book) > 1:
        symbols = np.searchsorted(book, items).astype(np.uint8)
        best = values.bits(symbols, np.zeros(len(items), np.uint8), 1, len(book))
        for lines in {r for r in rows if 1 < r <= MAX_ROWS and len(items) % r == 0 and len(items) // r >= 8}:
            table = _counts(symbols.reshape(lines, -1), len(book))
            for n in _TRIED[1:]:
                found = _alike(table, n)
                cost = values.entropy(np.bincount(found)) + n * 5 * len(book)
                cost += sum(values.entropy(table[found == i].sum(0)) for i in range(n))
                if cost < best:
                    best, tiers, classes = cost, n, found
    side = writer.side
    side.number("tiers", tiers - 1)
    if tiers > 1:
        side.number("rows", len(classes))
        width = (tiers - 1).bit_length()
        for c in classes.tolist():
            side.pick("row", c, width)
    parts, plain = values.write(writer, items, np.repeat(classes, len(items) // len(classes)), tiers)
    writer.symbols(parts)
    for data in plain:
        writer.bulk(data)


def read(reader: Reader, count: int, item: int) -> NDArray[np.unsignedinteger]:
    side = reader.side
    tiers = side.number("tiers") + 1
    classes = np.zeros(1, np.uint8)
    if tiers > 1:
        rows = side.number("rows")
        if tiers > values.MAX_TIERS or not 0 < rows <= MAX_ROWS or count % rows or count // rows < 8:
            raise Corrupt("rows that do not fit their tensor", code="bad_packed")
        width = (tiers - 1).bit_length()
        classes = np.array([side.pick("row", width) for _ in range(rows)], np.uint8)
        if int(classes.max()) >= tiers:
            raise Corrupt("a class that is not there", code="bad_packed")
    told = values.read(side, count, item, tiers)
    tier = np.repeat(classes, count // len(classes))
    return values.fill(reader, told, reader.symbols(told.parts(tier)), count, item)


def _counts(symbols: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    lines = len(symbols)
    found = np.empty((lines, size), np.int64)
    for i in range(lines):
        found[i] = np.bincount(symbols[i], minlength=size)
    return found


def _alike(table: NDArray[np.int64], n: int) -> NDArray[np.uint8]:
    """Rows in n groups of alike entropy, each as large as the others; every group is used."""
    share = table / table.sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.nan_to_num(share * np.log2(share)).sum(1)
    found = np.empty(len(table), np.uint8)
    found[np.argsort(surprise, kind="stable")] = np.arange(len(table)) * n // len(table)
    return found
