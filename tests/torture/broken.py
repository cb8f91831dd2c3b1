"""Builds that are broken on purpose, each without one safeguard: the power cuts must find a broken promise in every one."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from dataclasses import dataclass

from edged.storage import recover, supersede


@dataclass(frozen=True)
class Build:
    """`switch_off` runs in the workload's process before all else. `part` of the workload shows it, if need be after the
    process was killed at `kill`, or read by a start that does not recover. `shows`: words of the promise that it breaks.
    """

    switch_off: Callable[[], None]
    part: str = "ingest"
    kill: str = ""
    recovers: bool = True
    shows: str = ""


class _Hasty(sqlite3.Connection):
    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:  # type: ignore[override]
        return super().execute("pragma synchronous = normal" if sql == "pragma synchronous = full" else sql, *args)


def _normal() -> None:
    real = sqlite3.connect
    sqlite3.connect = lambda *args, **options: real(*args, factory=_Hasty, **options)  # type: ignore[assignment]


def _unsynced(kind: Callable[[int], bool], *names: str) -> None:
    """SQLite syncs by itself, whatever stands in `os`."""
    for name in names:
        real = getattr(os, name)
        setattr(os, name, lambda fd, real=real: None if kind(os.fstat(fd).st_mode) else real(fd))


def _trusting() -> None:
    recover._flush_again = lambda fd, found: None


def _leaving() -> None:
    supersede.discard = lambda path: path.unlink(missing_ok=True)


BUILDS = {
    "normal": Build(
        _normal, part="catalogue", recovers=False, shows="is lost"
    ),  # all of the catalogue is synchronous=NORMAL
    "rebuild": Build(lambda: None, recovers=False, shows="is lost"),  # a start makes no rows from what the segments say
    "data": Build(lambda: _unsynced(stat.S_ISREG, "fdatasync")),  # records are written, the segment is not flushed
    "names": Build(lambda: _unsynced(stat.S_ISDIR, "fsync")),  # files are renamed into place, no folder is synced
    "reflush": Build(_trusting, kill="fdatasync:4"),  # recovery takes what is in the page cache for what is on the disk
    "leftover": Build(_leaving, part="keys"),  # a superseded keyring is unlinked and not overwritten
}
