"""Answers in the order of time, with the place where drift sets in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.drifting.answers import Answers

DAY_S = 86400.0
SPACES = 12  # parking spaces of a replayed day


@dataclass(frozen=True)
class Stream:
    """`onset` None: nothing drifts. Before `onset` nothing does either."""

    name: str
    answers: Answers
    onset: int | None


def joined(*parts: Answers) -> Answers:
    return Answers(*(np.concatenate([getattr(p, f) for p in parts]) for f in Answers.__dataclass_fields__))


def shifted(x: Answers, days: float) -> Answers:
    return Answers(x.predicted, x.margin, x.features, x.right, x.ts + days * DAY_S)


def replayed(under: Sequence[Answers], spaces: NDArray, days: int, dice: np.random.Generator) -> Answers:
    """Days made of one real day: each has the real order of time and a dozen spaces of its own, drawn by lot, seen under
    one of the conditions, drawn by lot too. Kinder than real days: no weather but that of `under`, and cars come back.
    """
    parts = []
    for day in range(days):
        chosen = np.isin(spaces, dice.choice(np.unique(spaces), SPACES, replace=False))
        parts.append(shifted(under[dice.integers(len(under))].take(chosen), day))
    return joined(*parts)
