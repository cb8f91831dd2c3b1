"""Rows and columns of a matrix by how many non-zeros they hold: the classes under which zeros cost least. docs/format.md, 8.

Where a weight survives pruning depends on its row and its column much more than on anything else that can be told in few
bytes. A place's class pair is its cell; within a cell all places are taken to be alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.errors import Corrupt
from edged.packed.rangecoder import Decoder, Encoder

MAX_CLASSES = 16
MAX_LINES = 1 << 17  # rows and columns whose classes are told
_BUCKETS = 96  # distinct counts that `fit` looks at


def entropy(ones: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that `ones` set places among `places` cost when all are alike."""
    zeros = places - ones
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = ones * np.log2(places / ones), zeros * np.log2(places / zeros)
    return np.nan_to_num(bits[0], posinf=0) + np.nan_to_num(bits[1], posinf=0)


def fit(counts: NDArray[np.int64], length: int, most: int) -> list[NDArray[np.uint8]]:
    """For 1, 2, ... `most` classes, the class of each line that makes them cheapest; a higher class is denser.

    counts[i]: non-zeros of line i, of `length` places. Optimal for sorted counts by dynamic programming (K-segments).
    """
    distinct = np.unique(counts)
    if len(distinct) > _BUCKETS:
        distinct = np.unique(np.quantile(counts, np.linspace(0, 1, _BUCKETS), method="higher"))
    bucket = np.searchsorted(distinct, counts)
    lines = np.bincount(bucket, minlength=len(distinct))
    ones = np.bincount(bucket, counts, minlength=len(distinct))
    sums = np.concatenate([[0], np.cumsum(ones)]), np.concatenate([[0], np.cumsum(lines * float(length))])
    n = len(distinct)
    low, high = np.triu_indices(n + 1, 1)
    cost = np.full((n + 1, n + 1), np.inf)
    cost[low, high] = entropy(sums[0][high] - sums[0][low], sums[1][high] - sums[1][low])
    best, found = cost[0].copy(), []
    cuts: list[NDArray[np.int64]] = []
    for _ in range(min(most, n)):
        at, edges = n, []
        for cut in reversed(cuts):
            at = int(cut[at])
            edges.append(at)
        found.append(np.searchsorted(np.array(edges[::-1]), bucket, side="right").astype(np.uint8))
        through = best[:, None] + cost
        cuts.append(through.argmin(0))
        best = through.min(0)
    return found


def write(side: Encoder, classes: Sequence[int], count: int, before: int, mode: int) -> None:
    """Sends the class of each line. `mode`: what is known of the next one: 0 nothing, 1 the last one, 2 also the one
    `before` lines ago.
    """
    width = (count - 1).bit_length()
    for i, line in enumerate(classes):
        side.pick(("class", count, *_known(classes, i, before, mode)), line, width)


def read(side: Decoder, lines: int, count: int, before: int, mode: int) -> NDArray[np.uint8]:
    width = (count - 1).bit_length()
    found: list[int] = []
    if width:
        trees: dict[tuple[int, ...], list[int]] = {}
        for i in range(lines):
            known = _known(found, i, before, mode)
            tree = trees.get(known)
            if tree is None:
                tree = trees[known] = side.tree(("class", count, *known), width)
            found.append(side.branch(tree, width))
    else:
        found = [0] * lines
    if lines and max(found) >= count:
        raise Corrupt("a class that is not there", code="bad_packed")
    return np.array(found, np.uint8)


def _known(classes: Sequence[int], i: int, before: int, mode: int) -> tuple[int, ...]:
    if mode == 0:
        return ()
    last = classes[i - 1] if i else 0
    if mode == 1:
        return (last,)
    return (last + classes[i - before] if i >= before else last,)
