"""How far it is from one non-zero of a cell to the next: geometric, so that the cell's number of non-zeros is all there is
to tell. docs/format.md, 5 and 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import bitfield, frequencies
from edged.packed.streams import Part, Reader


@dataclass(frozen=True)
class Shapes:
    """How the gaps of each non-zero are coded; one in a full cell is not `open`: its gap is 0 and is not sent."""

    open: NDArray[np.bool_] | None  # None where all are
    k: NDArray[np.uint8]
    table: NDArray[np.uint8]  # index into `shares`
    shares: list[tuple[int, ...]]


def shapes(places: Sequence[int], ones: Sequence[int]) -> Shapes:
    """Of cells of so many places, with so many non-zeros."""
    found = [frequencies.gap_shape(p, n) if 0 < n < p else (0, -1) for p, n in zip(places, ones, strict=True)]
    used = sorted({table for _, table in found if table >= 0})
    index = {table: i for i, table in enumerate(used)}
    told = [n if table >= 0 else 0 for n, (_, table) in zip(ones, found, strict=True)]
    k = np.repeat(np.array([k for k, _ in found], np.uint8), told)
    table = np.repeat(np.array([index.get(table, 0) for _, table in found], np.uint8), told)
    opened = np.repeat(np.array([table >= 0 for _, table in found]), ones) if sum(told) < sum(ones) else None
    return Shapes(opened, k, table, [frequencies.gap_table(table) for table in used])


def symbols(gaps: NDArray[np.int64], shapes: Shapes) -> tuple[Part, NDArray[np.int64]]:
    """What is to be sent of these gaps: symbols, and for `rest` the gaps that are not known anyway."""
    gaps = gaps if shapes.open is None else gaps[shapes.open]
    return (frequencies.gap_symbols(gaps, shapes.k), shapes.table, shapes.shares), gaps


def rest(symbols: NDArray[np.uint8], gaps: NDArray[np.int64], shapes: Shapes) -> bytes:
    """The bits that follow the symbols."""
    widths = frequencies.gap_widths(symbols, shapes.k)
    return bitfield.write(gaps - frequencies.gap_bases(symbols, shapes.k), widths)


def read_rest(reader: Reader, symbols: NDArray[np.uint8], shapes: Shapes) -> NDArray[np.int64]:
    """The gaps of all non-zeros. Raises Corrupt."""
    widths = frequencies.gap_widths(symbols, shapes.k)
    if len(widths) and int(widths.max()) > bitfield.MAX_WIDTH:
        raise Corrupt("a gap that is too wide", code="bad_packed")
    gaps = frequencies.gap_bases(symbols, shapes.k)
    gaps += reader.raw(widths)
    if shapes.open is None:
        return gaps
    every = np.zeros(len(shapes.open), np.int64)
    every[shapes.open] = gaps
    return every
