"""How networks stand on the tune split: new and old apart, by class and camera, and paired against each other. Pure numpy.

Guarantees: accuracies weigh each sample once; `lost` tells of every old class and camera that fell by more than is allowed,
however small; `better` is a one-sided paired test; `wrong_at_most` counts neighbours in time as the few looks that they are.
Does not guarantee that a small tune split shows a small difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.interval import wilson

FORGET = 0.01  # accuracy that an old camera or class may lose unsaid
Z = 1.645  # one-sided 5 %


@dataclass(frozen=True)
class Standing:
    """`loss` float [n] cross entropy, `right` bool [n]; the first `new` samples are new."""

    loss: NDArray[np.float64]
    right: NDArray[np.bool_]
    new: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean()) if len(self.right) else 0.0

    @property
    def new_accuracy(self) -> float:
        return float(self.right[: self.new].mean()) if self.new else 0.0

    @property
    def old_accuracy(self) -> float:
        return float(self.right[self.new :].mean()) if self.new < len(self.right) else 0.0

    @property
    def weight(self) -> NDArray[np.float64]:
        """Of each sample, summing to 1: new and old count half each, where there are both."""
        n, m = self.new, len(self.right) - self.new
        if not n or not m:
            return np.full(n + m, 1 / max(1, n + m))
        return np.concatenate([np.full(n, 0.5 / n), np.full(m, 0.5 / m)])

    @property
    def balanced(self) -> float:
        """Accuracy, new and old by halves."""
        return float((self.weight * self.right).sum())

    @property
    def worth(self) -> float:
        """One figure to choose by: balanced accuracy, less a little of the loss to part equals."""
        return self.balanced - 0.02 * float((self.weight * np.minimum(self.loss, 5)).sum())

    @property
    def mean_loss(self) -> float:
        return float((self.weight * self.loss).sum())


def of(logits: NDArray[np.float32], labels: NDArray[np.int64], new: int) -> Standing:
    """Logits [n, classes] and truth."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_odds = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return Standing(-log_odds[np.arange(len(labels)), labels], logits.argmax(1) == labels, new)


def better(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether `one` is right more often than `other` on the same samples: McNemar's test, one-sided, 5 %."""
    won, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return won - lost > Z * math.sqrt(won + lost)


def gained(now: Standing, start: Standing) -> bool:
    """Whether the new is plainly known better than at the start: more right answers, or less loss (both paired, 5 %)."""
    n = start.new
    one, other = (Standing(s.loss[:n], s.right[:n], n) for s in (now, start))
    return better(one.right, other.right) or worse_by(one, other) < -Z


def plainly(one: Standing, other: Standing) -> bool:
    """Whether `one` is plainly better than `other`, on the new or on the old: more right answers (paired, 5 %)."""
    n = one.new
    return better(one.right[:n], other.right[:n]) or better(one.right[n:], other.right[n:])


def forgot(now: Standing, start: Standing) -> bool:
    """Whether the old is plainly known worse than at the start: by more than FORGET, and by more than chance (paired, 5 %)."""
    n = start.new
    return start.old_accuracy - now.old_accuracy > FORGET and better(start.right[n:], now.right[n:])


def wrong_at_most(now: Standing, blocks: NDArray[np.int64]) -> float:
    """Upper bound (one-sided 95 %) of the share of the new that is wrong, 0..1; 1 where all stand in one block of time.

    `blocks` int64 [new]: equal for neighbours, which are right or wrong together. Sixty of five blocks tell less than sixty by
    themselves: they count as the number that, drawn by itself, would be as sure (variance between blocks; Student's t for their
    number), as Korn & Graubard do it for surveys of clusters (Survey Methodology 24, 1998), in Wilson's interval.
    """
    wrong = ~now.right[: now.new]
    n = len(wrong)
    _, place = np.unique(blocks, return_inverse=True)
    groups = int(place.max(initial=-1)) + 1
    if groups < 2:
        return 1.0
    share = float(wrong.mean())
    off = np.bincount(place, wrong - share)
    variance = groups / (groups - 1) * float((off**2).sum()) / n**2
    alone = min(n, share * (1 - share) / variance) if variance > 0 else n
    counted = alone * (student(n - 1) / student(groups - 1)) ** 2
    return wilson(share * counted, counted, Z)[1]


def student(freedom: int) -> float:
    """The 95 % point of Student's t, within 0.1 %: exact for 1 and 2 degrees of freedom, else the series of Abramowitz & Stegun,
    26.7.5."""
    if freedom <= 2:
        return math.tan(0.45 * math.pi) if freedom < 2 else 0.9 * math.sqrt(2 / (1 - 0.9**2))
    z, v = 1.6448536, float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (i + 1) for i, term in enumerate(terms))


def worse_by(one: Standing, other: Standing) -> float:
    """How many standard errors the loss of `one` lies above that of `other`, on the same samples; losses are cut at 5."""
    difference = np.minimum(one.loss, 5) - np.minimum(other.loss, 5)
    weight = one.weight
    mean = float((weight * difference).sum())
    error = math.sqrt(float((weight**2 * (difference - mean) ** 2).sum()))
    return mean / error if error > 0 else (0.0 if mean == 0 else math.copysign(math.inf, mean))


def lost(
    now: Standing, start: Standing, labels: NDArray[np.int64], cameras: Sequence[str], classes: Sequence[str]
) -> tuple[str, ...]:
    """A sentence for each class and camera of the old samples that fell by more than FORGET."""
    told = []
    old = np.arange(len(now.right)) >= now.new
    groups = [(f"class {name}", labels == i) for i, name in enumerate(classes)]
    names = np.array(cameras, dtype=object)
    groups += [(f"camera {name}", names == name) for name in sorted(set(cameras))]
    for name, mask in groups:
        of_it = mask & old
        n = int(of_it.sum())
        if not n:
            continue
        was, is_now = float(start.right[of_it].mean()), float(now.right[of_it].mean())
        if was - is_now > FORGET:
            told.append(f"{name} fell from {was:.1%} to {is_now:.1%} of {n}")
    return tuple(told)
