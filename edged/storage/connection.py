"""SQLite's connection to the catalogue: how it is opened, what its errors are called, and its log on the disk.

Guarantees: a connection for writing commits durably (WAL, synchronous=FULL, no checkpoint by itself) and has the newest
schema; errors that are the world's come as edged's families. Does not guarantee anything about transactions: store.py.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.storage import disk, schema

ANEW = "start edged, or run `edged db rebuild`: it is made anew from what can be read, the daily copy and the segments"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Rename SQLite's errors into edged's families. Broken constraints pass: they are bugs."""
    try:
        yield
    except sqlite3.DatabaseError as e:
        code = (getattr(e, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable(f"{path} is busy: another process is writing", code="busy") from e
        if code == sqlite3.SQLITE_FULL:
            raise Unavailable(f"disk full: {path}", code="disk_full", hint="free space on the disk") from e
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise Corrupt(f"{path} is damaged: {e}", hint=ANEW) from e
        if code == sqlite3.SQLITE_IOERR:
            raise Corrupt(f"the disk failed under {path}: {e}", code="disk_failed", hint="look at dmesg") from e
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise Misconfigured(f"{path}: {e}", hint="the store must belong to the user edged runs as") from e
        raise


def connect(path: Path, readonly: bool, busy_s: float) -> sqlite3.Connection:
    """Open a catalogue that is there; `prepare` makes it fit for use. Waits `busy_s` seconds for another writer."""
    with explained(path):
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}",
            uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False,
        )  # fmt: skip


def prepare(conn: sqlite3.Connection, readonly: bool) -> None:
    """Settings of every connection, and the newest schema. Raises Misconfigured (older_schema) when it may not write."""
    if readonly:
        if schema.version_of(conn) != schema.VERSION:
            raise Misconfigured(
                "the store is of an older schema", code="older_schema", hint="start edged once to upgrade it"
            )
        conn.execute("pragma query_only = on")
    else:
        if conn.execute("pragma journal_mode").fetchone()[0] != "wal":
            conn.execute("pragma journal_mode = wal")
        conn.execute("pragma synchronous = full")
        conn.execute("pragma wal_autocheckpoint = 0")  # it hides a flush that fails, and tries it again: see _settle
        conn.execute("pragma temp_store = memory")  # a savepoint's journal is no business of the disk
        conn.execute("pragma secure_delete = on")  # a destroyed key leaves no copy in a free page
        schema.migrate(conn)
    conn.execute("pragma foreign_keys = on")
    conn.row_factory = sqlite3.Row


def log_again(conn: sqlite3.Connection, path: Path) -> None:
    """Write SQLite's log in place as it is read, and flush it; nobody commits meanwhile."""
    file = log_of(path)
    conn.execute("begin immediate")
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            at = 0
            while piece := os.pread(fd, 2**20, at):
                disk.write_at(fd, at, [piece])
                at += len(piece)
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except FileNotFoundError:
        pass
    except OSError as e:
        raise Unavailable(
            f"the disk failed under {file}: {e.strerror}", code="disk_failed", hint="look at dmesg"
        ) from e
    finally:
        conn.execute("rollback")


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of a catalogue."""
    return path.with_name(f"{path.name}-wal")


def size(path: Path) -> int:
    """Bytes; 0 when it is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def inode(path: Path) -> tuple[int, int] | None:
    """Device and inode, None when it is not there: whether a path still names the same file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
