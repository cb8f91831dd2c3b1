"""How often each symbol comes, as whole shares of 2 ** 14: what both the range coder and rANS decode by.

Guarantees: the same numbers give the same tables on every machine (whole numbers only). docs/format.md, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import isqrt, log2

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed.rangecoder import Decoder, Encoder

SCALE_BITS = 14
SCALE = 1 << SCALE_BITS
MAX_SYMBOLS = 256
SPARE = 32  # numbers beyond SCALE
COARSE = 4  # bits of a number that `lists` leaves to a search
_EVERY = np.arange(MAX_SYMBOLS, dtype=np.uint8)
_COUNTS = (32, 64, 128, 256, 512, 1024, 2048)  # a table is sent as counts of about so many symbols

# Gaps: LINEAR symbols of equal width, then each twice as wide as the one before.
LINEAR, DOUBLING = 32, 24
GAP_SYMBOLS = LINEAR + DOUBLING
GAP_TABLES = 64  # 16 to each halving of the density; the last 16 where a symbol is more than one place wide
_WIDTHS = np.array([0] * LINEAR + [5 + i for i in range(DOUBLING)], np.uint8)  # raw bits behind each symbol, k = 0
_BASES = np.array([*range(LINEAR), *(LINEAR << i for i in range(DOUBLING))], np.int64)  # its smallest gap


class Tables:
    """Shares of the symbols of `count` tables. `start`, `size`: uint32 [tables, symbols]; each row's sizes sum to SCALE."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.count, self._rows = len(rows), rows
        symbols = max(len(row) for row in rows)
        self.size = np.zeros((self.count, symbols), np.uint32)
        for i, row in enumerate(rows):
            self.size[i, : len(row)] = row
        self.start = (np.cumsum(self.size, axis=1) - self.size).astype(np.uint32)

    def slots(self) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """For each table and each of the SCALE numbers: (size << 16 | number - start), and the symbol."""
        sizes = self.size.reshape(-1)
        number = np.tile(np.arange(SCALE, dtype=np.uint32), self.count)
        number += np.repeat((sizes << np.uint32(16)) - self.start.reshape(-1), sizes)  # modulo 2 ** 32
        return number, np.frombuffer(b"".join(map(_symbols, self._rows)), np.uint8)

    def lists(self) -> list[tuple[bytes, list[int], Sequence[int]]]:
        """The same for a decoder of one symbol after another, in little memory: for each table the symbol of every
        2 ** COARSE-th number, and starts and sizes of the symbols, with one more start.

        What the range coder's shift cut off lies a little beyond the last number, and is taken for the last symbol.
        """
        starts = np.pad(self.start, ((0, 0), (0, 1)), constant_values=SCALE)
        starts[starts == SCALE] += SPARE
        found = []
        for row, start in zip(self._rows, starts.tolist(), strict=True):
            symbols = np.repeat(_EVERY[: len(row)], row)[:: 1 << COARSE].tobytes()
            found.append((symbols + symbols[-1:] * (SPARE >> COARSE), start, row))
        return found

    def cuts(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]]:
        """All symbols that have a share, table after table: table << SCALE_BITS | start, size, symbol. Small where `slots`
        is quick.
        """
        table, symbol = np.nonzero(self.size)
        start = self.start[table, symbol] + (table.astype(np.uint32) << np.uint32(SCALE_BITS))
        return start, self.size[table, symbol], symbol.astype(np.uint8)


def _symbols(sizes: Sequence[int]) -> bytes:
    """The symbol of each of the SCALE numbers."""
    return b"".join(bytes((symbol,)) * size for symbol, size in enumerate(sizes))


