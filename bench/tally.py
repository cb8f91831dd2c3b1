"""How many boxes were hidden, of how many, and how much was covered that need not have been.

A box counts as hidden when at least 90 % of it, as far as it lies in the picture, is covered by what was found of its
own kind. Its size is a face's shorter side, a plate's width. False is what is covered outside of the annotated boxes of
that kind, each grown by 25 % on every side and outward to blocks of 16 pixels (so no tool pays for a margin that it
should have), as a share of all pixels; boxes of a kind that begins with `ignore` count neither way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.annotated import Box
from edged.privacy.audit import HIDDEN_FROM, IGNORE, wilson
from edged.privacy.picture import BLOCK, hide_box

GROWN = 0.25
SIZES = (16, 32)


@dataclass
class Count:
    """`hidden` of `n`."""

    hidden: int = 0
    n: int = 0

    def add(self, hit: bool) -> None:
        self.hidden += hit
        self.n += 1

    @property
    def share(self) -> float:
        return self.hidden / self.n if self.n else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval (E. B. Wilson, JASA 22, 1927); 0 and 1 of nothing."""
        return wilson(self.hidden, self.n)

    def figures(self) -> dict[str, Any]:
        low, high = self.interval()
        share = None if not self.n else round(self.share, 4)
        return {"hidden": self.hidden, "n": self.n, "share": share, "low": round(low, 4), "high": round(high, 4)}


@dataclass
class Area:
    """`false` of `all` pixels of so many pictures."""

    false: int = 0
    all: int = 0
    pictures: int = 0

    @property
    def share(self) -> float:
        return self.false / self.all if self.all else math.nan


@dataclass
class Tally:
    """Counts by `face>=16`, `face<16`, `plate`, `plate:eu` and so on; areas by kind and by `kind:region`."""

    counts: defaultdict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    areas: defaultdict[str, Area] = field(default_factory=lambda: defaultdict(Area))

    def picture(self, kind: str, boxes: Iterable[Box], mask: NDArray[np.bool_], region: str = "") -> None:
        """One picture's boxes and what was covered as `kind` in it."""
        boxes = tuple(boxes)
        for box in boxes:
            if box.kind == kind:
                hit = share(box, mask) >= HIDDEN_FROM
                for key in keys(box):
                    self.counts[key].add(hit)
        allowed = near((b for b in boxes if b.kind == kind or b.kind.startswith(IGNORE)), mask.shape)
        false = int((mask & ~allowed).sum())
        regions = {region, *(b.region for b in boxes)} - {""}
        for key in (kind, *(f"{kind}:{one}" for one in regions)):
            self.areas[key].false += false
            self.areas[key].all += mask.size
            self.areas[key].pictures += 1

    def figures(self) -> dict[str, Any]:
        return {
            "hidden": {key: self.counts[key].figures() for key in sorted(self.counts)},
            "false_area": {key: round(self.areas[key].share, 5) for key in sorted(self.areas)},
            "pictures_of": {key: self.areas[key].pictures for key in sorted(self.areas)},
        }


def keys(box: Box) -> list[str]:
    """Where a box is counted."""
    sizes = [f"{box.kind}>={least}" for least in SIZES if box.size >= least] or [f"{box.kind}<{SIZES[0]}"]
    return [box.kind, *sizes, *([f"{box.kind}:{box.region}"] if box.region else [])]


def share(box: Box, mask: NDArray[np.bool_]) -> float:
    """How much of a box is covered, as far as it lies in the picture; 1 when nothing of it does."""
    left, top = max(0, math.floor(box.x)), max(0, math.floor(box.y))
    inside = mask[top : max(0, math.ceil(box.y + box.h)), left : max(0, math.ceil(box.x + box.w))]
    return float(inside.mean()) if inside.size else 1.0


def near(boxes: Iterable[Box], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where covering is not false."""
    height, width = shape[:2]
    blocks = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), bool)
    for box in boxes:
        hide_box(blocks, (box.x, box.y, box.w, box.h), GROWN)
    return np.repeat(np.repeat(blocks, BLOCK, 0), BLOCK, 1)[:height, :width]
