"""Stage `search`: which chains of compression make good files of one model, within a budget of minutes.

    chains for this kind of network -> every one with little retraining -> the better half with more -> again -> whole
    effort for the few that are left -> those worth a re-test

Successive halving (Jamieson & Talwalkar, AISTATS 2016) over several objectives: accuracy on the tune split, size packed,
frames/s on the device, memory. What is better is told by non-dominated sorting among those that keep to the limits
(pareto.py; Deb's constraint rule).

Guarantees: the hold-out is not read; what was tried is not tried again after a kill; a chain that fails is a point with its
reason and the search goes on. The same job gives the same points as far as time allows. Does not guarantee the best chain.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import msgspec
from msgspec import Struct

from edged import chain, durable, packed
from edged.clock import Clock, SystemClock, cpu_seconds
from edged.errors import Corrupt, Refused, Unavailable
from edged.retrain import compress, limits, measure, methods, pareto, pictures, source, speed
from edged.retrain.jobs import Progress, SearchJob

EFFORTS = (0.15, 0.4, 1.0)  # of retraining, by rung
SHARES = (0.35, 0.65, 0.95)  # of the budget that is over when a rung begins nothing more
PATIENCE = (4.0, 2.0, 1.0)  # times the allowed loss, by rung: what was hardly retrained may still come back
FILES = ("none", "int8", "int8 tune", "tune")  # for a model that has no weights


class Point(Struct, frozen=True, kw_only=True):
    """One chain, tried once. `refused`: why it gave no file, a sentence."""

    method: str
    effort: float
    accuracy: float = 0.0  # on the tune split, by the engine
    size: int = 0
    packed: int = 0
    fps: float = 0.0  # the lower end of what the device does
    fps_likely: float = 0.0
    how: str = ""  # measured | estimated | unknown
    memory_bytes: int = 0
    seconds: float = 0.0  # CPU
    sha256: str = ""
    refused: str = ""
    facts: tuple[methods.Facts, ...] = ()


class Searched(Struct, frozen=True):
    """The result. `points`: the last of each chain; `kept`: those to be re-tested, the best first."""

    points: tuple[Point, ...]
    kept: tuple[Point, ...]
    front: tuple[str, ...]  # the chains that nothing dominates
    accuracy_before: float
    size_before: int
    samples: int
    tried: int
    note: str


def chains(kind: str) -> tuple[str, ...]:
    """What is tried for a network by the name in its weights; `FILES` for a file ("")."""
    if not kind:
        return FILES
    if kind.startswith("lenet") or kind in ("alexnet", "vgg-16"):
        light = ("prune=0.9 share=32", "prune=0.95 share=16", "rate=0.1", "rate=0.4", "prune=0.9 int8")
        return ("none", "int8", *light, *(() if kind.startswith("lenet") else ("lowrank=0.5 int8", "int8 tune")))
    return (
        "none", "int8", "qat", "channels=0.25 int8", "channels=0.25 qat", "channels=0.5 int8", "channels=0.5 qat",
        "channels=0.7 qat", "lowrank=0.6 int8", "lowrank=0.6 qat", "prune=0.5 qat", "prune=0.8 qat",
        "channels=0.5 prune=0.5 qat", "prune=0.8 share=32",
    )  # fmt: skip


def run(job: SearchJob, job_dir: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Searched:
    """The whole stage. Raises Refused: no such model, nothing to judge by, no chain gave a file."""
    progress(Progress(text="reading the crops"))
    began = clock.monotonic()
    bench = Bench.open(job)
    before = measure.accuracy(bench.original, bench.lesson.judged)
    asked = [chain.text(chain.parse(text)) for text in (*job.methods, *chains(bench.kind))]
    going = [text for text in dict.fromkeys(asked) if bench.weights or not chain.trains(chain.parse(text))]
    known: dict[str, Point] = {}
    total = sum(max(job.keep, len(going) >> rung) for rung in range(len(EFFORTS)))
    notes, tried = list[str](), 0
    with _Workers(job) as pool:
        for rung, effort in enumerate(EFFORTS):
            until = began + SHARES[rung] * job.max_minutes * 60

            def tell(point: Point) -> None:
                nonlocal tried
                tried += 1
                known[point.method] = point
                over = clock.monotonic() - began
                words = f"{point.method}: {point.refused or f'{point.accuracy:.1%}, {point.packed / 1000:.1f} kB'}"
                eta = min(over / tried * (total - tried), job.max_minutes * 60 - over)
                progress(Progress(min(1.0, tried / total), max(0.0, eta), words, accuracy=point.accuracy))

            def time(until: float = until) -> bool:
                return clock.monotonic() < until

            late = _rung(pool, bench, going, effort, job_dir, time, tell)
            if late:
                notes.append(f"no time to try {late} of {len(going)} chains with {effort:.0%} of the effort")
            rows = [known[text] for text in going if text in known and not known[text].refused]
            if rung + 1 < len(EFFORTS):
                going = _better(rows, max(job.keep, len(going) // 2), before, job, PATIENCE[rung])
    sound = [p for p in known.values() if not p.refused]
    if not sound:
        raise Refused(
            "no chain gave a file: " + "; ".join(f"{p.method}: {p.refused}" for p in known.values())[:600],
            code="no_chain",
        )
    front = [sound[i].method for i in pareto.fronts([_figures(p) for p in sound])[0]]
    kept = _kept(sound, before, job)
    return Searched(
        tuple(known.values()), kept, tuple(front), before, len(bench.original), len(bench.lesson.judged), tried,
        "; ".join([f"{len(known)} chains, {tried} trials", *notes]),
    )  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every trial works with, read once by each process."""

    job: SearchJob
    original: bytes
    weights: bytes
    kind: str  # name of the network, "" = a file only
    lesson: methods.Lesson

    @classmethod
    def open(cls, job: SearchJob) -> Bench:
        clock = SystemClock()
        with source.open_source(job) as store:
            original = store.model(job.sha256)
            try:
                weights = store.weights(job.sha256)
            except Refused:
                weights = b""
            px = measure.input_px(original)
            lesson = methods.Lesson(
                pictures.load(store.crops("train"), job.classes, px), pictures.load(store.crops("tune"), job.classes, px),
                clock, seed=job.seed, calibration=job.calibration, max_loss=job.max_loss / 2, device=job.device,
                until=clock.monotonic() + job.max_minutes * 60,
            )  # fmt: skip
        if not len(lesson.judged):
            raise Refused("no labelled pictures to judge by", code="too_few")
        return cls(job, original, weights, compress.network(weights)[1] if weights else "", lesson)

    def trial(self, text: str, effort: float) -> Point:
        """One chain, once. What a step refuses is in the point."""
        began, steps = cpu_seconds(), chain.parse(text)
        try:
            lesson = replace(self.lesson, effort=effort)
            data, facts = compress.walk(self.original, self.weights if chain.trains(steps) else b"", steps, lesson)
            quick = speed.of(data, speed.Asked(self.job.device, latency=self.job.latency))
            with source.open_source(self.job) as store:
                sha256 = store.put(data)
            return Point(
                method=text, effort=effort, accuracy=measure.accuracy(data, self.lesson.judged), size=len(data),
                packed=len(packed.pack(data)), fps=quick.lower, fps_likely=quick.fps, how=quick.how,
                memory_bytes=int(quick.memory_bytes), seconds=round(cpu_seconds() - began, 2), sha256=sha256, facts=facts,
            )  # fmt: skip
        except (Refused, Corrupt) as e:
            return Point(method=text, effort=effort, refused=str(e), seconds=round(cpu_seconds() - began, 2))


