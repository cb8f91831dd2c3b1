"""Page-Hinkley's test on a stream of answers that were right or wrong: has the share of wrong ones risen? Pure.

The sum of (wrong - usual share - tolerance) falls while all is as usual; how far it has risen above its lowest point is the
statistic (Page, Biometrika 41, 1954; Hinkley, Biometrika 58, 1971). The line is Lundberg's: with t > 0 solving
E exp(t (wrong - usual - tolerance)) = 1 the line ln(n / p) / t is crossed within n answers with a chance of at most p
(Lorden, Ann. Math. Stat. 42, 1971). The usual share is the upper end of Wilson's interval of what was counted before, so
that few answers make the test slow instead of nervous. Guarantees the rate for independent answers whose share of
wrong ones is within that interval; audit samples are drawn blindly, so they nearly are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.interval import wilson

TOLERANCE = 0.025, 0.25  # fixed, and of the usual share: rises of less than twice their sum are not looked for
Z_USUAL = 1.0  # of Wilson's interval


@dataclass(frozen=True)
class Risen:
    """`height` of the statistic over `line` (1 = the alarm), the usual share of wrong answers as it was taken, the place
    since when it rises (an index into the stream), and the share of wrong ones from there on.
    """

    height: float
    line: float
    usual: float
    since: int
    wrong: float

    @property
    def score(self) -> float:
        return self.height / self.line


def test(wrong: Sequence[bool], reference: int, p: float) -> Risen | None:
    """The first `reference` answers (at least one) say what is usual, the others are watched; None where there are no
    others. `p` is the chance of a false alarm in the answers that are watched.
    """
    watched = wrong[reference:]
    if reference < 1 or not watched:
        return None
    n = reference
    usual = wilson(sum(wrong[:reference]), n, Z_USUAL)[1]
    tolerance = TOLERANCE[0] + TOLERANCE[1] * usual
    line = math.log(len(watched) / p) / lundberg(usual, tolerance)
    level, lowest, since = 0.0, 0.0, 0
    for i, w in enumerate(watched):
        level += w - usual - tolerance
        if level <= lowest:
            lowest, since = level, i + 1
    risen = watched[since:]
    return Risen(level - lowest, line, usual, reference + since, sum(risen) / len(risen) if risen else 0.0)


def lundberg(share: float, tolerance: float) -> float:
    """The t > 0 with share * exp(t) + (1 - share) = exp(t * (share + tolerance)), to 1e-9; 0 < share, tolerance."""
    drift = share + tolerance
    if drift >= 1:
        return 50.0  # it can never rise

    def excess(t: float) -> float:
        return math.log1p(share * math.expm1(t)) - t * drift

    low, high = 0.0, 1.0
    while excess(high) < 0 and high < 64:
        low, high = high, high * 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return high
