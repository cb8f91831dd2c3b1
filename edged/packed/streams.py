"""Where the coders write to and read from: `side`, few numbers for all tensors, and `body`, the bulk of each in turn.

Symbols go to `side` where they are few, one after another and without any overhead, and to lanes in `body` where they are
many, so that numpy decodes them. docs/format.md, 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import bitfield, rans
from edged.packed.frequencies import COARSE, SCALE_BITS, Tables
from edged.packed.rangecoder import Decoder, Encoder

FEW = 1 << 14  # symbols that are decoded one after another
MOST_LANES = 4096

Part = tuple[NDArray[np.uint8], NDArray[np.uint8], Sequence[Sequence[int]]]  # symbols, their tables, the tables' shares


def lanes(symbols: int, held: bool = False) -> int:
    """A lane for each 1024 symbols, for each 2048 of very many: its state costs about three bytes; twice as many where one
    holds two bytes of something else.
    """
    return min(MOST_LANES, max(min(symbols >> (9 if held else 10), 128), symbols >> 11))


class Writer:
    def __init__(self) -> None:
        self.side = Encoder()
        self.body: list[bytes] = []
        self.body_size = 0
        self.last: object = None  # the plan of the last sparse run

    @property
    def size(self) -> int:
        return self.side.size + self.body_size

    def fork(self) -> Writer:
        other = Writer()
        other.side, other.body, other.body_size = self.side.fork(), list(self.body), self.body_size
        other.last = self.last
        return other

    def bulk(self, data: bytes) -> None:
        """Bytes whose number the reader knows."""
        self.body.append(data)
        self.body_size += len(data)

    def symbols(self, parts: Sequence[Part], raw: bytes = b"") -> None:
        """Symbols, and the raw bits that the reader asks for after them."""
        parts = [p for p in parts if len(p[0])]
        if not parts:
            self.bulk(raw)
            return
        symbols = np.concatenate([p[0] for p in parts])
        which, rows = _joined([(p[1], p[2]) for p in parts])
        tables = Tables(rows)
        if len(symbols) <= FEW:
            starts = tables.start[which, symbols].tolist()
            sizes = tables.size[which, symbols].tolist()
            for start, size in zip(starts, sizes, strict=True):
                self.side.share(start, size, SCALE_BITS)
            self.bulk(raw)
            return
        many = lanes(len(symbols), bool(raw))
        held = raw[: rans.HELD * many]
        data = rans.encode(symbols, which, tables, many, held)
        self.side.number("lanes", many - 1)
        self.side.number("words", len(data) // 2)
        self.bulk(data)
        self.bulk(raw[len(held) :])


class Reader:
    """`most` bounds what one tensor may take of the body, in bytes, so that no forged length allocates more."""

    def __init__(self, side: bytes, body: BinaryIO, version: int) -> None:
        self.side = Decoder(side)
        self._body, self._version = body, version
        self._held = b""  # raw bits that the lanes of the last symbols held
        self.taken = 0
        self.most = 0
        self.last: NDArray[np.uint8] | None = None  # column classes of the last sparse run

    def bulk(self, size: int) -> bytes:
        if size > self.most:
            raise Corrupt("a tensor takes more room packed than unpacked", code="bad_packed")
        self.most -= size
        data = self._body.read(size)
        if len(data) != size:
            raise Corrupt("the packed model is cut short", code="cut_short")
        self.taken += size
        return data

    def raw(self, widths: NDArray[np.uint8]) -> NDArray[np.int64]:
        size = bitfield.size(widths)
        held = self._held[:size]
        return bitfield.read(held + self.bulk(size - len(held)), widths)

    def symbols(self, parts: Sequence[tuple[NDArray[np.uint8], Sequence[Sequence[int]]]]) -> list[NDArray[np.uint8]]:
        """For each (table of each symbol, the tables' shares) the symbols."""
        full = [p for p in parts if len(p[0])]
        self._held = b""
        if not full:
            return [np.zeros(0, np.uint8) for _ in parts]
        which, rows = _joined(full)
        tables = Tables(rows)
        if len(which) <= FEW:
            found = np.frombuffer(self.side.shares(tables.lists(), which.tolist(), SCALE_BITS, COARSE), np.uint8)
        else:
            many = lanes(len(which)) if self._version == 1 else self.side.number("lanes") + 1
            if many > MOST_LANES:
                raise Corrupt("more lanes than there are", code="bad_packed")
            found, held = rans.decode(self.bulk(2 * self.side.number("words")), which, tables, many)
            if self._version == 1 and any(held):
                raise Corrupt("the lanes did not end as they began", code="bad_packed")
            self._held = held if self._version > 1 else b""
        ends = np.cumsum([len(p[0]) for p in parts])
        return np.split(found, ends[:-1])


def _joined(
    parts: Sequence[tuple[NDArray[np.uint8], Sequence[Sequence[int]]]],
) -> tuple[NDArray[np.uint8], list[Sequence[int]]]:
    """One numbering of all tables."""
    which: list[NDArray[np.uint8]] = []
    rows: list[Sequence[int]] = []
    for of, shares in parts:
        which.append((of + len(rows)).astype(np.uint8))
        rows += shares
    return np.concatenate(which), rows
