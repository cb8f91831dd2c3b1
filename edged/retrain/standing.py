"""How networks stand on the tune split: new and old apart, by class and camera, and paired against each other. Pure numpy.

Guarantees: accuracies weigh each sample once; `lost` tells of every old class and camera that fell by more than is allowed,
however small; `better` is a one-sided paired test. Does not guarantee that a small tune split shows a small difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def forgot(now: Standing, start: Standing) -> bool:
    """Whether the old is plainly known worse than at the start: by more than FORGET, and by more than chance (paired, 5 %)."""
    n = start.new
    return start.old_accuracy - now.old_accuracy > FORGET and better(start.right[n:], now.right[n:])


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
