"""What the page shows of drift: one camera's scores over time, what is said of it now, its newest crops. Reads only.

Guarantees: bounded: the newest drifts.KEPT evaluations of a camera, a few crops. Times are seconds since 1970 by the box.
"""

from __future__ import annotations

from dataclasses import dataclass

from edged.storage import cycles, drifts, releases, samples
from edged.storage.drifts import Evaluation, Standing
from edged.storage.store import Store

CROPS = 8
POINTS = 120  # of a line
MARKS = 20


@dataclass(frozen=True)
class Mark:
    """Something that happened to models: `kind` "release" or "cycle"."""

    ts: float
    kind: str
    text: str


@dataclass(frozen=True)
class CameraDrift:
    """`lines`: (time, score) by test, oldest first, of all classes the highest; `looks` the newest of each test and
    class; `standing` None = it does not drift; `crops` sample ids of its newest pictures while it does.
    """

    camera: str
    start: float
    end: float
    lines: dict[str, tuple[tuple[float, float], ...]]
    looks: tuple[Evaluation, ...]
    standing: Standing | None
    crops: tuple[str, ...]
    marks: tuple[Mark, ...]

    @property
    def last(self) -> float:
        return max((e.ts for e in self.looks), default=0.0)


def drift(store: Store) -> list[CameraDrift]:
    """Every camera that was looked at; those that drift first."""
    standing = {s.camera: s for s in drifts.standing(store)}
    shown = [_camera(store, camera, standing.get(camera)) for camera in drifts.cameras(store)]
    return sorted(shown, key=lambda c: (c.standing is None, c.camera))


def _camera(store: Store, camera: str, standing: Standing | None) -> CameraDrift:
    past = drifts.history(store, camera)
    start, end = past[0].ts, max(e.ts for e in past)
    model = past[-1].model
    looks = tuple(e for e in drifts.latest(store, camera) if e.model == model)
    return CameraDrift(
        camera, start, end, _lines(past), looks, standing, _crops(store, camera) if standing else (),
        _marks(store, start, end),
    )  # fmt: skip


def _lines(past: list[Evaluation]) -> dict[str, tuple[tuple[float, float], ...]]:
    highest: dict[str, dict[float, float]] = {}
    for e in past:
        line = highest.setdefault(e.test, {})
        line[e.ts] = max(e.score, line.get(e.ts, 0.0))
    return {test: _thinned(sorted(highest[test].items())) for test in drifts.TESTS if test in highest}


def _thinned(line: list[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most POINTS, each the highest of its stretch: an alarm is never thinned away."""
    step = max(1, -(-len(line) // POINTS))
    return tuple(max(line[i : i + step], key=lambda p: p[1]) for i in range(0, len(line), step))


def _crops(store: Store, camera: str) -> tuple[str, ...]:
    return tuple(s.id for s in samples.recent(store, camera, 4 * CROPS) if s.object is not None)[:CROPS]


def _marks(store: Store, start: float, end: float) -> tuple[Mark, ...]:
    made = [Mark(r.created, "release", f"release {r.number}") for r in releases.all(store)]
    made += [Mark(c.started, "cycle", f"cycle {c.id}") for c in cycles.all(store)]
    return tuple(sorted((m for m in made if start <= m.ts <= end), key=lambda m: m.ts)[-MARKS:])
