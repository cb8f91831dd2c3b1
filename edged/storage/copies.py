"""The box's own daily copies of its catalogue, from which a damaged one is repaired: backups/edged-<day>.db.

Guarantees: a copy is of one moment, sound when it was made, whole or not there; making it holds up no writer. No key, no
picture and nothing that a model saw in one (`insight`) is in it. Does not guarantee anything against the death of the
disk: `edged db backup` does.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from edged import durable
from edged.clock import Clock, day, iso
from edged.errors import Corrupt, EdgedError, Misconfigured
from edged.storage import disk, schema
from edged.storage.connection import explained
from edged.storage.store import CATALOGUE

log = logging.getLogger(__name__)

FOLDER = "backups"
KEEP = 3
_STEP_PAGES = 512  # 2 MB between two looks at the clock


def all(data_dir: Path) -> list[Path]:
    """The daily copies, the newest first."""
    return sorted((data_dir / FOLDER).glob("edged-????-??-??.db"), reverse=True)


def sound(path: Path) -> bool:
    """Whether a copy can be read, is of a schema we know, and SQLite finds nothing wrong with it."""
    try:
        with closing(opened(path)) as conn:
            return bool(conn.execute("pragma quick_check(1)").fetchone()[0] == "ok") and schema.version_of(conn) > 0
    except (sqlite3.DatabaseError, Misconfigured):
        return False


def due(data_dir: Path, now: float, at: str) -> bool:
    """Whether today's own copy is to be made: it is `at` (HH:MM, UTC) or later, and there is none yet."""
    return iso(now)[11:16] >= at and not of_today(data_dir, now).exists()


def of_today(data_dir: Path, now: float) -> Path:
    return data_dir / FOLDER / f"edged-{day(now)}.db"


def make(data_dir: Path, clock: Clock, *, keep: int = KEEP, min_free: int = 0) -> Path:
    """Make today's copy of the catalogue on the box itself, from which a damaged one is repaired; keep the newest ones."""
    target = of_today(data_dir, clock.now())
    folder = target.parent
    disk.make_dir(folder)
    size = (data_dir / CATALOGUE).stat().st_size
    disk.require_space(data_dir, size, min_free)
    temp = folder / f"{disk.TEMP}{target.name}"
    temp.unlink(missing_ok=True)
    try:
        with disk.explained(target):
            copy(data_dir / CATALOGUE, temp)
            os.rename(temp, target)
            durable.sync_folder(folder)
    except EdgedError:
        temp.unlink(missing_ok=True)
        raise
    for old in sorted(folder.glob("edged-????-??-??.db"), reverse=True)[keep:]:
        old.unlink()
    return target


def used(data_dir: Path) -> int:
    """What the box's own copies take of its disk."""
    total = 0
    with suppress(FileNotFoundError):
        for path in (data_dir / FOLDER).iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_size
    return total


def drop(data_dir: Path) -> None:
    """Remove all copies: what an erasure took from the catalogue stands in them."""
    for path in all(data_dir):
        path.unlink(missing_ok=True)


class Daily:
    """Makes the box's own copy once a day, at `at` (HH:MM, UTC) or as soon after as it runs; tries again in an hour."""

    def __init__(self, data_dir: Path, clock: Clock, at: str, keep: int, min_free: int) -> None:
        self._data_dir, self._clock, self._at, self._keep, self._min_free = data_dir, clock, at, keep, min_free
        self._not_before = 0.0

    def forever(self, stop: threading.Event, every_s: float = 30.0) -> None:
        while not stop.wait(every_s):
            self.step()

    def step(self) -> Path | None:
        """The copy, if one was due and was made. Raises nothing: the daemon goes on without one."""
        now = self._clock.monotonic()
        if now < self._not_before or not due(self._data_dir, self._clock.now(), self._at):
            return None
        try:
            return make(self._data_dir, self._clock, keep=self._keep, min_free=self._min_free)
        except EdgedError as e:
            log.warning("no daily copy of the catalogue: %s", e)
            self._not_before = now + 3600
            return None


def copy(source: Path, target: Path, progress: Callable[[float], None] = lambda _: None) -> tuple[int, str]:
    """A copy of the catalogue as it is at one moment, durable, in one file. Writers go on: it reads one WAL snapshot.

    Returns its length and SHA-256. Raises Corrupt when the source is damaged, Unavailable for a full disk.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with explained(source), closing(opened(source)) as live, closing(sqlite3.connect(target)) as made:
        live.execute("begin")  # held over all steps: else every commit of another process would start it again
        live.execute("select count(*) from sqlite_schema").fetchone()
        made.execute("pragma synchronous = off")  # synced once, below
        live.backup(made, pages=_STEP_PAGES, progress=lambda _, left, total: progress(1 - left / total if total else 1))
        made.execute("pragma journal_mode = delete")  # a copy on a read-only medium must open without a -shm
        _without_insights(made)
        wrong = made.execute("pragma quick_check(1)").fetchone()[0]
    if wrong != "ok":
        target.unlink()
        raise Corrupt(f"{source} is damaged, nothing was backed up: {wrong}", hint="restart edged: it repairs itself")
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        with os.fdopen(os.dup(fd), "rb") as f:
            sha256 = hashlib.file_digest(f, "sha256").hexdigest()
    finally:
        os.close(fd)
    return target.stat().st_size, sha256


def _without_insights(made: sqlite3.Connection) -> None:
    """They go with their picture, which no copy would notice; the next survey makes them anew."""
    if made.execute("select 1 from sqlite_schema where name = 'insight'").fetchone():
        made.execute("pragma secure_delete = on")
        made.execute("pragma journal_mode = memory")  # a journal on the disk would hold what is deleted
        made.execute("delete from insight")
        made.commit()
        made.execute("pragma journal_mode = delete")


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None)
