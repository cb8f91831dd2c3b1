"""Is the newest window further from a camera's past than windows of that past are from one another? Pure.

Neighbouring pictures are not independent: a parked car stands in them for hours, the sun moves. A p-value that counts samples
therefore raises alarms all day. Here a whole window is one observation. The past is cut into windows of the same length (tiles);
the distance of each from all the others says what is usual, slow swings included, and the newest window's distance is
held against that:

    squared distances are taken as scaled chi-squares; scale and degrees of freedom by their mean and variance
    (Satterthwaite, Biometrics Bulletin 2, 1946); the newest over their mean is then F(v, v * tiles)

With few tiles F has heavy tails: little is known, and only a great change is one. A day's rhythm is dealt with in two ways:
`nearest` compares with tiles of about the same hour of other days alone where there are enough; `beyond` looks only at
what is left after the directions in which the past itself swings most are taken out (the residual or Q statistic of
process control: Jackson and Mudholkar, Technometrics 21, 1979). Guarantees no rate: docs/drift.md has what was measured. Cannot
tell drift from what comes for the first time, such as the first night.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEWEST = 4  # tiles without which nothing is said
DAY_S = 86400.0
SAME_HOUR_S = 5400.0  # half the width of "about the same hour"
FREEDOM = 1.0  # degrees v of `nearest`: margins swing along one line, and one degree has the heaviest tail
SWINGS = 8  # directions that `beyond` takes out at most, and at most a third of what the tiles could tell
FOLDS = 10  # stretches of the past that are held against the rest


@dataclass(frozen=True)
class Tile:
    """One window: its mean vector, the middle of its camera time in seconds since 1970, and how many samples it has."""

    mean: Floats
    ts: float
    n: int


@dataclass(frozen=True)
class Answer:
    """`distance` of the newest window from its past, `usual` the root of the past's mean square, `p` 0..1, `tiles` it
    stands on, `same_hour`: compared with the same hours of other days; `new_hour`: no tile is of about this hour.
    """

    distance: float
    usual: float
    p: float
    tiles: int
    same_hour: bool
    new_hour: bool


def nearest(now: Tile, past: Sequence[Tile]) -> Answer | None:
    """By the largest difference of the vectors' entries (of cumulative distributions: KS), with the same hours of other
    days if at least FEWEST tiles have such. None with fewer than FEWEST tiles.
    """
    if len(past) < FEWEST:
        return None
    means, weights, times = _stacked(past)
    near = _same_hour(times, times)
    new = _same_hour(np.array([now.ts]), times)[0]
    matched = near.any(1)
    same_hour = bool(new.any()) and int(matched.sum()) >= FEWEST
    others = near[matched] if same_hour else np.stack([_apart(j, j, len(past)) for j in range(len(past))])
    own = means[matched] if same_hour else means
    usual = np.abs(own - _mean(others, means, weights)).max(1) ** 2
    chosen = new if same_hour else np.ones(len(past), bool)
    found = float(np.abs(now.mean - _mean(chosen[None], means, weights)[0]).max()) ** 2
    return _answer(found, usual, FREEDOM, now, times, same_hour)


def beyond(now: Tile, past: Sequence[Tile]) -> Answer | None:
    """By the Euclidean distance (of mean embeddings: MMD) beyond the past's own swings. None with fewer than FEWEST tiles."""
    if len(past) < FEWEST:
        return None
    means, weights, times = _stacked(past)
    usual = np.zeros(len(past))
    for fold in np.array_split(np.arange(len(past)), min(FOLDS, len(past))):
        others = _apart(int(fold[0]), int(fold[-1]), len(past))
        usual[fold] = (_residual(means[fold], means[others], weights[others]) ** 2).sum(1)
    found = float((_residual(now.mean[None], means, weights) ** 2).sum())
    return _answer(found, usual, len(past) / 2, now, times, False)


def _residual(rows: Floats, means: Floats, weights: Floats) -> Floats:
    """What of `rows` lies outside the largest swings of `means` about their own mean."""
    share = weights / weights.sum()
    centre = share @ means
    apart: Floats = rows - centre
    swings = min((len(means) - 1) // 3, SWINGS)
    if swings:
        scaled = (means - centre) * np.sqrt(share)[:, None]
        values, vectors = np.linalg.eigh(scaled @ scaled.T)  # of the small side: tiles, not entries
        top = values[-swings:] > 1e-12 * max(values[-1], 1e-300)
        directions = (vectors[:, -swings:][:, top] / np.sqrt(values[-swings:][top])).T @ scaled
        apart = apart - (apart @ directions.T) @ directions
    return apart


def _answer(found: float, usual: Floats, freedom: float, now: Tile, times: Floats, same_hour: bool) -> Answer:
    known = bool((_hours_apart(np.array([now.ts]), times)[0] <= SAME_HOUR_S).any())
    p = tail(found, usual, freedom)
    return Answer(math.sqrt(found), math.sqrt(float(usual.mean())), p, len(usual), same_hour, not known)


def tail(found: float, usual: Floats, freedom: float) -> float:
    """The chance of `found` or more where squared distances `usual` are usual; v is at least 1, `freedom` at most: few
    tiles tell it badly, and fewer degrees have heavier tails.
    """
    scale, m = float(usual.mean()), len(usual)
    if scale <= 0:  # the past never changed at all: any change is one, but the first may be an accident
        return 1.0 if found <= 0 else 1.0 / (m + 1)
    variance = float(usual.var(ddof=1))
    v = max(1.0, min(2 * scale * scale / variance if variance > 0 else freedom, freedom))
    return f_tail(found / scale, v, v * m)


def _stacked(past: Sequence[Tile]) -> tuple[Floats, Floats, Floats]:
    means = np.stack([t.mean for t in past])
    return means, np.array([t.n for t in past], np.float64), np.array([t.ts for t in past])


def _apart(first: int, last: int, n: int) -> NDArray[np.bool_]:
    """All tiles but those from `first` to `last`, and their neighbours where there are enough others: they share cars."""
    keep = np.ones(n, bool)
    keep[max(0, first - 1) : last + 2] = False
    if keep.sum() < FEWEST:
        keep[:] = True
        keep[first : last + 1] = False
    return keep


def _mean(chosen: NDArray[np.bool_], means: Floats, weights: Floats) -> Floats:
    """The weighted mean of the chosen rows, for each row of `chosen`."""
    share = chosen * weights
    found: Floats = (share @ means) / share.sum(1, keepdims=True)
    return found


def _hours_apart(a: Floats, b: Floats) -> Floats:
    gap = np.abs(a[:, None] - b[None, :]) % DAY_S
    found: Floats = np.minimum(gap, DAY_S - gap)
    return found


def _same_hour(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """Whether times are of about the same hour of other days."""
    other_day = np.abs(a[:, None] - b[None, :]) > DAY_S / 2
    same: NDArray[np.bool_] = (_hours_apart(a, b) <= SAME_HOUR_S) & other_day
    return same


def f_tail(x: float, d1: float, d2: float) -> float:
    """P(F(d1, d2) >= x): the regularised incomplete beta function (Abramowitz and Stegun, 26.6.2)."""
    if not x > 0:
        return 1.0
    return _beta(d2 / (d2 + d1 * x), d2 / 2, d1 / 2)


def _beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction, evaluated by Lentz's method (A&S 26.5.8; Press et al., Numerical Recipes, 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    total = d
    for m in range(1, 400):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 + step * d, 1 + step / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return math.exp(log) * total / a
