"""Which of several things is better when more than one figure counts. Pure, light.

Non-dominated sorting and crowding distance: Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE
TEC 6 (2002). Guarantees: the order does not depend on the order of what is sorted but where all figures are equal.
"""

from __future__ import annotations

from collections.abc import Sequence

Figures = Sequence[float]  # of one thing; larger is better in each


def dominates(one: Figures, other: Figures) -> bool:
    """At least as good in every figure and better in one."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def fronts(points: Sequence[Figures]) -> list[list[int]]:
    """Indices by front: the first is dominated by nothing, each next one only by those before it."""
    left, found = list(range(len(points))), []
    while left:
        front = [i for i in left if not any(dominates(points[j], points[i]) for j in left)]
        found.append(front)
        left = [i for i in left if i not in front]
    return found


def crowding(points: Sequence[Figures]) -> list[float]:
    """How far a point's neighbours lie apart, summed over the figures as shares of their range; inf at either end."""
    apart = [0.0] * len(points)
    for k in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: points[i][k])
        low, high = points[order[0]][k], points[order[-1]][k]
        apart[order[0]] = apart[order[-1]] = float("inf")
        for before, i, after in zip(order, order[1:], order[2:], strict=False):
            apart[i] += (points[after][k] - points[before][k]) / (high - low) if high > low else 0.0
    return apart


def best(points: Sequence[Figures], n: int) -> list[int]:
    """Indices of the `n` best: front by front, of the front that is cut those that stand alone."""
    chosen: list[int] = []
    for front in fronts(points):
        apart = crowding([points[i] for i in front])
        chosen += [i for _, i in sorted(zip(apart, front, strict=True), key=lambda pair: (-pair[0], pair[1]))]
        if len(chosen) >= n:
            break
    return chosen[:n]
