"""Arrived frames meet the scrub children: one thread for each child, one waiting room before them (edged/admit.py).

Guarantees: who sends too much, or finds no room, is told at once when to send again, so memory is bounded and no camera
starves another; a frame that is sent again while it is under way is not taken twice, one receipt answers both. Does not
guarantee that a receipt arrives: a camera that misses one sends again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Collection
from functools import partial

from edged.admit import LONGEST_S, Backoff, Limits, Room, Shares
from edged.clock import Clock, SystemClock, stopwatch
from edged.ingest import Answers, Job, Line, Scrubber, retry, sha256
from edged.privacy.track import Rules
from edged.storage import counters
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt

log = logging.getLogger(__name__)

JOBS = 2  # that wait for one line
BUSY_S = (0.2, 30.0)  # shortest and longest that a camera is told to wait when there is no room
PATIENCE = 10.0  # delays that a frame waits for later ones while others are queued
TOLD = Limits(
    frames_per_s=16.0, burst=64.0
)  # of those over their share, that are told so; a window is 8 frames at most
SPREAD = 0.5  # of what a camera is told to wait is added by chance, so that cameras do not come back in step


class Workers:
    """One thread per scrub child between the waiting room and `answer(camera, receipt)`; a camera keeps its thread.

    `submit` never blocks on a disk or a child. A worker that meets a bug or a Corrupt store calls `alarm` and goes on
    with the next frame; the frame stays un-receipted on its camera. `count(name, n)` adds to a running total.
    """

    def __init__(
        self,
        store: Store,
        scrubbers: list[Scrubber],
        answer: Callable[[str, FrameReceipt], None],
        alarm: Callable[[BaseException], None],
        limits: Limits | None = None,
        *,
        cameras: Collection[str] = (),
        rules: Rules | None = None,
        delay_s: float = 0.0,
        clock: Clock | None = None,
        count: Callable[[str, int], None] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._answer, self._alarm = answer, alarm
        self._clock = clock = clock or SystemClock()
        self._count = count or partial(counters.bump, store)
        self._chance = chance or random.Random()
        self._disk = Backoff()
        self._lines = [Line(store, s, rules or Rules(), delay_s, clock, self._disk) for s in scrubbers]
        limits = limits or Limits()
        self._shares, self._told, self._room = Shares(limits, cameras), Shares(TOLD), Room(limits, len(scrubbers))
        self._jobs: list[deque[Job]] = [deque() for _ in scrubbers]
        self._took_s = [0.0] * len(scrubbers)  # for one frame, lately
        self._closing = False
        self._changed = threading.Condition()  # guards what is above but the lines
        self._threads = [
            threading.Thread(target=self._run, args=(i, line), name=f"ingest-{i}", daemon=True)
            for i, line in enumerate(self._lines)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, frame: Frame) -> FrameReceipt | None:
        """Let a frame in; a receipt comes back at once only when it must be sent again, or its id is taken.

        A camera that was told to wait LONGEST_S, or was told as often as TOLD, and goes on, is not answered for what it
        sends meanwhile: it keeps that. Turned away so, a frame costs neither a digest nor a message.
        """
        now = self._clock.monotonic()
        given_up: tuple[Frame, ...] = ()
        with self._changed:
            share = self._shares.of(frame.camera)
            lane = self._room.lane_of(share)
            held = self._room.held(frame)
            if held is not None and held.jpeg == frame.jpeg:
                return None  # sent again while it is under way: one receipt answers both
            disk_s, rate_s, heard = self._disk.remaining(now), 0.0, True
            if held is None and not disk_s:
                rate_s = self._shares.take(share, len(frame.jpeg), now)
                if rate_s:
                    heard = rate_s < LONGEST_S and not self._told.take(share, 0, now)
                else:
                    given_up = self._room.offer(share, frame, now)
                    self._changed.notify_all()
            busy_s = min(max(BUSY_S[0], self._room.ahead(lane) * self._took_s[lane]), BUSY_S[1])
        if held is not None:
            self._count("refused:id_reused", 1)
            return FrameReceipt(frame.header.id, sha256(frame), "refused", "another picture has this id")
        if disk_s:
            return self._turn_away(frame, "disk", self._disk.why, disk_s)
        if not heard:
            self._count("unanswered", 1)
            return None
        if rate_s:
            return self._turn_away(frame, "rate", "more than this camera's share of frames or bytes", rate_s)
        receipt = None
        for gone in given_up:
            busy = self._turn_away(gone, "room", "the box is busy", busy_s)
            if gone is frame:
                receipt = busy
            else:
                self._answer(gone.camera, busy)
        return receipt

    def _turn_away(self, frame: Frame, why: str, told: str, after_s: float) -> FrameReceipt:
        self._count(f"retry:{why}", 1)
        return retry(frame, told, after_s * self._chance.uniform(1, 1 + SPREAD))

    def submit_job(self, n: int, job: Job) -> bool:
        """Queue work for one of the lines, `n` counting them round and round; False when there is no room."""
        with self._changed:
            jobs = self._jobs[n % len(self._jobs)]
            if len(jobs) >= JOBS:
                return False
            jobs.append(job)
            self._changed.notify_all()
        return True

    def waiting(self) -> int:
        """Frames and jobs that wait for a scrubber or for later frames."""
        with self._changed:
            queued = self._room.frames + sum(len(jobs) for jobs in self._jobs)
        return queued + sum(len(line.waiting()) for line in self._lines)

    def held_bytes(self) -> int:
        """Of frames between arrival and receipt."""
        return self._room.bytes

    def age(self) -> float:
        """Seconds that the frame has waited for a scrubber that waits longest, 0 = none."""
        with self._changed:
            return self._room.age(self._clock.monotonic())

    def alive(self) -> bool:
        return all(t.is_alive() for t in self._threads)

    def close(self) -> None:
        """Finish what was queued, then stop threads and children."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)
        for line in self._lines:
            line.close()

    def _run(self, lane: int, line: Line) -> None:
        while True:
            item, last = self._next(lane, line.due_in())
            if item is not None:
                began = stopwatch()
                self._answer_all(lane, partial(line.put, item) if isinstance(item, Frame) else partial(item, line))
                if isinstance(item, Frame):
                    self._took_s[lane] += (stopwatch() - began - self._took_s[lane]) / 8
            elif last and self._closing:
                break
            # On a slow box a look takes longer than the delay: what is queued already is worth waiting for.
            self._answer_all(lane, partial(line.overdue, 1.0 if last else PATIENCE))
        self._answer_all(lane, line.finish)

    def _next(self, lane: int, timeout_s: float | None) -> tuple[Frame | Job | None, bool]:
        """What is to be done in a lane, None after `timeout_s`; and whether nothing waits there any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._jobs[lane] or self._room.ahead(lane), timeout_s)
            item = self._jobs[lane].popleft() if self._jobs[lane] else self._room.next(lane)
            return item, not self._jobs[lane] and not self._room.ahead(lane)

    def _answer_all(self, lane: int, work: Callable[[], Answers]) -> None:
        try:
            for frame, receipt in work():
                with self._changed:
                    self._room.done(frame)  # before the answer: what is sent again from now on gets one of its own
                if receipt.status == "retry":
                    receipt = self._turn_away(frame, "store", receipt.detail, receipt.retry_after_s)
                self._answer(frame.camera, receipt)
        except Exception as e:
            log.exception("a frame was not taken")
            with self._changed:
                self._room.keep(lane, self._lines[lane].waiting())
            self._alarm(e)
