"""A matrix in passes over its columns, so that most places are told when their neighbours are known. docs/format.md, 10.

Where columns are the pixels of a picture or the taps of a kernel, non-zeros keep company and agree in sign. The columns
are taken as lines of `width`; first those in even lines at even places are told, then the odd ones of odd lines, between
four of the first, then all others, between four of both. Every pass is decoded at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KNOWN = 4  # how many neighbours are set: 0, 1, 2, 3 or more
SIGNS = 5  # sum of the neighbours' signs: -2 or less, ..., 2 or more


@dataclass(frozen=True)
class Pass:
    """`columns` in ascending order, and how far the known neighbours of each are."""

    columns: NDArray[np.int64]
    offsets: tuple[int, ...]


def passes(columns: int, width: int) -> list[Pass]:
    """Without a width one pass of all columns, in which nothing is known."""
    every = np.arange(columns)
    if not width:
        return [Pass(every, ())]
    odd_line, odd_place = every // width % 2 == 1, every % width % 2 == 1
    found = [
        Pass(every[~odd_line & ~odd_place], ()),
        Pass(every[odd_line & odd_place], (-width - 1, -width + 1, width - 1, width + 1)),
        Pass(every[odd_line ^ odd_place], (-1, 1, -width, width)),
    ]
    return [p for p in found if len(p.columns)]


class Canvas:
    """What is known so far of a matrix, small whole numbers with zeros around it."""

    def __init__(self, rows: int, columns: int, width: int) -> None:
        self._pad = width + 1
        self._all = np.zeros((rows, columns + 2 * self._pad), np.int8)

    def clear(self) -> None:
        self._all[:] = 0

    def put(self, row: NDArray[np.int64], column: NDArray[np.int64], what: NDArray[np.int8]) -> None:
        self._all[row, column + self._pad] = what

    def cells(self, of: Pass, row_class: NDArray[np.uint8], column_class: NDArray[np.uint8]) -> NDArray[np.integer]:
        """The cell of each place of a pass [rows, its columns]: (row class, column class, neighbours that are set)."""
        wide = int(column_class.max()) + 1
        base: NDArray[np.integer]
        if (int(row_class.max()) + 1) * wide * KNOWN <= 256:
            base = (row_class * np.uint8(wide * KNOWN))[:, None] + column_class[of.columns] * np.uint8(KNOWN)
        else:
            high = row_class.astype(np.uint16) * np.uint16(wide * KNOWN)
            base = high[:, None] + column_class[of.columns].astype(np.uint16) * np.uint16(KNOWN)
        if not of.offsets:
            return base
        known = np.zeros(base.shape, np.int8)
        for offset in of.offsets:
            known += self._all.take(of.columns + (self._pad + offset), axis=1)
        np.minimum(known, KNOWN - 1, out=known)
        base += known.view(np.uint8)
        return base

    def signs(self, of: Pass, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.uint8]:
        """0 .. SIGNS - 1 for each of these places."""
        total = np.zeros(len(row), np.int8)
        for offset in of.offsets:
            total += self._all[row, column + (self._pad + offset)]
        return (np.clip(total, -2, 2) + 2).astype(np.uint8)


def sign(items: NDArray[np.unsignedinteger]) -> NDArray[np.int8]:
    """-1 where the highest bit is set, else 1."""
    return np.where(items >> (items.itemsize * 8 - 1), -1, 1).astype(np.int8)


def walk(mask: NDArray[np.bool_], width: int, of_lines: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> Iterator[
    tuple[Pass, NDArray[np.integer], NDArray[np.bool_]]
]:  # fmt: skip
    """For each pass over a known matrix: the pass, the cells of its places, and which are set."""
    canvas = Canvas(mask.shape[0], mask.shape[1], width)
    for one in passes(mask.shape[1], width):
        own = mask.take(one.columns, axis=1)
        yield one, canvas.cells(one, *of_lines), own
        if width:
            row, at = np.nonzero(own)
            canvas.put(row, one.columns[at], np.ones(len(row), np.int8))
