"""Canonical Huffman codes: lengths are all that is sent. D. A. Huffman, 1952; canonical as in RFC 1951, 3.2.2.

Codes go into bytes as there: the low bit of a byte first, a code's own first bit first. docs/format.md, 11.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed import bitfield

MAX_LENGTH = 15


def lengths(counts: Sequence[int]) -> list[int]:
    """Bits of the code of each symbol, 0 for one that never comes; counts are flattened until none is over MAX_LENGTH."""
    while True:
        heap: list[tuple[int, int, tuple[int, ...]]] = [(c, i, (i,)) for i, c in enumerate(counts) if c]
        found = [0] * len(counts)
        if len(heap) == 1:
            found[heap[0][1]] = 1
            return found
        heapq.heapify(heap)
        while len(heap) > 1:
            (a, _, left), (b, i, right) = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left + right:
                found[symbol] += 1
            heapq.heappush(heap, (a + b, i, left + right))
        if max(found, default=0) <= MAX_LENGTH:
            return found
        counts = [(c + 1) // 2 if c else 0 for c in counts]


def codes(bits: Sequence[int]) -> list[int]:
    """The code of each symbol, its bits reversed so that it can be written low bit first. Raises Corrupt."""
    if sum(1 << MAX_LENGTH - n for n in bits if n) > 1 << MAX_LENGTH:
        raise Corrupt("Huffman codes that overlap", code="bad_packed")
    found, code = [0] * len(bits), 0
    for length in range(1, MAX_LENGTH + 1):
        for symbol, n in enumerate(bits):
            if n == length:
                found[symbol] = int(f"{code:0{length}b}"[::-1], 2)
                code += 1
        code <<= 1
    return found


def encode(symbols: NDArray[np.integer], bits: Sequence[int]) -> bytes:
    table, wide = np.array(codes(bits), np.int64), np.array(bits, np.uint8)
    return bitfield.write(table[symbols], wide[symbols])


def decode(data: bytes, count: int, bits: Sequence[int]) -> tuple[NDArray[np.uint8], int]:
    """`count` symbols (at most 256 different ones), and the bytes that they took. Raises Corrupt."""
    symbol_of, bits_of = bytearray(1 << MAX_LENGTH), bytearray(1 << MAX_LENGTH)
    for symbol, (code, n) in enumerate(zip(codes(bits), bits, strict=True)):
        if n:
            times = 1 << MAX_LENGTH - n
            symbol_of[code :: 1 << n] = bytes((symbol,)) * times
            bits_of[code :: 1 << n] = bytes((n,)) * times
    out = bytearray(count)
    word, have, at, used, mask = 0, 0, 0, 0, (1 << MAX_LENGTH) - 1
    for i in range(count):
        if have < MAX_LENGTH:
            word |= int.from_bytes(data[at : at + 5], "little") << have
            at += 5
            have += 40
        slot = word & mask
        n = bits_of[slot]
        if not n:
            raise Corrupt("bits that are no Huffman code", code="bad_packed")
        out[i] = symbol_of[slot]
        word >>= n
        have -= n
        used += n
    if used > 8 * len(data):
        raise Corrupt("Huffman codes that are cut short", code="bad_packed")
    return np.frombuffer(out, np.uint8), (used + 7) // 8
