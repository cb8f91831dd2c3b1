"""How sure a share is that was counted on n things. Pure."""

from __future__ import annotations

import math

Z_95, Z_99 = 1.959964, 2.575829  # two-sided


def wilson(right: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's interval of right / n, 0..1 (E. B. Wilson, JASA 22, 1927), 95 % for `z` = Z_95; (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    p = right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