def _rung(
    pool: Executor | None, bench: Bench, going: Sequence[str], effort: float, job_dir: Path, time: Callable[[], bool],
    tell: Callable[[Point], None],
) -> int:  # fmt: skip
    """Try each; returns for how many there was no time. The first ones go first: those that were asked for."""
    waiting = []
    for text in going:
        point = _known(job_dir, text, effort)
        if point is not None:
            tell(point)
        else:
            waiting.append(text)
    if pool is None:
        for i, text in enumerate(waiting):
            if not time():
                return len(waiting) - i
            tell(_remember(job_dir, bench.trial(text, effort)))
        return 0
    futures: dict[Future[Point], str] = {}
    late = 0
    try:
        size = pool._max_workers  # type: ignore[attr-defined]  # as many as it was made for
        while waiting or futures:
            while waiting and len(futures) < size:
                text = waiting.pop(0)
                if not time():
                    late += 1
                    continue
                futures[pool.submit(_try, text, effort)] = text
            if futures:
                done = next(as_completed(futures))
                del futures[done]
                tell(_remember(job_dir, done.result()))
    except BrokenProcessPool as e:
        raise Unavailable("a process of the search was killed", code="child_killed") from e
    return late


def _known(job_dir: Path, text: str, effort: float) -> Point | None:
    try:
        return msgspec.json.decode(_place(job_dir, text, effort).read_bytes(), type=Point)
    except (OSError, msgspec.MsgspecError):
        return None


