"""Many symbols by known tables, decoded many at a time with numpy: range asymmetric numeral systems in lanes.

J. Duda, Asymmetric numeral systems, arXiv 1311.2540; lanes after F. Giesen, Interleaved entropy coders, arXiv 1402.3392.
Symbol i belongs to lane i mod N; a lane's state is 32 bits, renormalised by one 16 bit word at most, and all lanes read
from one list of words, in the order of the lanes. A lane would cost three bytes; the encoder begins with states that hold
two bytes of something else, which the decoder finds in them at the end (bits back), so that it costs one. docs/format.md, 6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed.frequencies import SCALE_BITS, Tables

START = 1 << 16  # of every lane, before the last symbol is encoded; its low 16 bits are free
HELD = 2  # bytes that a lane holds
SEARCHED = 1 << 17  # symbols up to which tables are looked through: building them in full would take longer
_LOW, _SIXTEEN = np.uint32(START), np.uint32(16)
_MASK, _SHIFT = np.uint32((1 << SCALE_BITS) - 1), np.uint32(SCALE_BITS)


def encode(
    symbols: NDArray[np.uint8], which: NDArray[np.uint8], tables: Tables, lanes: int, held: bytes = b""
) -> bytes:
    """States of the lanes (uint32), then words (uint16), little-endian. Every symbol must have a share in its table.

    `held`: at most HELD bytes for each lane, which `decode` returns, filled up with zeros.
    """
    state = np.frombuffer(held.ljust(HELD * lanes, b"\0"), "<u2").astype(np.uint32) | _LOW
    words: list[NDArray[np.uint16]] = []
    steps = -(-len(symbols) // lanes)
    for step in range(steps - 1, -1, -1):
        here = slice(step * lanes, min((step + 1) * lanes, len(symbols)))
        row = which[here].astype(np.intp)
        size = tables.size[row, symbols[here]]
        x = state[: len(row)]
        full = (x >> np.uint32(32 - SCALE_BITS)) >= size
        words.append((x[full] & np.uint32(0xFFFF)).astype("<u2"))
        x[full] >>= np.uint32(16)
        x[:] = (x // size << np.uint32(SCALE_BITS)) + x % size + tables.start[row, symbols[here]]
    return state.astype("<u4").tobytes() + b"".join(w.tobytes() for w in reversed(words))


def decode(data: bytes, which: NDArray[np.uint8], tables: Tables, lanes: int) -> tuple[NDArray[np.uint8], bytes]:
    """One symbol for each entry of `which`, the number of its table, and what the lanes held. Raises Corrupt."""
    if len(data) < 4 * lanes or len(data) % 2:
        raise _corrupt()
    x = np.frombuffer(data, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint32)
    found, taken = (_searched if len(which) < SEARCHED else _looked_up)(x, words, which, tables)
    if taken != len(words) or bool((x >> _SIXTEEN != 1).any()):
        raise _corrupt()
    return found, x.astype("<u2").tobytes()


def _looked_up(
    x: NDArray[np.uint32], words: NDArray[np.uint32], which: NDArray[np.uint8], tables: Tables
) -> tuple[NDArray[np.uint8], int]:
    """The symbols, and how many words were read; the states are left in x."""
    step_of, symbol_of = tables.slots()
    lanes, count, at = len(x), len(which), 0
    out = np.empty(count, np.uint8)
    low16, single = np.uint32(0xFFFF), tables.count == 1
    for begin in range(0, count, lanes):
        rest = x[: count - begin]
        slot = rest & _MASK
        if not single:
            slot += which[begin : begin + lanes].astype(np.uint32) << _SHIFT
        symbol_of.take(slot, out=out[begin : begin + lanes], mode="clip")
        pair = step_of.take(slot, mode="clip")
        rest >>= _SHIFT
        rest *= pair >> _SIXTEEN
        rest += pair & low16
        at = _filled(rest, words, at)
    return out, at


def _searched(
    x: NDArray[np.uint32], words: NDArray[np.uint32], which: NDArray[np.uint8], tables: Tables
) -> tuple[NDArray[np.uint8], int]:
    """The same without an entry for each slot, which would be most of the memory and time of a small tensor."""
    starts, sizes, symbol_of = tables.cuts()
    lanes, count, at = len(x), len(which), 0
    keys = which.astype(np.uint32) << _SHIFT
    cuts = np.empty(count, np.uint16)
    for begin in range(0, count, lanes):
        rest, key = x[: count - begin], keys[begin : begin + lanes]
        key += rest & _MASK
        cut = starts.searchsorted(key, "right")
        cut -= 1
        cuts[begin : begin + lanes] = cut
        key -= starts.take(cut)
        rest >>= _SHIFT
        rest *= sizes.take(cut)
        rest += key
        at = _filled(rest, words, at)
    return symbol_of.take(cuts), at


def _filled(x: NDArray[np.uint32], words: NDArray[np.uint32], at: int) -> int:
    """A word for each state that is too small, in place; where the next word is."""
    (empty,) = (x < _LOW).nonzero()
    more = len(empty)
    if more:
        if at + more > len(words):
            raise _corrupt()
        x[empty] = (x[empty] << _SIXTEEN) | words[at : at + more]
    return at + more


def _corrupt() -> Corrupt:
    return Corrupt("the packed symbols of a tensor do not decode", code="bad_packed")
