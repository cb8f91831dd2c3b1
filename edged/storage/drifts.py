"""Evaluations of the drift tests, and which cameras are drifting by them. Rows of the table `drift`.

Guarantees: `standing` goes by the newest evaluation of each test, class and camera; what began a drift that stands is kept
however many evaluations follow. Does not guarantee that a drift is harmful: accuracy is measured by labels alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from edged.storage.store import Store

Test = Literal["confidence", "features", "audit", "recall"]
TESTS: tuple[Test, ...] = ("confidence", "features", "audit", "recall")
KEPT = 2000  # evaluations of a camera


@dataclass(frozen=True)
class Evaluation:
    """One look at one window. `class_` "" = all; `model` sha256 whose answers were tested; `n` samples in the window;
    `score` >= 0, 1 = the line at which an alarm is due; `p` 0..1 or None; `alarm`: the drift stands after this look;
    `detail` a sentence without its full stop. `id` and `ts` are the store's.
    """

    camera: str
    test: Test
    model: str
    n: int
    score: float
    p: float | None
    alarm: bool
    detail: str
    class_: str = ""
    id: int = 0
    ts: float = 0.0


class Standing(NamedTuple):
    """A camera that drifts: since when (box time), the highest score of its tests now, and what is known, as a sentence
    without its full stop.
    """

    camera: str
    since: float
    score: float
    sentence: str


def add(store: Store, looks: Iterable[Evaluation]) -> None:
    """All of them or none, at the box's time; the camera's oldest go when there are too many."""
    rows = list(looks)
    now = store.clock.now()
    with store.transaction():
        store.execute_many(
            "insert into drift (ts, camera, class, test, model, n, score, p, alarm, detail)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(now, e.camera, e.class_, e.test, e.model, e.n, e.score, e.p, int(e.alarm), e.detail[:500]) for e in rows],
        )
        for camera in {e.camera for e in rows}:
            _thin(store, camera)


def latest(store: Store, camera: str | None = None) -> list[Evaluation]:
    """The newest evaluation of each test and class, by camera."""
    return [
        _of(r)
        for r in store.rows(
            f"select {_COLUMNS} from drift where id in (select max(id) from drift where ?1 is null or camera = ?1"
            " group by camera, test, class) order by camera, test, class",
            (camera,),
        )
    ]


def history(store: Store, camera: str, since: float = 0.0, limit: int = KEPT) -> list[Evaluation]:
    """The newest `limit` evaluations of one camera at or after `since`, oldest first."""
    found = store.rows(
        f"select {_COLUMNS} from drift where camera = ? and ts >= ? order by id desc limit ?", (camera, since, limit)
    )
    return [_of(r) for r in reversed(found)]


def standing(store: Store) -> list[Standing]:
    """Cameras that drift, by id; what they run now alone counts."""
    looks = latest(store)
    models = {e.camera: e.model for e in sorted(looks, key=lambda e: e.id)}
    by_camera: dict[str, list[Evaluation]] = {}
    for e in looks:
        if e.alarm and e.model == models[e.camera]:
            by_camera.setdefault(e.camera, []).append(e)
    told = []
    for camera, alarms in by_camera.items():
        since = min(_began(store, e).ts for e in alarms)
        strongest = max(alarms, key=lambda e: e.score)
        told.append(Standing(camera, since, strongest.score, strongest.detail))
    return told


def scores(store: Store) -> dict[str, tuple[float, float | None]]:
    """Of each camera under its present model: the highest score and the smallest p of its newest evaluations."""
    found: dict[str, tuple[float, float | None]] = {}
    looks = sorted(latest(store), key=lambda e: e.id)
    models = {e.camera: e.model for e in looks}
    for e in looks:
        if e.model == models[e.camera]:
            score, p = found.get(e.camera, (0.0, None))
            found[e.camera] = max(score, e.score), e.p if p is None else p if e.p is None else min(p, e.p)
    return found


def newest(store: Store) -> int:
    """The number of the newest evaluation, 0 = none: whether to look again costs nothing."""
    return int(store.value("select coalesce(max(id), 0) from drift"))


def cameras(store: Store) -> list[str]:
    """Those that were ever looked at."""
    return [str(r[0]) for r in store.rows("select distinct camera from drift order by camera")]


_COLUMNS = "camera, test, model, n, score, p, alarm, detail, class, id, ts"


def _of(row: sqlite3.Row) -> Evaluation:
    camera, test, model, n, score, p, alarm, detail, class_, key, ts = tuple(row)
    return Evaluation(camera, test, model, n, score, p, bool(alarm), detail, class_, key, ts)


def _began(store: Store, now: Evaluation) -> Evaluation:
    """The first evaluation of the unbroken row of alarms that ends with `now`."""
    row = store.row(
        f"select {_COLUMNS} from drift where camera = ?1 and test = ?2 and class = ?3 and alarm = 1 and id >"
        " coalesce((select max(id) from drift where camera = ?1 and test = ?2 and class = ?3 and alarm = 0), 0)"
        " order by id limit 1",
        (now.camera, now.test, now.class_),
    )
    return now if row is None else _of(row)


def _thin(store: Store, camera: str) -> None:
    last = store.value("select id from drift where camera = ? order by id desc limit 1 offset ?", (camera, KEPT - 1))
    if last is None:
        return
    kept = {e.id for e in latest(store, camera)}
    kept |= {_began(store, e).id for e in latest(store, camera) if e.alarm}
    marks = ", ".join("?" * len(kept))
    store.execute(
        f"delete from drift where camera = ? and id < ? and id not in ({marks})", (camera, last, *sorted(kept))
    )
