"""The tasks of a re-test over the cores of this machine: a process for each, started once, and who does what next.

The order: measurements of speed follow each other from the first prepared candidate on, since they are the only work that
cannot be shared; all else fills the other cores meanwhile, and they take turns so that the next fresh process has its
libraries loaded when its turn comes. A slice's pictures cost four times what a small network's answers to them do, so a process
takes a slice for all candidates, of as many as it can keep compiled.

Guarantees: every task is done once, or was done before; speed is measured by one process at a time, which is fresh, has a
core of its own and has loaded no picture; what is refused ends that candidate alone; a task whose process died is tried
once more, then its candidate is refused by name (Unavailable when the process was killed from outside). Does not guarantee
that nothing else runs beside a measurement of speed: how many did is told (`beside`), and time is counted by CPU seconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edged.clock import Clock
from edged.errors import EdgedError, Refused, Unavailable
from edged.retrain.hand import Died, Hand
from edged.retrain.jobs import RetestJob
from edged.retrain.task import ENGINES, Task
from edged.retrain.worker import Order, Reply

Keep = Callable[[Task, bytes], None]  # a task's result, as it comes
TRIES = 2


@dataclass
class Board:
    """What is still to do. Thread-safe; `refused` sha256 -> why; `beside` sha256 -> how many ran while it was timed."""

    todo: list[Task]
    keep: Keep
    refused: dict[str, EdgedError] = field(default_factory=dict)
    beside: dict[str, int] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)  # by process
    failed: BaseException | None = None
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _busy: dict[int, Task] = field(default_factory=dict)
    _died: dict[str, int] = field(default_factory=dict)
    _timer: int | None = None  # who measured speed last
    _waiting: int = 0
    _spare: set[int] = field(default_factory=set)  # who has a fresh process standing by
    _slice: dict[int, int] = field(default_factory=dict)  # whose pictures each process has loaded
    _block: dict[str, int] = field(default_factory=dict)  # candidates that a process keeps compiled at once

    def __post_init__(self) -> None:
        models = dict.fromkeys(t.sha256 for t in self.todo if t.kind == "answers")
        self._block = {sha256: i // ENGINES for i, sha256 in enumerate(models)}

    def take(self, who: int) -> Task | None:
        """The next one for process `who`, when there is one that may begin; None when all is done, or failed."""
        with self._lock:
            while self.todo and self.failed is None:
                found = self._next(who)
                if found is not None:
                    self.todo.remove(found)
                    self._busy[who] = found
                    if found.kind == "speed":
                        self._timer = who
                        self._spare.discard(who)
                    if found.kind == "answers":
                        self._slice[who] = found.slice
                    timed = next((t for t in self._busy.values() if t.kind == "speed"), None)
                    if timed is not None:
                        others = len(self._busy) - 1
                        self.beside[timed.sha256] = max(others, self.beside.get(timed.sha256, 0))
                    return found
                self._waiting += 1
                self._lock.wait(1.0)
                self._waiting -= 1
            return None

    def _next(self, who: int) -> Task | None:
        unready = {t.sha256 for t in (*self.todo, *self._busy.values()) if t.kind == "prepare"}
        timing = any(t.kind == "speed" for t in self._busy.values())
        timing = timing or (who == self._timer and self._waiting > 0)  # another's fresh process is ready

        first = {"speed": 3 if who == self._timer else 0, "prepare": 1}

        others = {n for process, n in self._slice.items() if process != who}

        def rank(t: Task) -> tuple[int, int, int, int]:
            loaded = t.kind == "answers" and self._slice.get(who) == t.slice
            again = 0 if loaded else 2 if t.slice in others else 1  # whether its pictures are loaded, and by whom
            return first.get(t.kind, 2), self._block.get(t.sha256, 0), again, t.slice

        ready = (t for t in self.todo if t.kind == "prepare" or t.sha256 not in unready)
        return min((t for t in ready if t.kind != "speed" or not timing), key=rank, default=None)

    def done(self, who: int, reply: Reply) -> None:
        with self._lock:
            task = self._busy.pop(who)
            error = reply.error()
            if error is None:
                self.keep(task, reply.result)
            elif isinstance(error, Refused):
                self._refuse(task, error)
            else:
                self.failed = error
            self._lock.notify_all()

    def died(self, who: int, how: Died) -> None:
        with self._lock:
            task = self._busy.pop(who)
            self._died[task.name] = self._died.get(task.name, 0) + 1
            what = f"the re-test of {task.sha256[:12]} ended {how} twice, at {task.kind}" + (
                f" of slice {task.slice}" if task.kind == "answers" else ""
            )
            if self._died[task.name] < TRIES:
                self.todo.insert(0, task)
            elif how.signal in (signal.SIGKILL, signal.SIGTERM):
                hint = "if nobody stopped it, the machine was out of memory: `journalctl -k` says so"
                self.failed = Unavailable(what, code="child_killed", hint=hint)
            else:
                self._refuse(task, Refused(what, code="crashed"))
            self._lock.notify_all()

    def may_stand_by(self, who: int) -> bool:
        """Whether there is a measurement of speed left for which nobody has started a process."""
        with self._lock:
            found = who not in self._spare and len(self._spare) < sum(t.kind == "speed" for t in self.todo)
            if found:
                self._spare.add(who)
            return found

    def took(self, who: int, cpu_seconds: float) -> None:
        with self._lock:
            self.cpu_seconds[who] = self.cpu_seconds.get(who, 0.0) + cpu_seconds

    def stop(self, error: BaseException) -> None:
        with self._lock:
            self.failed = self.failed or error
            self._lock.notify_all()

    def _refuse(self, task: Task, error: EdgedError) -> None:
        self.refused.setdefault(task.sha256, error)
        self.todo[:] = [t for t in self.todo if t.sha256 != task.sha256]


def run(
    job: RetestJob, folder: Path, tasks: Iterable[Task], keep: Keep, *, clock: Clock, look: Callable[[], None],
) -> Board:  # fmt: skip
    """Do all tasks; `look` is called often, in this thread. Raises what a task raised but Refused, and what `look` raises."""
    board = Board(list(tasks), keep)
    cores = sorted(os.sched_getaffinity(0))
    n = max(1, min(job.workers or len(cores), len(board.todo)))
    threads = [
        threading.Thread(target=_work, args=(board, i, job, folder, cores[-1 - i % len(cores)]), daemon=True)
        for i in range(n)
    ]
    for t in threads:
        t.start()
    try:
        while any(t.is_alive() for t in threads):
            look()
            threads[0].join(0.1) if threads[0].is_alive() else clock.sleep(0.1)
    except BaseException as e:
        board.stop(e)
        raise
    if board.failed is not None:
        raise board.failed
    return board


def _work(board: Board, who: int, job: RetestJob, folder: Path, core: int) -> None:
    """One process's thread; the process dies with it. The next one that will measure speed is started ahead: while it loads
    its libraries nobody has to wait.
    """
    hand: Hand | None = None
    fresh: Hand | None = None
    try:
        while True:
            if fresh is None and board.may_stand_by(who):
                fresh = Hand(job, folder, core=core, timed=True)
            task = board.take(who)
            if task is None:
                return
            order = Order(msgspec.json.encode(task))
            try:
                if task.kind == "speed":
                    if fresh is not None and not fresh.alive():  # killed as it stood by: no fault of this task
                        fresh.close()
                        fresh = None
                    timing, fresh = fresh or Hand(job, folder, core=core, timed=True), None
                    try:
                        reply = timing.ask(order)
                    finally:
                        board.took(who, timing.close())
                else:
                    hand = hand or Hand(job, folder, core=core)
                    reply = hand.ask(order)
            except Died as e:
                if task.kind != "speed" and hand is not None:
                    hand.close()
                    hand = None
                board.died(who, e)
                continue
            board.done(who, reply)
    except Exception as e:  # noqa: BLE001 the thread's outermost edge: `run` raises it
        board.stop(e)
    finally:
        for left in (hand, fresh):
            if left is not None:
                board.took(who, left.close())