def normalise(counts: Sequence[int]) -> list[int]:
    """Counts, not all zero, to shares of SCALE; what came at all has a share. Raises Corrupt."""
    total = sum(counts)
    if total <= 0:
        raise Corrupt("a table of symbols without a symbol", code="bad_packed")
    edges = [c * SCALE // total for c in accumulate(counts, initial=0)]
    sizes = [max(1, b - a) if c else 0 for c, (a, b) in zip(counts, pairwise(edges), strict=True)]
    largest = sizes.index(max(sizes))
    sizes[largest] += SCALE - sum(sizes)
    if sizes[largest] < 1:
        raise Corrupt("a table of symbols that cannot be", code="bad_packed")
    return sizes


def write_table(side: Encoder, counts: Sequence[int]) -> list[int]:
    """Sends a table for symbols 0..len(counts) - 1; returns the shares that the decoder will have.

    As coarsely as pays: what the table takes and what it costs that its shares are not those of the symbols.
    """
    total = sum(counts)
    best: tuple[float, list[int]] | None = None
    for most in (*(m for m in _COUNTS if m < total), total):
        if most > _COUNTS[-1]:
            break
        scaled = [max(1, (c * most + total // 2) // total) if c else 0 for c in counts]
        trial = side.fork()
        _send(trial, scaled)
        sizes = normalise(scaled)
        bits = trial.bits + sum(c * log2(SCALE / size) for c, size in zip(counts, sizes, strict=True) if c)
        if best is None or bits < best[0]:
            best = bits, scaled
    assert best is not None
    _send(side, best[1])
    return normalise(best[1])


def _send(side: Encoder, counts: Sequence[int]) -> None:
    last = 0
    for c in counts:
        side.number(("count", last.bit_length()), c)
        last = c


def read_table(side: Decoder, symbols: int) -> list[int]:
    counts, last = [], 0
    for _ in range(symbols):
        last = side.number(("count", last.bit_length()))
        counts.append(last)
    return normalise(counts)


def gap_shape(zeros_and: int, ones: int) -> tuple[int, int]:
    """Of `ones` set places among `zeros_and`: (k, table): symbols < LINEAR are 2 ** k wide."""
    octave = _octave(zeros_and, ones)
    k = max(0, octave // 16 - 2)
    return k, octave - 16 * k + (16 if k else 0)


def density(zeros_and: int, ones: int) -> int:
    """0 .. 15, one step for each factor of the root of 2."""
    return min(15, _octave(zeros_and, ones) >> 3)


def _octave(zeros_and: int, ones: int) -> int:
    """floor of 16 log2 of their ratio, exactly: in whole numbers where a rounded logarithm might be wrong."""
    about = 16 * log2(zeros_and / ones)
    if abs(about - round(about)) > 1e-6:
        return int(about)
    return ((zeros_and**16) // (ones**16)).bit_length() - 1


@lru_cache(maxsize=1)
def _ratios() -> tuple[int, ...]:
    """2 ** ((2 u + 1) / 32) for u = 0 to 47, in 60 bits after the point."""
    root = 2 << 60  # 2.0, then its square roots: 2 ** (1 / 32)
    for _ in range(5):
        root = isqrt(root << 60)
    found = [root]
    for _ in range(47):
        found.append((found[-1] * root >> 60) * root >> 60)
    return tuple(found)


@lru_cache(maxsize=GAP_TABLES)
def gap_table(table: int) -> tuple[int, ...]:
    """Shares of the gap symbols: a geometric distribution.

    One of 2 ** ((2 table + 1) / 32) places is set; in the last 16 tables a symbol stands for 16 places, each set 16 times
    as rarely as a symbol of table - 16.
    """
    narrow = table < 48
    ratio = _ratios()[table if narrow else table - 16]
    stay = (1 << 60) - (1 << 120) // ratio // (1 if narrow else 16)  # the probability that a place is not set
    for _ in range(0 if narrow else 4):
        stay = stay * stay >> 60
    left, tail = [1 << 60], 1 << 60
    for _ in range(LINEAR):
        tail = tail * stay >> 60
        left.append(tail)
    power = stay
    for _ in range(5):  # stay ** LINEAR
        power = power * power >> 60
    for _ in range(DOUBLING):
        tail = tail * power >> 60
        power = power * power >> 60
        left.append(tail)
    return tuple(normalise([max(1, (a - b) >> 20) for a, b in pairwise(left)]))


def gap_widths(symbols: NDArray[np.uint8], k: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Raw bits that follow each gap symbol."""
    return _WIDTHS.take(symbols) + k


def gap_bases(symbols: NDArray[np.uint8], k: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The smallest gap of each symbol."""
    found = _BASES.take(symbols)
    found <<= k
    return found


def gap_symbols(gaps: NDArray[np.int64], k: NDArray[np.uint8]) -> NDArray[np.uint8]:
    wide = gaps >> k
    over = np.maximum(wide, LINEAR) >> 5  # LINEAR = 2 ** 5
    octave = np.frexp(over.astype(np.float64))[1] - 1  # exact: over < 2 ** 53
    return np.where(wide < LINEAR, wide, LINEAR + octave).astype(np.uint8)
