"""What the page and `edged status` show: one function per fragment, rows in, frozen values out. Reads only.

Guarantees: every query is bounded (the newest labels, the last releases, one day's index range), so that a page that
polls costs the same after a year as after an hour. Does not guarantee that two functions see the same moment.
Shares and progress are 0..1; times are seconds since 1970 by the box's clock.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from edged.storage import alarms, candidates, cycles, deliveries, gaps, labels, releases, reports, verdicts
from edged.storage import cameras as camera_rows
from edged.storage.store import Store

RECENT_S = 600.0  # "lately": withheld frames
RECENT_LABELS = 40  # samples that say how well the cameras see now
BEFORE_LABELS = 160  # those before them, which say how well they saw
SHOWN_CYCLES = 5
SHOWN_MODELS = 12
MOST_WAITING = 1000  # nobody reads on
NEWEST_WAITING = 20_000  # what is older is asked about too, but not counted: that took 0.1 s at 100,000


@dataclass(frozen=True)
class Score:
    """`right` of `n` samples: the cameras' own answers against human labels."""

    right: int
    n: int

    @property
    def share(self) -> float | None:
        return self.right / self.n if self.n else None


@dataclass(frozen=True)
class Region:
    """A region of the last picture in pixels of the frame; `label` "" = the camera had no model."""

    x: int
    y: int
    w: int
    h: int
    label: str
    score: float


@dataclass(frozen=True)
class Picture:
    """The newest scrubbed picture that is still there. `kind` "roi": the whole picture is one region."""

    frame: str
    kind: str
    received: float
    width: int
    height: int
    regions: tuple[Region, ...]
    hidden: dict[str, int]  # what privacy filled, by kind


@dataclass(frozen=True)
class CameraView:
    """`release` None: it runs no model, or one that no release here names. Stats are None until it sent some."""

    id: str
    online: bool
    last_seen: float
    last_frame: float | None
    fps: float | None
    infer_ms: float | None
    temp_c: float | None
    waiting: int  # frames in the camera's spool
    model: str  # sha256, "" = none
    release: int | None
    picture: Picture | None
    withheld: int  # in the last RECENT_S
    missing: gaps.Missing | None  # frames that never came
    start_s: float = 0.0  # to the first look at a picture, 0 = it did not say
    rss_bytes: int = 0  # resident with the model loaded


@dataclass(frozen=True)
class Rung:
    """`state`: waiting, running, done, failed. `told` is the stage's own sentence."""

    name: str
    state: str
    started: float | None
    ended: float | None
    progress: float
    eta_s: float | None
    told: str


@dataclass(frozen=True)
class CycleView:
    id: int
    state: str
    why: str
    detail: str
    started: float
    ended: float | None
    rungs: tuple[Rung, ...]


