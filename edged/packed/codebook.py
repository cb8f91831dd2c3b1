"""The distinct values of a tensor, as whole numbers of 8 to 64 bits. docs/format.md, 7.

Either a grid, when every value is a small whole multiple of one float32 (what uniform quantisation leaves), or a sorted
list of differences without the low bits that are zero in all of them (what rounding to fewer bits leaves).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed.rangecoder import Decoder, Encoder

_LARGEST_LEVEL = 127


def write(side: Encoder, values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Sends distinct values; returns them in the order in which the decoder will have them."""
    bits = values.itemsize * 8
    found = grid(values) if bits == 32 else None
    if bits == 32:
        side.bit("grid", found is not None)
    if found is not None:
        step, levels = found
        side.raw(step, 32)
        at = -_LARGEST_LEVEL - 1
        for level in levels:
            side.number("level", level - at - 1)
            at = level
        return _multiples(step, levels)
    ordered = np.sort(values)
    union = int(np.bitwise_or.reduce(ordered)) if len(ordered) else 0
    zeros = (union & -union).bit_length() - 1 if union else 0
    side.number("zeros", zeros)
    last, width = -1, bits - zeros
    for value in ordered.tolist():
        side.number(("step", width), (value >> zeros) - last - 1)
        last = value >> zeros
    return ordered


def read(side: Decoder, count: int, item: int) -> NDArray[np.unsignedinteger]:
    """`count` values of `item` bytes. Raises Corrupt."""
    kind, bits = np.dtype(f"<u{item}"), item * 8
    if bits == 32 and side.bit("grid"):
        step, at = side.raw(32), -_LARGEST_LEVEL - 1
        levels = []
        for _ in range(count):
            at += side.number("level") + 1
            levels.append(at)
        if count and at > _LARGEST_LEVEL:
            raise Corrupt("a level of a codebook is out of range", code="bad_packed")
        return _multiples(step, levels)
    zeros = side.number("zeros")
    if zeros >= bits:
        raise Corrupt("a codebook of no bits", code="bad_packed")
    values, last = [], -1
    for _ in range(count):
        last += side.number(("step", bits - zeros)) + 1
        values.append(last << zeros)
    if values and values[-1] >> bits:
        raise Corrupt("a value of a codebook is out of range", code="bad_packed")
    return np.array(values, kind)


def grid(values: NDArray[np.unsignedinteger]) -> tuple[int, list[int]] | None:
    """(bits of a float32, sorted multiples) that give exactly these float32 patterns by one multiplication each."""
    floats = values.view("<f4")
    if len(values) < 3 or not np.isfinite(floats).all() or not floats.all():
        return None
    sizes = np.sort(np.abs(floats.astype(np.float64)))
    least = sizes[0]
    if sizes[-1] > least * 16 * _LARGEST_LEVEL:
        return None
    wanted = np.sort(values)
    for multiple in range(1, 17):
        for step in _near(np.float32(least / multiple)):
            levels = np.rint(floats.astype(np.float64) / float(step))
            if np.abs(levels).max() > _LARGEST_LEVEL:
                break
            ordered = sorted(int(n) for n in levels)
            bits = int(np.float32(step).view("<u4"))
            if len(set(ordered)) == len(values) and np.array_equal(np.sort(_multiples(bits, ordered)), wanted):
                return bits, ordered
    return None


def _near(step: np.float32) -> list[np.float32]:
    """It and its neighbours: the division was rounded."""
    found = [step]
    for towards in (np.float32(0), np.float32(np.inf)):
        at = step
        for _ in range(3):
            at = np.nextafter(at, towards)
            found.append(at)
    return [s for s in found if s > 0]


def _multiples(step: int, levels: list[int]) -> NDArray[np.unsignedinteger]:
    with np.errstate(all="ignore"):
        product = np.array(levels, "<f4") * np.array([step], "<u4").view("<f4")
    return np.asarray(product.view("<u4"))
