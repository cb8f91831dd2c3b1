"""What the daemon counts and times of itself, for /metrics: the page is another process and reads it from rows.

Guarantees: totals only grow, also over a restart; what a crash takes are the last GAUGES_S. A frame costs a few additions
in memory. Does not guarantee that a gauge is of this moment: it is of the last GAUGES_S.

A histogram is a counter for each bucket, "receipt_s:<upper bound>", and one of its sum in milliseconds, "receipt_s:ms".
"""

from __future__ import annotations

import os
import resource
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from edged.clock import Clock, cpu_seconds
from edged.config import PLANTED
from edged.storage import gauges
from edged.storage.gauges import RECEIPT_S, SCRUB_S
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt

GAUGES_S = 10.0
REMEMBERED = 4096  # frames that are under way, at most; a queue holds far fewer

Count = Callable[[str, int], None]


class Meter:
    """Wraps the ways in and out of ingest; thread-safe. `count(name, n)` adds to a running total."""

    def __init__(self, count: Count, clock: Clock) -> None:
        self._count, self._clock = count, clock
        self._lock = threading.Lock()
        self._came: OrderedDict[tuple[str, str], float] = OrderedDict()  # (camera, frame id) -> when, not yet answered
        self._next = clock.monotonic()
        self._started = clock.now()
        self._grown: dict[str, int] = {}

    def submitting(self, submit: Callable[[Frame], FrameReceipt | None]) -> Callable[[Frame], FrameReceipt | None]:
        """`submit`, seen from outside: what it answers at once is counted, what it takes is timed from now on."""

        def wrapped(frame: Frame) -> FrameReceipt | None:
            key = frame.camera, frame.header.id
            with self._lock:
                self._came.setdefault(key, self._clock.monotonic())
                if len(self._came) > REMEMBERED:
                    self._came.popitem(last=False)
            receipt = submit(frame)
            if receipt is not None:
                self._answered(frame.camera, receipt)
            return receipt

        return wrapped

    def answering(self, answer: Callable[[str, FrameReceipt], None]) -> Callable[[str, FrameReceipt], None]:
        """`answer`, seen from outside."""

        def wrapped(camera: str, receipt: FrameReceipt) -> None:
            answer(camera, receipt)
            self._answered(camera, receipt)

        return wrapped

    def took(self, step: str, camera: str, seconds: float) -> None:
        """A scrub child's answer took so long; `step` "look" or "cover"."""
        if camera != PLANTED and step in ("look", "cover"):
            self._time(f"scrub_s:{step}", SCRUB_S, seconds)

    def step(self, store: Store, facts: Callable[[], tuple[Mapping[str, float], Mapping[str, int]]]) -> None:
        """Every GAUGES_S: write the process's figures and what `facts` gives: gauges, and totals since the start."""
        now = self._clock.monotonic()
        if now < self._next:
            return
        self._next = now + GAUGES_S
        measured, totals = facts()
        cpu_ms = int(cpu_seconds() * 1000)
        for name, total in {**totals, "daemon_cpu_ms": cpu_ms}.items():
            if grown := total - self._grown.get(name, 0):
                self._grown[name] = total
                self._count(name, grown)
        gauges.put(store, process() | {"daemon_started_ts": self._started} | dict(measured))

    def _answered(self, camera: str, receipt: FrameReceipt) -> None:
        with self._lock:
            came = self._came.pop((camera, receipt.id), None)
        self._count(f"receipts:{receipt.status}", 1)
        if came is not None and receipt.status != "retry":
            self._time("receipt_s", RECEIPT_S, self._clock.monotonic() - came)

    def _time(self, name: str, bounds: tuple[float, ...], seconds: float) -> None:
        place = bisect_left(bounds, seconds)
        self._count(f"{name}:{bounds[place] if place < len(bounds) else 'inf'}", 1)
        self._count(f"{name}:ms", round(seconds * 1000))


def process() -> dict[str, float]:
    """What this process holds: bytes of memory, descriptors, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "daemon_rss_bytes": float(pages * resource.getpagesize()),
        "daemon_fds": float(len(os.listdir("/proc/self/fd"))),
        "daemon_threads": float(threading.active_count()),
    }
