"""Which non-zeros have values that spread alike: by their row, their column, their cell's density or their neighbours' signs.

What pruning left of a dense cell is larger than what it left of a sparse one, for the same limit: the density, which is
known, tells of row and column at once. docs/format.md, 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import frequencies, lattice, values
from edged.packed.lattice import KNOWN, SIGNS, Canvas, Pass

PLAIN, BY_ROW, BY_COLUMN, BY_SIGN, BY_DENSITY = range(5)
_WORTH = 0.995  # of the bits of one tier that several may take

Places = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows, columns
Counts = tuple[Sequence[int], Sequence[int]]  # of the cells of a pass: places, non-zeros


def of_cells(kind: int, passes: Sequence[Counts], wide: int) -> tuple[list[NDArray[np.uint8]], int]:
    """For each pass the tier of each cell, and how many tiers there are. `wide`: classes of columns. Raises Corrupt."""
    found = []
    for places, ones in passes:
        pair = np.arange(len(places)) // KNOWN
        if kind == BY_DENSITY:
            own = np.array([frequencies.density(p, n) if n else 0 for p, n in zip(places, ones, strict=True)], np.intp)
        else:
            own = {BY_ROW: pair // wide, BY_COLUMN: pair % wide}.get(kind, np.zeros_like(pair))
        found.append(own)
    count = SIGNS if kind == BY_SIGN else 1 + max(int(own.max()) for own in found)
    if count > values.MAX_TIERS or kind > BY_DENSITY:
        raise Corrupt("tiers that cannot be", code="bad_packed")
    return [own.astype(np.uint8) for own in found], count


def of_values(cells: Sequence[NDArray[np.uint8]], passes: Sequence[Counts]) -> NDArray[np.uint8]:
    """The tier of each non-zero."""
    every = [np.repeat(own, ones) for own, (_, ones) in zip(cells, passes, strict=True)]
    return every[0] if len(every) == 1 else np.concatenate(every)


def best(
    every: NDArray[np.unsignedinteger], passes: Sequence[Counts], wide: int, signs: NDArray[np.uint8] | None
) -> tuple[int, NDArray[np.uint8], int]:
    """(kind, tier of each value, number of tiers) that cost least."""
    kind, tier, tiers = PLAIN, np.zeros(len(every), np.uint8), 1
    book = values.distinct(every)
    if book is None or len(book) < 2:
        return kind, tier, tiers
    symbols = np.searchsorted(book, every)
    least = values.bits(symbols, tier, 1, len(book)) * _WORTH
    for other in (BY_ROW, BY_COLUMN, BY_DENSITY, BY_SIGN):
        if other == BY_SIGN:
            if signs is None:
                continue
            own, n = signs, SIGNS
        else:
            cells, n = of_cells(other, passes, wide)
            own = of_values(cells, passes)
        if n > 1 and (cost := values.bits(symbols, own, n, len(book))) < least:
            least, kind, tier, tiers = cost, other, own, n
    return kind, tier, tiers


def signs(
    canvas: Canvas, passes: Sequence[Pass], where: Sequence[Places], kept: Sequence[NDArray[np.unsignedinteger]]
) -> Iterator[NDArray[np.uint8]]:
    """Tiers of each pass by the signs of its known neighbours."""
    for one, (row, column), own in zip(passes, where, kept, strict=True):
        yield canvas.signs(one, row, column)
        canvas.put(row, column, lattice.sign(own))
