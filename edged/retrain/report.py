"""The numbers of one re-test, each saying whether it was measured or estimated, and the statistics behind them. Pure,
light.

Wilson's interval: E. B. Wilson, JASA 22 (1927). Paired difference: Agresti & Min, Statistics in Medicine 24 (2005),
the Wald interval after adding a half to each cell of the 2x2 table.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from edged.interval import wilson

Z_95_ONE_SIDED = 1.644854


class Number(Struct, frozen=True):
    """One figure and where it comes from. `lower` and `upper` are the ends of what it may really be."""

    value: float
    how: Literal["measured", "estimated"]
    basis: str
    lower: float | None = None
    upper: float | None = None


class Share(Struct, frozen=True):
    """`right` of `n` pictures, with Wilson's 95 % interval; accuracy 0 of no pictures."""

    right: int
    n: int
    accuracy: float
    lower: float
    upper: float


class Pair(Struct, frozen=True):
    """New model and baseline on the same pictures. `lost`: baseline right and new wrong; `won`: the reverse."""

    n: int
    right: int  # the new model's
    baseline_right: int
    lost: int
    won: int


class Report(Struct, frozen=True, kw_only=True):
    """What one model file did on the frozen hold-out under one device's limits."""

    device: str
    sha256: str
    size: int  # bytes of the delivered file
    runtime: str
    classes: tuple[str, ...]
    n: int  # hold-out crops that were tested
    skipped: int  # hold-out crops that could not be read
    accuracy: Share
    per_class: dict[str, Share]
    per_camera: dict[str, Share]
    confusion: tuple[tuple[int, ...], ...]  # [true class][answer]
    latency_ms_p50: Number  # four regions: cut, to float, marshal, infer, decode
    latency_ms_p95: Number
    stages_ms: dict[str, float]  # medians of the stages of the same
    fps_here: Number
    fps_device: Number
    memory_bytes: Number
    power_w: Number | None
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    baseline: str = ""  # sha256, "" = there was none
    pair: Pair | None = None
    pair_per_class: dict[str, Pair] = {}
    pair_per_camera: dict[str, Pair] = {}
    known_answer: dict[str, object] = {}


def share(right: int, n: int) -> Share:
    """Accuracy with Wilson's interval."""
    return Share(right, n, right / n if n else 0.0, *wilson(right, n))


def loss_bound(pair: Pair) -> float:
    """The largest loss of accuracy (baseline minus new, -1..1) that the pairs still allow, one-sided at 95 %.

    Rises by every picture lost and falls by every one won. 1 of no pictures.
    """
    if pair.n == 0:
        return 1.0
    n, lost, won = pair.n + 2, pair.lost + 0.5, pair.won + 0.5
    difference = (lost - won) / n
    return difference + Z_95_ONE_SIDED * math.sqrt(max(0.0, lost + won - (lost - won) ** 2 / n)) / n


def mcnemar(pair: Pair) -> float:
    """McNemar's exact two-sided p that the two models are equally good (binomial test on the discordant pictures)."""
    n, k = pair.lost + pair.won, min(pair.lost, pair.won)
    if n == 0:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / (1 << n))
