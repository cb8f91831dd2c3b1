"""Numbers of known widths side by side in bytes, the low bit first; all of them at once with numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt

MAX_WIDTH = 32
_AT_ONCE = 1 << 12  # numbers; bounds the memory of intermediate values: about 40 bytes each
_MASKS = (np.uint64(1) << np.arange(MAX_WIDTH + 1, dtype=np.uint64)) - np.uint64(1)


def size(widths: NDArray[np.uint8]) -> int:
    """Bytes that numbers of these widths take."""
    return (int(widths.sum(dtype=np.int64)) + 7) // 8


def write(values: NDArray[np.int64], widths: NDArray[np.uint8]) -> bytes:
    """values[i] < 2 ** widths[i], widths <= 32."""
    out = np.zeros(size(widths) + 8, np.uint8)
    start = 0
    for i in range(0, len(values), _AT_ONCE):
        part = widths[i : i + _AT_ONCE]
        ends = start + np.cumsum(part, dtype=np.int64)
        at = ends - part
        start = int(ends[-1])
        word = values[i : i + _AT_ONCE].astype(np.uint64) << (at & 7).astype(np.uint64)
        first = at >> 3
        for byte in range(5):  # no bit belongs to two numbers: adding is setting
            np.add.at(out, first + byte, (word >> np.uint64(8 * byte)).astype(np.uint8))
    return out[: size(widths)].tobytes()


def read(data: bytes, widths: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What `write` was given; `data` must have `size(widths)` bytes. Raises Corrupt where bits are left that are not 0."""
    over = 8 * len(data) - int(widths.sum(dtype=np.int64))
    if data and data[-1] >> 8 - over:
        raise Corrupt("bits that belong to nothing", code="bad_packed")
    padded = data + bytes(8)
    words = np.ndarray(len(data) + 1, "<u8", padded, strides=(1,))  # the eight bytes from each byte on
    out = np.empty(len(widths), np.int64)
    start = 0
    for i in range(0, len(widths), _AT_ONCE):
        part = widths[i : i + _AT_ONCE]
        at = np.cumsum(part, dtype=np.int64)
        at += start
        end = int(at[-1])
        at -= part
        word = words[at >> 3]
        word >>= (at & 7).astype(np.uint64)
        word &= _MASKS.take(part)
        out[i : i + _AT_ONCE] = word
        start = end
    return out
