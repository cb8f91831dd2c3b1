"""Gaps and codebook indices under canonical Huffman codes, as in Deep Compression: what our own coder is measured against.

S. Han, H. Mao, W. J. Dally, arXiv 1510.00149: the tensor is read in its own order, the gap to the next non-zero takes a
fixed number of bits, where it is larger a zero is put in between, and both gaps and indices are Huffman coded.
docs/format.md, 11. It is also used where it comes out smaller.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import codebook, huffman, values
from edged.packed.frequencies import MAX_SYMBOLS
from edged.packed.streams import Reader, Writer

GAP_BITS = (3, 4, 5, 6, 7, 8)


def write(writer: Writer, items: NDArray[np.unsignedinteger]) -> bool:
    """False, and nothing is written, for a tensor with too many different values."""
    at = np.flatnonzero(items)
    book = values.distinct(items[at])
    if book is None or len(book) >= MAX_SYMBOLS:
        return False
    best: tuple[int, int, list[int], list[int]] | None = None
    ordered = np.sort(book)
    for bits in GAP_BITS:
        gaps, index = _filled(at, items, ordered, bits)
        own = [np.bincount(gaps, minlength=1 << bits).tolist(), np.bincount(index, minlength=len(book) + 1).tolist()]
        lengths = [huffman.lengths(c) for c in own]
        cost = sum(n * c for ns, cs in zip(lengths, own, strict=True) for n, c in zip(ns, cs, strict=True))
        cost += 4 << bits
        if best is None or cost < best[0]:
            best = cost, bits, *lengths
    assert best is not None
    _, bits, *lengths = best
    gaps, index = _filled(at, items, ordered, bits)
    side = writer.side
    side.number("book", len(book))
    order = np.argsort(codebook.write(side, book))
    back = np.concatenate([[0], 1 + order])  # of the sorted values to the codebook's order
    ranks = np.array(lengths[1])
    renamed = np.zeros_like(ranks)
    renamed[back] = ranks
    side.number("gap bits", bits)
    for n in [*lengths[0], *renamed.tolist()]:
        side.raw(n, 4)
    side.number("entries", len(gaps))
    data = huffman.encode(gaps, lengths[0]) + huffman.encode(back[index], renamed.tolist())
    side.number("bytes", len(data))
    writer.bulk(data)
    return True


def read(reader: Reader, count: int, item: int) -> NDArray[np.unsignedinteger]:
    side = reader.side
    size = side.number("book")
    if size >= MAX_SYMBOLS:
        raise Corrupt("a codebook of an impossible size", code="bad_packed")
    book = codebook.read(side, size, item)
    bits = side.number("gap bits")
    if bits not in GAP_BITS:
        raise Corrupt("gaps of an impossible width", code="bad_packed")
    lengths = [side.raw(4) for _ in range((1 << bits) + 1 + size)]
    entries = side.number("entries")
    if entries > count:
        raise Corrupt("more entries than places", code="bad_packed")
    data = reader.bulk(side.number("bytes"))
    gaps, used = huffman.decode(data, entries, lengths[: 1 << bits])
    index, _ = huffman.decode(data[used:], entries, lengths[1 << bits :])
    at = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if entries and int(at[-1]) >= count:
        raise Corrupt("a non-zero outside of its tensor", code="bad_packed")
    out = np.zeros(count, f"<u{item}")
    out[at] = np.concatenate([np.zeros(1, book.dtype), book])[np.minimum(index, size)]
    return out


def _filled(
    at: NDArray[np.int64], items: NDArray[np.unsignedinteger], book: NDArray[np.unsignedinteger], bits: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gaps below 2 ** bits, and 1 + the place of each value in the sorted book, 0 for a zero put in between."""
    longest = 1 << bits
    zeros = np.diff(at, prepend=-1) - 1
    fillers = zeros // longest
    ends = np.cumsum(fillers + 1) - 1
    gaps = np.full(int(ends[-1]) + 1 if len(ends) else 0, longest - 1, np.int64)
    index = np.zeros(len(gaps), np.int64)
    gaps[ends] = zeros % longest
    index[ends] = 1 + np.searchsorted(book, items[at])
    return gaps, index