def _remember(job_dir: Path, point: Point) -> Point:
    path = _place(job_dir, point.method, point.effort)
    path.parent.mkdir(exist_ok=True)
    durable.write(path, msgspec.json.encode(point), fsync=False)
    return point


def _place(job_dir: Path, text: str, effort: float) -> Path:
    return job_dir / "points" / f"{hashlib.sha256(f'{text} {effort}'.encode()).hexdigest()[:16]}.json"


_bench: Bench | None = None


class _Workers:
    """`job.threads` processes; none where it is one: then the stage's own process does it."""

    def __init__(self, job: SearchJob) -> None:
        self._job = job
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Executor | None:
        if self._job.threads > 1:
            self._pool = ProcessPoolExecutor(
                self._job.threads,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._job, os.getpid()),
            )
        return self._pool

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _begin(job: SearchJob, parent: int) -> None:
    global _bench
    if not limits.die_with(parent):
        raise SystemExit(1)
    _bench = Bench.open(job)


def _try(text: str, effort: float) -> Point:
    assert _bench is not None
    return _bench.trial(text, effort)


def _figures(p: Point) -> tuple[float, float, float, float]:
    """Larger is better. A speed that nobody knows is no reason to go."""
    return p.accuracy, -float(p.packed), p.fps, -p.memory_bytes / 2**20 // 8


def _wrong(p: Point, before: float, job: SearchJob, patience: float) -> float:
    """By how much it breaks the limits, 0 = it keeps to them."""
    loss = max(0.0, before - p.accuracy - patience * job.max_loss)
    slow = 0.0 if p.how == "unknown" else max(0.0, 1 - p.fps / job.min_fps) if job.min_fps else 0.0
    return loss + slow


def _better(rows: Sequence[Point], n: int, before: float, job: SearchJob, patience: float) -> list[str]:
    """The chains that go on: those that keep to the limits by their fronts, then those that break them least."""
    good = [p for p in rows if not _wrong(p, before, job, patience)]
    bad = sorted((p for p in rows if _wrong(p, before, job, patience)), key=lambda p: _wrong(p, before, job, patience))
    chosen = [good[i] for i in pareto.best([_figures(p) for p in good], n)]
    names = {p.method for p in (*chosen, *bad[: n - len(chosen)])}
    return [p.method for p in rows if p.method in names]


def _kept(rows: Sequence[Point], before: float, job: SearchJob) -> tuple[Point, ...]:
    """Those worth a re-test: whole effort, within the limits if any is; of these what nothing dominates, the smallest first."""
    whole = [p for p in rows if p.effort == EFFORTS[-1]] or list(rows)
    good = [p for p in whole if not _wrong(p, before, job, 1.0)]
    if not good:
        good = sorted(whole, key=lambda p: _wrong(p, before, job, 1.0))[: job.keep]
    chosen = [good[i] for i in pareto.best([_figures(p) for p in good], job.keep)]
    return tuple(sorted(chosen, key=lambda p: (p.packed, p.method)))
