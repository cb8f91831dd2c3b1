"""The numbers of one re-test, each saying whether it was measured or estimated, and the statistics behind them. Pure,
light.

Wilson's interval: E. B. Wilson, JASA 22 (1927). Paired difference: T. Tango, Statistics in Medicine 17 (1998), the score
interval. Of all outcomes at a true loss of 2 or 5 points on 50 to 400 pictures its one-sided 95 % bound stays below the true
loss in at most 6.8 % (tests/retrain/test_gate.py counts them); the adjusted Wald interval, simpler, in up to 19.5 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal

from msgspec import Struct

from edged.interval import wilson

SURE = 0.95  # one-sided


class Number(Struct, frozen=True):
    """One figure and where it comes from. `lower` and `upper` are the ends of what it may really be. "unknown": the value
    is 0 and means nothing, `basis` says why.
    """

    value: float
    how: Literal["measured", "estimated", "unknown"]
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


class Pinned(Struct, frozen=True):
    """Pictures that a model must get right (storage/pins.py): sample ids. `lost` of the `failed` ones the baseline had
    right; `left_out` sentences say which could not be tested.
    """

    n: int
    right: int
    failed: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


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
    size_packed: int = 0  # bytes of the packed form (docs/format.md), 0 = it was not made
    cold_start_ms: Number | None = None  # to load the file in a fresh process and answer for the first time
    fps_regions: dict[str, Number] = {}  # "1" to "4" regions of a frame: frames/s on the device
    pinned: Pinned | None = None
    not_numbers: int = 0  # hold-out crops whose answer was NaN or infinite; they count as wrong
    file: str = "onnx"  # what is delivered to the device (device.File)
    kernels: tuple[str, ...] = ()  # sentences about layers that run slowly there (rewrite/kernels.py)
    isa_failed: bool = False  # it did run there, and ended or answered otherwise
    imposed: tuple[str, ...] = ()  # sentences: the device's limits as they were set while speed was measured
    beside: int = 0  # other processes of the same re-test that were at work while speed was measured
    isa: str = ""  # a sentence: whether it ran under an emulator of the device's processor


def share(right: int, n: int) -> Share:
    """Accuracy with Wilson's interval."""
    return Share(right, n, right / n if n else 0.0, *wilson(right, n))


def loss_bound(pair: Pair, sure: float = SURE) -> float:
    """The largest loss of accuracy (baseline minus new, -1..1) that the pairs still allow, one-sided, `sure` 0.5..1.

    Rises by every picture lost and falls by every one won. 1 of no pictures.
    """
    return _score_bound(pair.n, pair.lost, pair.won, NormalDist().inv_cdf(sure))


def needed(pair: Pair, most: float, sure: float = SURE) -> int | None:
    """How many pictures would show that at most `most` is lost if the two models go on differing as they do; None when
    no number would, since as much is lost as counted, or more than ten million.
    """
    if pair.n == 0 or (pair.lost - pair.won) / pair.n >= most:
        return None
    z, many = NormalDist().inv_cdf(sure), pair.n

    def enough(n: int) -> bool:
        return _score_bound(n, pair.lost * n / pair.n, pair.won * n / pair.n, z) <= most

    while not enough(many):
        if many > 10_000_000:
            return None
        many *= 2
    few = pair.n
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle + 1, many)
    return many


def _score_bound(n: int, lost: float, won: float, z: float) -> float:
    """Tango's upper bound: the difference d where (lost - won - n d) / sqrt(n (2 q + d (1 - d))) is -z; q is the chance of
    winning a picture that makes the pairs likeliest at d.
    """
    if n == 0:
        return 1.0
    seen = lost - won

    def beyond(d: float) -> bool:
        b = (2 * n - seen) * d - lost - won
        q = (math.sqrt(max(0.0, b * b + 8 * n * won * d * (1 - d))) - b) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        return seen - n * d < -z * math.sqrt(max(0.0, variance))

    low, high = seen / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high


def mcnemar(pair: Pair) -> float:
    """McNemar's exact two-sided p that the two models are equally good (binomial test on the discordant pictures)."""
    n, k = pair.lost + pair.won, min(pair.lost, pair.won)
    if n == 0:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / (1 << n))
