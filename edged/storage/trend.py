"""How well the cameras saw, over time: their answers against people's labels, and when which release appeared. Reads only.

Guarantees: bounded by the newest labels, so that it costs the same after a year as after an hour. Does not guarantee that the
labelled pictures are all pictures: a share says how sure it is (Wilson's interval).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edged.interval import wilson
from edged.storage import releases
from edged.storage.store import Store

LABELS = 20_000
STEPS = (5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400)
POINTS = 24


@dataclass(frozen=True)
class Point:
    """One step of time: `ts` its middle."""

    ts: float
    right: int
    n: int
    lower: float
    upper: float

    @property
    def share(self) -> float:
        return self.right / self.n


@dataclass(frozen=True)
class Series:
    """Accuracy over time per camera, and when which release appeared. Empty `cameras`: nothing was labelled yet."""

    start: float
    end: float
    step: float
    cameras: dict[str, tuple[Point, ...]]
    releases: tuple[tuple[float, int, str], ...]  # time, number, state


def accuracy(store: Store, at: float) -> Series:
    """The cameras' answers against human labels by the time the box received them; at most the newest 20,000 labels."""
    found = store.rows(
        "select s.camera, s.received, l.class = s.predicted as hit from"
        " (select sample, max(id) as id from (select id, sample from label where source = 'human' and undone is null"
        "  order by id desc limit ?) group by sample) newest"
        " join label l on l.id = newest.id join sample s on s.id = l.sample"
        " where l.class <> '' and s.predicted <> '' order by s.received",
        (LABELS,),
    )
    if not found:
        return Series(at, at, 0.0, {}, ())
    first, last = found[0]["received"], found[-1]["received"]
    step = step_for(last - first)
    start = math.floor(first / step) * step
    end = (math.floor(last / step) + 1) * step
    cells: dict[str, dict[int, list[int]]] = {}
    for r in found:
        cell = cells.setdefault(r["camera"], {}).setdefault(int((r["received"] - start) // step), [0, 0])
        cell[0] += r["hit"]
        cell[1] += 1
    lines = {
        camera: tuple(
            Point(start + (i + 0.5) * step, right, n, *wilson(right, n)) for i, (right, n) in sorted(line.items())
        )
        for camera, line in sorted(cells.items())
    }
    marks = tuple((r.created, r.number, r.state) for r in releases.all(store) if start <= r.created <= end)
    return Series(start, end, step, lines, marks)


def step_for(span: float) -> float:
    """The shortest step of STEPS that cuts `span` seconds into at most POINTS points."""
    return float(next((s for s in STEPS if span / s <= POINTS), STEPS[-1]))
