"""Deterministic pictures for known-answer tests: the box and every camera draw the same bytes from a seed.

Guarantees: `picture(seed, px)` is the same on every machine, Python and numpy, since it uses integers only and brings
its own random numbers (xorshift32, Marsaglia 2003). Does not guarantee: that the pictures look like anything; they have
soft blobs, hard edges and stripes so that classifiers answer differently from seed to seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class _Numbers:
    """xorshift32; the state is never 0."""

    def __init__(self, seed: int) -> None:
        self.state = (seed * 2654435761 + 0x9E3779B9) & 0xFFFFFFFF or 1
        for _ in range(8):
            self.below(2)

    def below(self, n: int) -> int:
        """0 <= value < n."""
        x = self.state
        x ^= (x << 13) & 0xFFFFFFFF
        x ^= x >> 17
        x ^= (x << 5) & 0xFFFFFFFF
        self.state = x
        return (x >> 8) % n


def picture(seed: int, px: int) -> NDArray[np.uint8]:
    """A BGR picture [px,px,3] for seed >= 0 and 8 <= px <= 4096."""
    if seed < 0 or not 8 <= px <= 4096:
        raise ValueError(f"picture(seed={seed}, px={px}): seed >= 0 and 8 <= px <= 4096 are needed")
    numbers = _Numbers(seed)
    canvas = _blobs(numbers, px, cells=2 + numbers.below(5))
    for _ in range(2 + numbers.below(5)):
        _shape(numbers, canvas)
    return canvas.astype(np.uint8)


def _blobs(numbers: _Numbers, px: int, cells: int) -> NDArray[np.int64]:
    """Random colours on a coarse grid, interpolated linearly in 1/256ths."""
    grid = np.array([numbers.below(256) for _ in range((cells + 1) * (cells + 1) * 3)], dtype=np.int64)
    grid = grid.reshape(cells + 1, cells + 1, 3)
    at = np.arange(px, dtype=np.int64) * cells * 256 // px
    cell, part = at // 256, at % 256
    rows = grid[cell] * (256 - part)[:, None, None] + grid[cell + 1] * part[:, None, None]
    mixed = rows[:, cell] * (256 - part)[None, :, None] + rows[:, cell + 1] * part[None, :, None]
    return np.asarray(mixed // 65536, dtype=np.int64)


def _shape(numbers: _Numbers, canvas: NDArray[np.int64]) -> None:
    """One box, disc or field of stripes in a random colour, drawn in place."""
    px = canvas.shape[0]
    kind = numbers.below(3)
    cx, cy, size = numbers.below(px), numbers.below(px), 2 + numbers.below(px // 2)
    colour = np.array([numbers.below(256) for _ in range(3)], dtype=np.int64)
    aspect = 1 + numbers.below(4)
    y, x = np.mgrid[0:px, 0:px].astype(np.int64)
    box = (np.abs(x - cx) * 2 <= size) & (np.abs(y - cy) * 2 * aspect <= size)
    if kind == 0:
        where = box
    elif kind == 1:
        where = (x - cx) ** 2 * 4 + (y - cy) ** 2 * 4 * aspect <= size * size
    else:
        where = ((x * aspect + y) * 16 // px % 2 == 0) & (np.abs(x - cx) * 2 <= size)
    canvas[where] = colour
