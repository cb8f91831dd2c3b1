"""How alike two pictures look: a 64-bit difference hash, and how many bits apart two are.

dHash after N. Krawetz, "Kind of Like That", hackerfactor.com, 2013: grey, shrunk to 9x8, a bit for each pixel that is
darker than its right neighbour, row by row, the first one most significant. The shrinking is by area, so it does not
depend on the picture's size.

Guarantees: the same pixels give the same number, as a signed 64-bit integer (what SQLite stores). Does not guarantee that
pictures of one hash are the same, nor that a moved or mirrored picture is found again.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

COLUMNS, ROWS = 8, 8


def difference_hash(image: NDArray[np.uint8]) -> int:
    """The hash of a BGR picture, uint8 [h, w, 3] of any size."""
    # Shrunk before it is grey: the same up to rounding, and the larger picture is read once.
    small = cv2.resize(image, (COLUMNS + 1, ROWS), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    bits = np.packbits(grey[:, :-1] < grey[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def distance(one: int, other: int) -> int:
    """Bits in which two hashes differ, 0..64."""
    return ((one ^ other) & 0xFFFFFFFFFFFFFFFF).bit_count()
