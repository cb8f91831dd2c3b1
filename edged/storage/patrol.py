"""A look each minute at the catalogue of a box that may have nothing else to do: damage ends the daemon, and the next
start makes the catalogue anew (repair.py).

Guarantees: the file's header, its schema and as many tables as can be checked in BUDGET_S are read each minute by a new
connection, whose cache is empty, the next ones in the minute after; so a catalogue that takes no longer than that
(about 100 MB, estimated) is read whole each minute. Does not guarantee: tables that alone take longer are read as far as
one comes; what the kernel still has in memory is not read from the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edged.clock import stopwatch
from edged.errors import Corrupt, EdgedError
from edged.storage.connection import explained

EVERY_S, BUDGET_S = 60.0, 0.5
_OPS = 10_000  # of SQLite's machine, between two looks at the time

log = logging.getLogger(__name__)


class Patrol:
    """The work of one thread; `step` is one look."""

    def __init__(self, path: Path, budget_s: float = BUDGET_S) -> None:
        self._path, self._budget_s, self._next = path, budget_s, 0

    def forever(self, stop: threading.Event, alarm: Callable[[BaseException], None], every_s: float = EVERY_S) -> None:
        """Until `stop`, or until damage was found, which goes to `alarm`."""
        while not stop.wait(every_s):
            try:
                self.step()
            except Corrupt as e:
                log.error("%s", e)
                alarm(e)
                return
            except EdgedError as e:
                log.warning("the catalogue was not looked at: %s", e)

    def step(self) -> int:
        """Check what the time is enough for; how many tables that were. Raises Corrupt, Unavailable."""
        until = stopwatch() + self._budget_s
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        with explained(self._path), closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as conn:
            names = [
                str(r[0]) for r in conn.execute("select name from sqlite_schema where type = 'table' order by name")
            ]
            conn.set_progress_handler(lambda: stopwatch() > until, _OPS)
            done = 0
            while done < len(names) and stopwatch() < until:
                name = names[self._next % len(names)]
                self._next += 1
                self._check(conn, name)
                done += 1
        return done

    def _check(self, conn: sqlite3.Connection, table: str) -> None:
        try:
            said = [str(r[0]) for r in conn.execute(f'pragma quick_check("{table}")')]
        except sqlite3.OperationalError as e:
            if "interrupted" not in str(e):
                raise
            return
        if wrong := [text for text in said if text != "ok"]:
            raise Corrupt(
                f"{self._path} is damaged: {'; '.join(wrong)[:300]}", code="catalogue_damaged",
                hint="a restart of edged makes it anew",
            )  # fmt: skip
