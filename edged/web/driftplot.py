"""Where things stand in a camera's drift timeline; a template draws it as SVG. Pure geometry, in pixels.

The scale of scores is a root one and ends at TOP: what matters is on which side of 1 a score is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edged.storage.drift_views import CameraDrift
from edged.storage.drifts import TESTS, Evaluation, Standing
from edged.web.words import axis_time

TOP = 4.0
NAMES: Mapping[str, str] = {
    "confidence": "answers", "features": "pictures", "audit": "audit labels", "recall": "classes",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One test; `colour` is a number of the style sheet, which gives each its own dash, too."""

    name: str
    colour: int
    path: str


@dataclass(frozen=True)
class Tick:
    at: float
    text: str
    kind: str = ""
    anchor: str = "middle"


@dataclass(frozen=True)
class Timeline:
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    line: float  # where a score of 1 is
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]


def _moment(ts: float, span: float) -> str:
    """The hour, with its day where there are several."""
    return axis_time(ts, 60) if span < 20 * 3600 else f"{axis_time(ts, 86400)}, {axis_time(ts, 60)}"


@dataclass(frozen=True)
class Drawn:
    """A camera with its timelines for wide and narrow windows."""

    camera: str
    standing: Standing | None
    looks: tuple[Evaluation, ...]
    last: float
    crops: tuple[str, ...]
    plots: Mapping[str, Timeline]


def drawn(d: CameraDrift) -> Drawn:
    plots = {"wide": timeline(d, 860, 170), "narrow": timeline(d, 350, 150)}
    return Drawn(d.camera, d.standing, d.looks, d.last, d.crops, plots)


def timeline(of: CameraDrift, width: int, height: int) -> Timeline:
    left, right, top, bottom = 46.0, width - 10.0, 20.0, height - 22.0
    span = max(of.end - of.start, 1.0)

    def x(ts: float) -> float:
        return round(left + (right - left) * (ts - of.start) / span, 1)

    def y(score: float) -> float:
        return round(bottom - (bottom - top) * math.sqrt(min(max(score, 0.0), TOP) / TOP), 1)

    lines = tuple(
        Line(NAMES[test], TESTS.index(test), " ".join(f"{'ML'[i > 0]}{x(t):g},{y(s):g}" for i, (t, s) in enumerate(points)))
        for test, points in of.lines.items()
        if any(score for _, score in points)
    )  # fmt: skip
    step = span / 3
    ends = ("start", "middle", "middle", "end")
    ticks = tuple(Tick(x(of.start + i * step), _moment(of.start + i * step, span), "", ends[i]) for i in range(4))
    marks = tuple(Tick(x(m.ts), m.text, m.kind, "end" if x(m.ts) > right - 70 else "start") for m in of.marks)
    return Timeline(width, height, left, right, top, bottom, y(1.0), lines, ticks, marks)
