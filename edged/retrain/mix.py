"""What is drawn when a model is brought up to date: all that is new, and exemplars of what is old against forgetting. Pure.

Guarantees: the same seed draws the same; no group (class, camera) of the old is left out while there is room for one of
each; no camera weighs more than its cap. Does not guarantee that the labels of a camera are right: a cap bounds what a
bad one can do, it does not find it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Groups = Sequence[tuple[str, str]]


def exemplars(groups: Groups, n: int, seed: int) -> NDArray[np.int64]:
    """Indices of at most `n` items, sorted: every group gives as many as every other, as far as it has them.

    `groups` holds (class, camera) of each item. Within a group the draw is uniform, which for a short replay is as good
    as herding (Rebuffi et al., iCaRL, arXiv 1611.07725) and needs no features of the old.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    dice = np.random.default_rng(seed)
    shuffled = [dice.permutation(members[group]).tolist() for group in sorted(members)]
    chosen: list[int] = []
    turn = 0
    while len(chosen) < min(n, len(groups)):
        for waiting in shuffled:
            if turn < len(waiting) and len(chosen) < n:
                chosen.append(waiting[turn])
        turn += 1
    return np.array(sorted(chosen), np.int64)


def chances(
    groups: Groups, new: NDArray[np.bool_], *, replay: float, balance: float, cap: float
) -> NDArray[np.float64]:
    """Chance of each item to be drawn, summing to 1.

    Old items share `replay` among them, new ones the rest (everything, where there is only one kind). Within each, a
    group of k items weighs k ** (1 - balance). A camera of three or more that would weigh more than `cap` is brought
    down to it and the others take what is freed.
    """
    sizes: dict[tuple[str, str, bool], int] = {}
    keys = [(*group, bool(is_new)) for group, is_new in zip(groups, new, strict=True)]
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    weight = np.array([sizes[key] ** -balance for key in keys], np.float64)
    for part, share in ((new, 1 - replay), (~new, replay)):
        if part.any():
            weight[part] *= (share if (~part).any() else 1.0) / weight[part].sum()
    weight /= weight.sum()
    return capped(weight, np.array([camera for _, camera in groups], dtype=object), cap)


def capped(weight: NDArray[np.float64], cameras: NDArray[np.object_], cap: float) -> NDArray[np.float64]:
    """The same chances (summing to 1) with no camera of three or more above `cap`; changes `weight`."""
    names = sorted(set(cameras))
    if len(names) < 3 or cap * len(names) <= 1:
        return weight
    fixed: set[str] = set()
    while True:  # what is freed may lift another over the cap: at most once per camera
        total = {name: float(weight[cameras == name].sum()) for name in names}
        over = [name for name in names if name not in fixed and total[name] > cap + 1e-12]
        if not over:
            return weight
        fixed |= set(over)
        free = np.array([name not in fixed for name in cameras])
        for name in over:
            weight[cameras == name] *= cap / total[name]
        rest = weight[free].sum()
        if rest <= 0:
            weight /= weight.sum()
            return weight
        weight[free] *= (1 - cap * len(fixed)) / rest