@dataclass(frozen=True)
class ReleaseView:
    """One release and what became of it on every camera that was told."""

    number: int
    name: str
    state: str
    size: int
    created: float
    ended: float | None
    detail: str
    deliveries: tuple[deliveries.DeliveryRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for d in self.deliveries:
            found[d.status] = found.get(d.status, 0) + 1
        return found


@dataclass(frozen=True)
class ModelView:
    """A candidate with what the re-test measured. `accuracy` on the frozen hold-out, with Wilson's 95 % interval;
    `before` is the model that ran then, on the same pictures; `float_accuracy` this one before compression.
    """

    id: int
    cycle: int
    name: str
    sha256: str
    size: int
    created: float
    device: str
    n: int
    accuracy: float | None
    lower: float | None
    upper: float | None
    before: float | None
    fps: float | None
    fps_how: str
    memory: float | None
    float_accuracy: float | None
    passed: bool | None
    reasons: tuple[str, ...]
    release: int | None
    untested: str = ""  # a sentence: a person released it although nothing here could judge it


@dataclass(frozen=True)
class Now:
    """Everything the verdict sentence is made of."""

    at: float
    cameras: int  # those that spoke and those that are `silent`
    online: int
    offline: tuple[tuple[str, float], ...]  # camera, last heard of
    samples: int  # regions received so far
    labels: int  # human
    cycle: CycleView | None  # the running one, else the last
    asked: bool  # a cycle was asked for and has not begun
    release: ReleaseView | None  # the newest
    running: int  # cameras that run the newest release
    recent: Score  # of the newest release's answers, the last RECENT_LABELS
    before: Score  # those before them
    withheld: int  # frames of the last RECENT_S that privacy could not vouch for
    withheld_why: str  # the most frequent reason
    alarms: tuple[alarms.Alarm, ...] = ()  # that stand, the oldest first
    silent: tuple[str, ...] = ()  # configured, and never spoke


def silent(known: Collection[str], configured: Collection[str]) -> tuple[str, ...]:
    """Of the cameras that the configuration names those that never spoke, by id; they have no rows."""
    return tuple(sorted(set(configured) - set(known)))


def now(store: Store, at: float, configured: Collection[str] = ()) -> Now:
    """The facts of this moment. `configured`: ids of the cameras that the configuration names."""
    known = camera_rows.all(store)
    awaited = silent([c.id for c in known], configured)
    newest = releases.latest(store)
    scores = _scores(store, newest.sha256 if newest else "", RECENT_LABELS + BEFORE_LABELS)
    recent, before = scores[:RECENT_LABELS], scores[RECENT_LABELS:]
    withheld = store.rows(
        "select detail, count(*) as n from frame where received >= ? and status = 'withheld' group by detail"
        " order by n desc",
        (at - RECENT_S,),
    )
    last = cycles.running(store) or cycles.latest(store)
    return Now(
        at=at,
        cameras=len(known) + len(awaited),
        online=sum(c.online for c in known),
        offline=tuple((c.id, c.last_seen) for c in known if not c.online),
        samples=int(store.value("select coalesce(max(rowid), 0) from sample")),  # rows are never deleted
        labels=labels.count(store),
        cycle=_cycle(store, last) if last else None,
        asked=bool(store.value("select 1 from request where verb = 'cycle' and done is null limit 1")),
        release=_release(store, newest) if newest else None,
        running=sum(newest is not None and c.model == newest.sha256 for c in known),
        recent=Score(sum(recent), len(recent)),
        before=Score(sum(before), len(before)),
        withheld=sum(r["n"] for r in withheld),
        withheld_why=withheld[0]["detail"] if withheld else "",
        alarms=tuple(alarms.standing(store)),
        silent=awaited,
    )


def cameras(store: Store, at: float) -> list[CameraView]:
    """Every camera that ever spoke, by id."""
    numbers = {r.sha256: r.number for r in releases.all(store)}
    missing = gaps.missing(store, at)
    withheld = dict(
        tuple(r)
        for r in store.rows(
            "select camera, count(*) from frame where received >= ? and status = 'withheld' group by camera",
            (at - RECENT_S,),
        )
    )
    return [
        CameraView(
            id=c.id, online=c.online, last_seen=c.last_seen, last_frame=c.last_frame,
            fps=c.stats.fps if c.stats else None, infer_ms=c.stats.infer_ms if c.stats else None,
            temp_c=c.stats.temp_c if c.stats else None, waiting=c.stats.spool_frames if c.stats else 0,
            model=c.model, release=numbers.get(c.model), picture=picture(store, c.id),
            withheld=withheld.get(c.id, 0), missing=missing.get(c.id),
            start_s=c.info.start_s if c.info else 0.0, rss_bytes=c.info.rss_bytes if c.info else 0,
        )
        for c in camera_rows.all(store)
    ]  # fmt: skip


def picture(store: Store, camera: str) -> Picture | None:
    """Of one camera, None when there is none."""
    row = store.row(
        "select id, kind, received, ts, width, height, scrub from frame where camera = ? and object is not null"
        " order by received desc limit 1",
        (camera,),
    )
    if row is None:
        return None
    found = store.rows(
        "select x, y, w, h, predicted, score from sample where camera = ? and ts = ? and frame = ? order by id",
        (camera, row["ts"], row["id"]),
    )
    hidden = json.loads(row["scrub"]).get("regions", {})
    return Picture(
        row["id"], row["kind"], row["received"], row["width"], row["height"], tuple(Region(*r) for r in found),
        {str(k): int(v) for k, v in hidden.items()},
    )  # fmt: skip


def cycle(store: Store) -> CycleView | None:
    """The running cycle, else the last one."""
    found = cycles.running(store) or cycles.latest(store)
    return _cycle(store, found) if found else None


def past_cycles(store: Store) -> list[cycles.Cycle]:
    """The last few that have ended, newest first."""
    return [c for c in cycles.all(store) if c.ended is not None][:SHOWN_CYCLES]


def models(store: Store) -> list[ModelView]:
    """The last candidates, newest first, refused ones too."""
    numbers = {r.candidate: r.number for r in releases.all(store)}
    return [_model_view(store, c, numbers.get(c.id)) for c in candidates.all(store)[-SHOWN_MODELS:][::-1]]


def progress(store: Store) -> tuple[int, int]:
    """(human labels so far, samples with a picture that wait for one: of the newest NEWEST_WAITING, counted up to
    MOST_WAITING).
    """
    waiting = store.value(
        "select count(*) from (select 1 from (select id, object from sample order by received desc limit ?) s"
        " where s.object is not null and not exists"
        " (select 1 from label l where l.sample = s.id and l.source = 'human' and l.undone is null) limit ?)",
        (NEWEST_WAITING, MOST_WAITING),
    )
    return labels.count(store), int(waiting)


def _scores(store: Store, model: str, limit: int) -> list[int]:
    """1 for right, 0 for wrong: the newest labelled answers of one model, newest first."""
    if not model:
        return []
    found = store.rows(
        "select l.class = s.predicted from (select sample, max(id) as id from (select id, sample from label where"
        "  source = 'human' and undone is null order by id desc limit 2000) group by sample) newest"
        " join label l on l.id = newest.id join sample s on s.id = l.sample"
        " where l.class <> '' and s.predicted <> '' and s.model = ? order by s.received desc, s.id limit ?",
        (model, limit),
    )
    return [int(r[0]) for r in found]


def _cycle(store: Store, found: cycles.Cycle) -> CycleView:
    begun = {s.name: s for s in cycles.stages(store, found.id)}
    rungs = []
    for name in cycles.STAGES:
        s = begun.get(name)
        if s is None:
            if begun.keys() & set(cycles.STAGES[cycles.STAGES.index(name) + 1 :]):
                continue  # a cycle of before that stage
            rungs.append(Rung(name, "waiting", None, None, 0.0, None, ""))
            continue
        state = "done" if s.ended is not None else "running" if found.ended is None else "failed"
        told = str(s.detail.get("told") or s.detail.get("text") or "")
        rungs.append(Rung(name, state, s.started, s.ended, s.progress, s.eta_s, told))
    return CycleView(found.id, found.state, found.why, found.detail, found.started, found.ended, tuple(rungs))


def _release(store: Store, r: releases.ReleaseRow) -> ReleaseView:
    return ReleaseView(
        r.number, r.name, r.state, r.size, r.created, r.ended, r.detail, tuple(deliveries.of(store, r.number))
    )


def _model_view(store: Store, c: candidates.Candidate, release: int | None) -> ModelView:
    found = reports.of(store, c.id)
    body: dict[str, Any] = json.loads(found[0].body) if found else {}
    verdict = verdicts.of(store, c.id)
    share, pair = body.get("accuracy") or {}, body.get("pair") or {}
    fps, memory = body.get("fps_device") or {}, body.get("memory_bytes") or {}
    return ModelView(
        id=c.id, cycle=c.cycle, name=c.name, sha256=c.sha256, size=c.size, created=c.created,
        device=found[0].device if found else "", n=int(share.get("n", 0)),
        **{key: share.get(key) if share.get("n") else None for key in ("accuracy", "lower", "upper")},
        before=pair["baseline_right"] / pair["n"] if pair.get("n") else None,
        fps=fps.get("value"), fps_how=fps.get("how", ""), memory=memory.get("value"),
        float_accuracy=(c.recipe.get("facts") or {}).get("accuracy_before"),
        passed=verdict.passed if verdict else None, reasons=verdict.reasons if verdict else (), release=release,
        untested=str(c.recipe.get("untested", "")),
    )  # fmt: skip
