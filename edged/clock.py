"""The only file that tells the time. Loops get a `Clock`; pure code gets `now` as a number.

`now` is wall-clock seconds since 1970 (may step), `monotonic` never goes back and has no meaning across processes.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def stopwatch() -> float:
    """A high-resolution reading in seconds for measuring how long a piece of work took; only differences mean anything."""
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU seconds (user + system) that this process has used."""
    return time.process_time()


def iso(ts: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC with milliseconds: 2026-11-21T10:23:00.000Z."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(ts: float) -> str:
    """The UTC day of a time, YYYY-MM-DD."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")
