"""Stage `retest`: several candidates on the frozen hold-out at once, spread over the cores of this machine (crew.py) or over
other hosts (cluster.py), and put together to one report each.

Guarantees: the counts are those that one process would have found (tests/retrain/test_retest.py); a task that was done
before the stage was killed is not done again: its result lies in the job's folder; a candidate that is refused is named
and does not hold up the others. Does not guarantee equal speeds: each is a measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from edged import durable
from edged.clock import Clock
from edged.errors import Refused, Unavailable
from edged.retrain import source, task, trial
from edged.retrain.jobs import Progress, RetestJob
from edged.retrain.report import Report
from edged.retrain.task import Prepared, Seen, Task

T = TypeVar("T", bound=Struct)


class Retested(Struct, frozen=True):
    """`reports` and `refused` (why) by sha256; together all candidates. `cpu_seconds` of each process of this machine, this
    time (0 for what was done before it).
    """

    reports: dict[str, Report]
    refused: dict[str, str]
    tasks: int
    cpu_seconds: tuple[float, ...] = ()


def run(job: RetestJob, folder: Path, *, clock: Clock, progress: Callable[[Progress], None]) -> Retested:
    """The whole stage. Raises Refused: every candidate is, or the baseline; Unavailable: out of time, a process was killed."""
    with source.open_source(job) as store:
        held = len(store.crops("holdout"))
        if job.baseline:
            store.model(job.baseline)
    listed = tasks(job, held)
    left = [t for t in listed if not (folder / t.name).exists()]
    watch = _Watch(job, listed, len(listed) - len(left), clock, progress)

    def keep(done: Task, result: bytes) -> None:
        durable.write(folder / done.name, result, fsync=False)
        watch.done.append(done)

    refused: dict[str, Any] = {}
    beside: dict[str, int] = {}
    spent: tuple[float, ...] = ()
    if left:
        if job.scheduler:
            from edged.retrain import cluster

            board = cluster.run(job, folder, left, keep, clock=clock, look=watch.look)
        else:
            from edged.retrain import crew

            board = crew.run(job, folder, left, keep, clock=clock, look=watch.look)
        refused, beside = board.refused, board.beside
        spent = tuple(round(t, 2) for _, t in sorted(board.cpu_seconds.items()))
    if job.baseline in refused:
        raise refused[job.baseline]
    if not set(job.candidates) - set(refused):
        raise Refused("; ".join(f"{s[:12]}: {e}" for s, e in refused.items()), code="all_refused")
    good = [s for s in dict.fromkeys(job.candidates) if s not in refused]
    reports = {s: _report(job, folder, s, held, beside.get(s, 0)) for s in good}
    for s in job.candidates:
        (folder / f"{s}.onnx").unlink(missing_ok=True)
    return Retested(reports, {s: str(e) for s, e in refused.items()}, len(listed), spent)


def tasks(job: RetestJob, held: int) -> list[Task]:
    """All there is to do for a hold-out of `held` pictures."""
    candidates = tuple(dict.fromkeys(job.candidates))
    all_models = dict.fromkeys((*candidates, *([job.baseline] if job.baseline else [])))
    found = [Task("prepare", s) for s in candidates] + [Task("speed", s) for s in candidates]
    found += [Task("answers", s, n) for n in task.slices(held) for s in all_models]
    return found + ([Task("pinned", s) for s in all_models] if job.pinned else [])


def _report(job: RetestJob, folder: Path, sha256: str, held: int, beside: int) -> Report:
    def whole(of: str) -> Seen:
        return task.merged([_read(folder, Task("answers", of, n), Seen) for n in task.slices(held)])

    def pins(of: str) -> Seen | None:
        return _read(folder, Task("pinned", of), Seen) if job.pinned and of else None

    speed = trial.speed_of((folder / Task("speed", sha256).name).read_bytes())
    return trial.assemble(
        job, sha256, _read(folder, Task("prepare", sha256), Prepared), speed, whole(sha256),
        whole(job.baseline) if job.baseline else None, pins(sha256), pins(job.baseline), beside=beside,
    )  # fmt: skip


def _read(folder: Path, done: Task, kind: type[T]) -> T:
    return msgspec.json.decode((folder / done.name).read_bytes(), type=kind)


class _Watch:
    """Progress, and the end of the time. Speed takes seconds, all else a fraction of one."""

    def __init__(
        self, job: RetestJob, listed: list[Task], before: int, clock: Clock, progress: Callable[[Progress], None]
    ) -> None:
        self._job, self._clock, self._progress = job, clock, progress
        self._total, self._before = sum(map(self._weight, listed)), 0.0
        self.done: list[Task] = []
        self._told, self._begin = -1, clock.monotonic()
        self._until = self._begin + 60 * job.max_minutes
        self._left = len(listed) - before

    def _weight(self, t: Task) -> float:
        return 2 + 1.2 * self._job.seconds if t.kind == "speed" else 1.5 if t.kind == "prepare" else 0.5

    def look(self) -> None:
        """Raises Unavailable when the time is over."""
        n = len(self.done)
        if n != self._told:
            self._told = n
            now = self._clock.monotonic() - self._begin
            ours = sum(map(self._weight, self.done[:n]))
            rest = max(0.0, self._total - ours)
            eta = now * rest / ours if ours else None
            text = f"{n} of {self._left} parts of {len(self._job.candidates)} candidates"
            self._progress(Progress(min(1.0, ours / self._total) if self._total else 1.0, eta, text))
        if self._clock.monotonic() > self._until:
            raise Unavailable(
                f"the re-test was stopped after {self._job.max_minutes:g} minutes: {n} of {self._left} parts were done",
                hint="what is done is kept; ask for another cycle, or raise [train] max_minutes", code="too_long",
            )  # fmt: skip
