"""Winograd's minimal filtering F(m, r): m outputs of an r-tap filter by m + r - 1 multiplications (in two dimensions squared).

Lavin and Gray, arXiv 1509.09308. The matrices are those of Toom and Cook at the points 0, 1, -1, 2, -2, 1/2, -1/2 and
infinity, made by transposing polynomial multiplication (Barabasz et al., arXiv 1803.10986: these points err least);
F(2, 3) and F(4, 3) are the paper's up to signs.
"""

from __future__ import annotations

import numpy as np

from edged.retrain.rewrite import bilinear
from edged.retrain.rewrite.bilinear import Lines, Matrix
from edged.retrain.rewrite.graph import Conv, Draft

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)


def matrices(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """(back [m, a], taps [a, r], data [a, a]) with a = m + r - 1: outputs = back @ ((taps @ kernel) * (data @ line))."""
    a = m + r - 1
    points = np.array(POINTS[: a - 1])
    if len(points) < a - 1:
        raise ValueError(f"F({m}, {r}) needs more points than there are")

    def evaluated(n: int) -> Matrix:
        at_infinity = np.zeros((1, n))
        at_infinity[0, -1] = 1
        return np.concatenate([points[:, None] ** np.arange(n), at_infinity])

    scale = np.array([np.prod([p - q for q in points if q != p]) for p in points] + [1.0])
    data = np.linalg.inv(evaluated(a)).T * scale[:, None]
    return evaluated(m).T, evaluated(r) / scale[:, None], data


def lines(m: int, r: int) -> Lines:
    back, taps, data = matrices(m, r)
    return Lines(
        m, data=data[None], taps=taps[None], data2=data[None, :, None], taps2=taps[None, :, None],
        back2=back.T[None, None], back=back.T[None],
    )  # fmt: skip


def applies(conv: Conv, m: int) -> bool:
    return conv.plain and conv.strides == (1, 1) and all(k >= 2 and m + k - 2 <= len(POINTS) for k in conv.kernel)


def rewrite(draft: Draft, m: int) -> None:
    down, across = (lines(m, k) for k in draft.conv.kernel)
    bilinear.rewrite(draft, down, across)


def work(conv: Conv, m: int) -> tuple[int, int]:
    """(multiply-adds of one picture, bytes of the transformed kernel that the runtime will hold)."""
    down, across = (lines(m, k) for k in conv.kernel)
    return bilinear.work(conv, down, across)
