"""One figure of one camera as it comes, block by block, and whether its newest window is unlike its past. Pure.

    block    a fifth of a window of samples, summed up as one vector
    window   the newest five blocks; looked at once for each new block
    past     tiles of five blocks each, from the model's arrival on that camera

The rule against looking too often: an alarm is due when p is below the line in two looks in a row; it stands until p was
above the root of the line for a whole window of looks. While it stands, and from the first look below the line on, nothing
new enters the past, so that a drift does not become usual. The past ends at TILES tiles and then stays as it is: a slow
drift is held against what the model first saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edged.retrain import ownpast
from edged.retrain.ownpast import Answer, Floats, Tile

Compare = Callable[[Tile, Sequence[Tile]], Answer | None]

BLOCKS = 5  # in a window
TILES = 400
ROW = 2  # looks in a row


@dataclass(frozen=True)
class Block:
    """`total` the sum of its samples' vectors, `n` how many, `ts` the middle of their camera times."""

    total: Floats
    n: int
    ts: float


@dataclass(frozen=True)
class Look:
    """`answer` None = still collecting: `have` of `need` samples. `score` 1 = at the line. `alarm` stands after this look.
    `first` and `last` are the times of the past it was compared with.
    """

    n: int
    have: int
    need: int
    answer: Answer | None
    score: float
    alarm: bool
    first: float = 0.0
    last: float = 0.0
    now: Floats | None = None
    before: Floats | None = None


class Series:
    """`compare` is ownpast.nearest or ownpast.beyond; `least` samples that a window or a tile must have to count."""

    def __init__(self, window: int, compare: Compare, least: int = 0) -> None:
        self._compare, self._least, self._window = compare, least, window
        self._recent: list[Block] = []
        self._tiles: list[Tile] = []
        self._open: list[Block] = []  # of a tile
        self._held: list[Block] = []  # that may yet be drift
        self._below = self._above = 0
        self.alarm = False

    def add(self, block: Block) -> None:
        """One block on; the one that leaves the window becomes past unless something is wrong."""
        self._recent.append(block)
        if len(self._recent) > BLOCKS:
            leaving = self._recent.pop(0)
            if not self.alarm and not self._below:
                for b in (*self._held, leaving):
                    self._settle(b)
                self._held.clear()
            elif not self.alarm:
                self._held.append(leaving)
            else:
                self._held.clear()

    def _settle(self, block: Block) -> None:
        if len(self._tiles) >= TILES:
            return
        self._open.append(block)
        if len(self._open) == BLOCKS:
            if (tile := _tile(self._open)) and tile.n >= self._least:
                self._tiles.append(tile)
            self._open.clear()

    def look(self, line: float) -> Look:
        """At the newest window; to be called once after each block. `line` is the p below which it counts."""
        n = sum(b.n for b in self._recent)
        need = self._window * (ownpast.FEWEST + 1)
        have = min(need - 1, n + sum(t.n for t in self._tiles) + sum(b.n for b in self._open))
        now = _tile(self._recent)
        answer = None
        if now is not None and len(self._recent) == BLOCKS and now.n >= max(1, self._least):
            answer = self._compare(now, self._tiles)
        if answer is None or now is None:  # a class that hardly comes any more: nothing speaks for its drift
            self._judge(0.0)
            return Look(n, have, need, None, 0.0, self.alarm)
        score = float(np.log(max(answer.p, 1e-300)) / np.log(line))
        self._judge(score)
        before = sum((t.mean * t.n for t in self._tiles), np.zeros_like(now.mean)) / sum(t.n for t in self._tiles)
        return Look(
            n, need, need, answer, score, self.alarm, self._tiles[0].ts, self._tiles[-1].ts, now.mean, before
        )  # fmt: skip

    def _judge(self, score: float) -> None:
        self._below = self._below + 1 if score >= 1 else 0
        self._above = self._above + 1 if score < 0.5 else 0
        if self._below >= ROW:
            self.alarm = True
        elif self.alarm and self._above >= BLOCKS:
            self.alarm = False


def _tile(blocks: list[Block]) -> Tile | None:
    n = sum(b.n for b in blocks)
    if not n:
        return None
    total = blocks[0].total.copy()
    for b in blocks[1:]:
        total += b.total
    return Tile(total / n, sum(b.ts * b.n for b in blocks) / n, n)
