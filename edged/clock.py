"""The only file that tells the time. Loops get a `Clock`; pure code gets `now` as a number.

`now` is wall-clock seconds since 1970 (may step), `monotonic` never goes back and has no meaning across processes.
"""

from __future__ import annotations

import ctypes
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

TIMESYNCD = "/run/systemd/timesync/synchronized"  # there once systemd-timesyncd has heard from a server
_TIME_ERROR = 5  # the kernel's clock follows nobody
_TIMEX_TIME = 72  # offset of the kernel's own time


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


def synchronised() -> bool:
    """Whether a time server vouches for the wall clock, as the kernel or systemd-timesyncd knows (64-bit Linux only)."""
    timex = ctypes.create_string_buffer(512)  # struct timex, modes 0: adjtimex(2) only tells
    try:
        state = int(ctypes.CDLL(None).adjtimex(timex))
    except (AttributeError, OSError):
        state = -1
    if state < 0:  # a sandbox forbids it
        return Path(TIMESYNCD).exists()
    seconds = int.from_bytes(timex.raw[_TIMEX_TIME : _TIMEX_TIME + 8], "little")
    return (state < _TIME_ERROR or Path(TIMESYNCD).exists()) and abs(seconds - time.time()) < 60


def stopwatch() -> float:
    """A high-resolution reading in seconds for measuring how long a piece of work took; only differences mean anything."""
    return time.perf_counter()


def cpu_seconds() -> float:
    """CPU seconds (user + system) that this process has used."""
    return time.process_time()


def cpu_seconds_of(pid: int) -> float:
    """The same of another process, by its CPU clock (clock_getcpuclockid(3)). Raises OSError when it is gone."""
    return time.clock_gettime((~pid << 3) | 2)


def iso(ts: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC with milliseconds: 2026-11-21T10:23:00.000Z."""
    return datetime.fromtimestamp(ts, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(ts: float) -> str:
    """The UTC day of a time, YYYY-MM-DD."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d")
