"""What ends a daemon that stands still: systemd's watchdog, and one of our own for where there is no systemd.

Guarantees: unless `feed` is called again within `loop_s`, the process prints where its threads stand (no values) and
ends with exit code 1, whatever they do: the clock for that runs in C, beside Python's lock (faulthandler). systemd, where
it started us, is told every time and ends us by itself. Does not guarantee that anything starts us again: that is
`Restart=on-failure`, or another supervisor.
"""

from __future__ import annotations

import faulthandler
import os
import socket
from contextlib import suppress

from edged.clock import Clock

OFTEN_S = 1.0
DYING_S = 2.0  # to say goodbye, for one who is known to stand still
STOPPING_S = 90.0  # for an orderly end; systemd gives it TimeoutStopSec


class Watchdog:
    """`loop_s` 0 = only systemd's."""

    def __init__(self, loop_s: float, clock: Clock) -> None:
        self._loop_s, self._clock = loop_s, clock
        self._next = clock.monotonic()

    def feed(self) -> None:
        """All is well; costs nothing when called more often than needed."""
        now = self._clock.monotonic()
        if now >= self._next:
            self._next = now + OFTEN_S
            notify("WATCHDOG=1")
            self._end_in(self._loop_s)

    def give_up(self, why: str) -> None:
        """The process ends within DYING_S, whatever holds it."""
        notify(f"STATUS=stands still: {why}")
        self._end_in(DYING_S)

    def stop(self) -> None:
        """An orderly end has begun."""
        notify("STOPPING=1")
        self._end_in(STOPPING_S)

    def _end_in(self, seconds: float) -> None:
        if self._loop_s > 0:
            with suppress(RuntimeError, ValueError):  # there is no standard error to print to
                faulthandler.dump_traceback_later(seconds, exit=True)

    @staticmethod
    def leave() -> None:
        """The process goes on without it."""
        faulthandler.cancel_dump_traceback_later()


def notify(text: str) -> None:
    """sd_notify(3): tell systemd READY=1, WATCHDOG=1 or STATUS=...; does nothing elsewhere."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s, suppress(OSError):
        s.setblocking(False)
        s.connect("\0" + address[1:] if address.startswith("@") else address)
        s.sendall(text.encode())
