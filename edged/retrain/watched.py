"""What is watched of one camera under one model: its margins, those of each class it names, its last features. Pure.

Guarantees: cheap and of bounded size whatever comes (sums of blocks are kept, no sample and, but for the first window, no
feature); values that are no numbers are left out. Features are taken relative to the mean of the class that the camera
named, so that a morning when the car park fills is no drift. The line of each look is alert_p shared out among the
figures that are looked at (Bonferroni), so that it holds for the camera as a whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edged.retrain import twosample
from edged.retrain.ownpast import Floats, beyond, nearest
from edged.retrain.series import BLOCKS, Block, Look, Series

CLASSES = 16  # most classes that are watched by themselves: the first that were seen often enough
LEAST = 50  # samples of a class in a window
CENTRED = 20  # samples of a class in the first window, from which its mean is taken; rarer ones get that of all


@dataclass
class _Filling:
    """A block that is not full yet."""

    ts: list[float] = field(default_factory=list)
    margin: list[float] = field(default_factory=list)
    class_: list[str] = field(default_factory=list)


class Watched:
    """`window` samples, `alert_p` as in [drift]."""

    def __init__(self, window: int, alert_p: float) -> None:
        self._window, self._alert_p = window, alert_p
        self._block = max(1, window // BLOCKS)
        self._filling = _Filling()
        self._all = Series(window, nearest)
        self._classes: dict[str, Series] = {}
        self._seen: Counter[str] = Counter()
        self._features: Series | None = None
        self._embedding: twosample.Embedding | None = None
        self._centre: dict[str, Floats] = {}
        self._vectors: list[tuple[float, str, NDArray[np.float32]]] = []
        self.samples = 0

    def line(self, figure: str = "") -> float:
        """The p of one look that counts: a third of alert_p for all margins, one for features, one shared by the classes."""
        return self._alert_p / 3 / (max(1, len(self._classes)) if figure else 1)

    def take(self, ts: float, class_: str, margin: float) -> dict[str, Look]:
        """One answer: class "" -> look at all, name -> look at that class; {} while the block is not full."""
        if not np.isfinite(margin) or not np.isfinite(ts):
            return {}
        self.samples += 1
        f = self._filling
        f.ts.append(ts)
        f.margin.append(min(max(float(margin), 0.0), 1.0))
        f.class_.append(class_)
        return self._close() if len(f.ts) >= self._block else {}

    def _close(self) -> dict[str, Look]:
        f, self._filling = self._filling, _Filling()
        ts = float(np.median(f.ts))
        self._seen.update(f.class_)
        for name, n in self._seen.most_common(CLASSES):
            if (
                name
                and n >= LEAST
                and name not in self._classes
                and len(self._classes) < CLASSES
                and len(self._seen) > 1
            ):
                self._classes[name] = Series(self._window, nearest, LEAST)
        self._all.add(Block(twosample.cumulative(f.margin), len(f.ts), ts))
        looks = {"": self._all.look(self.line())}
        named = np.array(f.class_)
        margin = np.array(f.margin)
        for name, series in self._classes.items():
            own = margin[named == name]
            series.add(Block(twosample.cumulative(own), len(own), ts))
            looks[name] = series.look(self.line(name))
        return looks

    def take_features(self, ts: float, class_: str, vector: NDArray[np.float32]) -> Look | None:
        """One sample's features [d] and the class that was named with them; None while the block is not full. Another
        length begins anew.
        """
        if not np.isfinite(vector).all() or not np.isfinite(ts):
            return None
        if self._vectors and self._vectors[0][2].shape != vector.shape:
            self.forget_features()
        self._vectors.append((ts, class_, vector))
        if self._embedding is None:  # the first window sets the kernel's width and the classes' means
            if len(self._vectors) < self._window:
                return None
            self._begin_features()
        look = None
        while len(self._vectors) >= self._block:
            look = self._close_features()
        return look

    def _begin_features(self) -> None:
        first = np.stack([v for _, _, v in self._vectors])
        self._embedding = twosample.Embedding(first.shape[1], twosample.width(first))
        self._features = Series(self._window, beyond)
        named = np.array([c for _, c, _ in self._vectors])
        self._centre = {"": self._embedding.total(first) / len(first)}
        for class_ in np.unique(named):
            own = named == class_
            if own.sum() >= CENTRED:
                self._centre[str(class_)] = self._embedding.total(first[own]) / own.sum()

    def _close_features(self) -> Look:
        assert self._embedding is not None
        assert self._features is not None
        block, self._vectors = self._vectors[: self._block], self._vectors[self._block :]
        total = self._embedding.total(np.stack([v for _, _, v in block]))
        for class_, n in Counter(c for _, c, _ in block).items():
            total -= n * self._centre.get(class_, self._centre[""])
        self._features.add(Block(total, len(block), float(np.median([t for t, _, _ in block]))))
        return self._features.look(self.line())

    def forget_features(self) -> None:
        """Another network looks from now on: its features compare with no others."""
        self._features, self._embedding = None, None
        self._vectors = []
