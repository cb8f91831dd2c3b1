"""Do two samples come from one distribution? Statistics that measure how far apart they are, in numpy. Pure.

`ks` and `mmd2` are the textbook's, for two arrays. `Embedding` turns many samples into one vector each, so that the distance
of any two groups of blocks of time costs one subtraction: what the watch (drifting.py) works with. Does not give p-values:
those of the textbook hold for independent samples, which neighbouring pictures are not; see ownpast.py.

    KS      the largest difference of two cumulative distributions (Kolmogorov 1933, Smirnov 1939)
    MMD     the distance of two means in the space of a kernel (Gretton et al., JMLR 13, 2012); here exp(-|x - y|^2 / 2 s^2)
            with s the median distance of two samples
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MEDIAN_OF = 400  # samples whose distances set the kernel's width
# Where cumulative distributions of a margin are taken: close together near 1, where those of a sure network lie.
PLACES: Floats = np.unique(np.concatenate([np.linspace(0, 0.9, 37), 1 - np.geomspace(0.1, 1e-6, 61), [1.0]]))


def ks(x: ArrayLike, y: ArrayLike) -> float:
    """Kolmogorov-Smirnov's statistic of two 1-d samples, 0..1; not-a-numbers are left out, 0 of an empty sample."""
    a, b = _finite(x), _finite(y)
    if not len(a) or not len(b):
        return 0.0
    every = np.concatenate([a, b])
    below_a = np.searchsorted(a, every, side="right") / len(a)
    below_b = np.searchsorted(b, every, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())


def _finite(x: ArrayLike) -> Floats:
    values = np.asarray(x, np.float64).ravel()
    return np.sort(values[np.isfinite(values)])


def cumulative(margins: ArrayLike) -> Floats:
    """How many of the margins (0..1) are at most each of PLACES: counts, so that those of blocks add up."""
    below: Floats = np.searchsorted(_finite(margins), PLACES + 1e-12, side="right").astype(np.float64)
    return below


def width(x: ArrayLike, seed: int = 1) -> float:
    """The median distance of two rows of `x` [n, d] (of MEDIAN_OF of them), at least a tiny number: the kernel's s."""
    rows = np.asarray(x, np.float64)
    if len(rows) > MEDIAN_OF:
        rows = rows[np.random.default_rng(seed).choice(len(rows), MEDIAN_OF, replace=False)]
    above = np.sqrt(squared(rows, rows)[np.triu_indices(len(rows), 1)])
    positive = above[above > 0]
    return float(np.median(positive)) if len(positive) else 1.0


def squared(x: Floats, y: Floats) -> Floats:
    """Squared distances of rows: [n, d], [m, d] -> [n, m]."""
    every: Floats = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2 * x @ y.T
    return np.maximum(every, 0.0, out=every)


def mmd2(x: ArrayLike, y: ArrayLike, s: float, *, unbiased: bool = False) -> float:
    """Squared MMD of rows [n, d] and [m, d] under exp(-|x - y|^2 / 2 s^2): Gretton's equations (5), and (3) if `unbiased`
    (which may be a little below 0; both samples then need two rows).
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    aa, bb, ab = (np.exp(squared(p, q) / (-2 * s * s)) for p, q in ((a, a), (b, b), (a, b)))
    if not unbiased:
        return float(aa.mean() + bb.mean() - 2 * ab.mean())
    n, m = len(a), len(b)
    return float((aa.sum() - n) / (n * (n - 1)) + (bb.sum() - m) / (m * (m - 1)) - 2 * ab.mean())


class Embedding:
    """Random Fourier features of that kernel (Rahimi and Recht, NIPS 2007): the squared distance of two groups' means is
    their biased MMD up to about 1 / sqrt(pairs). The same `seed`, `d` and `s` give the same map.
    """

    def __init__(self, d: int, s: float, pairs: int = 128, seed: int = 1) -> None:
        rng = np.random.default_rng([seed, d])
        self._waves = (rng.standard_normal((d, pairs)) / s).astype(np.float32)
        self.size = 2 * pairs

    def total(self, x: ArrayLike) -> Floats:
        """The sum over rows [n, d] of their embeddings: [size]; divide by n for the mean."""
        angle = np.asarray(x, np.float32) @ self._waves
        scale = 1 / np.sqrt(self._waves.shape[1])
        both: Floats = np.concatenate([np.cos(angle).sum(0), np.sin(angle).sum(0)]).astype(np.float64) * scale
        return both
