"""The open store: one SQLite connection, one lock, the seal. Each noun's functions take it as their first argument.

Guarantees: a transaction that ended without an error survives a power cut (WAL, synchronous=FULL) unless it was asked
to be cheap (`durable=False`: counters, progress, when a camera was heard last); several processes may have the store
open; threads of one process share it through one lock. Does not guarantee that a reader sees two statements of the same
moment unless both stand in one `transaction`.

A busy database is Unavailable, a full disk Unavailable("disk_full"), a damaged one Corrupt, one made by a newer edged
Misconfigured.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edged.clock import Clock
from edged.durable import sync_folder
from edged.errors import Corrupt, EdgedError, Misconfigured, Unavailable
from edged.storage import connection, disk, reserve
from edged.storage.keyring import copies_of
from edged.storage.seal import Seal

if TYPE_CHECKING:
    from sqlite_utils import Database

    from edged.storage.journal import Journal

log = logging.getLogger(__name__)

BUSY_S = 10.0
CATALOGUE = "edged.db"
SEGMENT_BYTES = 32 * 2**20
SETTLE_COMMITS, SETTLE_BYTES = 64, 4 * 2**20  # after so many, or when the log has grown by so much

Params = Sequence[Any] | Mapping[str, Any]


class Store:
    """The store of one box. Open it with `Store.open`; close it, or use it as a context manager."""

    def __init__(
        self,
        data_dir: Path,
        conn: sqlite3.Connection,
        seal: Seal | None,
        clock: Clock,
        *,
        readonly: bool,
        min_free: int,
        max_bytes: int,
        segment_bytes: int,
        busy_s: float,
        linger_s: float,
        catalogue: str = CATALOGUE,
    ) -> None:
        self.data_dir = data_dir
        self.path = data_dir / catalogue
        self.clock = clock
        self.readonly = readonly
        self.min_free = min_free  # bytes of the disk that new pictures may not take
        self.max_bytes = max_bytes  # of all segments; 0 = as many as there is room for
        self.segment_bytes = segment_bytes
        self.linger_s = linger_s  # that rows of durable frames may wait for others
        self._busy_s = busy_s
        self._journal: Journal | None = None
        self._seal = seal
        self._conn = conn
        self._inode = connection.inode(self.path)
        self._lock = threading.RLock()
        self._depth = 0
        self._durable = True
        self._db: Database | None = None
        self._commits = self._log_bytes = 0  # since the log was moved into the database; how long it was then
        self._suspect = False  # the disk failed: nothing goes through this connection any more

    @classmethod
    def open(
        cls,
        data_dir: Path,
        *,
        clock: Clock,
        site_key: bytes | None,
        readonly: bool = False,
        min_free: int = 0,
        max_bytes: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        busy_s: float = BUSY_S,
        keyring_copy: Path | None = None,
        accept_catalogue: bool = False,
        catalogue: str = CATALOGUE,
        linger_s: float = 0.0,
    ) -> Store:
        """Open the store under `data_dir`, making or upgrading it unless `readonly`.

        `site_key` is 32 bytes (`seal.read_key`); without it pictures can be neither sealed nor unsealed, all else
        works. `min_free` bytes of the disk are kept from new pictures; segments of `segment_bytes` take `max_bytes` at
        most (0 = no limit). `busy_s`: how long to wait for another writer. `keyring_copy`: where the second copy of the
        keyring is (default: in the site's keys/). `accept_catalogue`: the catalogue was restored or made anew, so it may
        be older than the keyring. `catalogue`: the name of its file, another while a new one is made (repair.py).
        `linger_s`: how long rows of durable frames may wait to be written together (journal.py).
        """
        data_dir = Path(data_dir)
        path = data_dir / catalogue
        seal = Seal(site_key, copies_of(data_dir, keyring_copy)) if site_key is not None else None
        if readonly:
            if not path.is_file():
                if any((data_dir / "segments").glob("*.seg")):
                    raise Corrupt(f"{path} is gone, segments with pictures are there", hint=connection.ANEW)
                raise Misconfigured(f"no store at {path}", code="no_store", hint="edged init makes one")
        else:
            _make_dirs(data_dir, path)
        store = cls(
            data_dir, connection.connect(path, readonly, busy_s), seal, clock, readonly=readonly, min_free=min_free,
            max_bytes=max_bytes, segment_bytes=fitting(segment_bytes, _room(data_dir, max_bytes, min_free)), busy_s=busy_s,
            linger_s=linger_s, catalogue=catalogue,
        )  # fmt: skip
        try:
            with connection.explained(path):
                connection.prepare(store._conn, readonly)
            if seal is not None:
                seal.check_site_key(store, accept_catalogue=accept_catalogue)
        except BaseException:
            store._conn.close()
            raise
        return store

    def reopen(self) -> None:
        """A new connection, and a log that is written once more: after a failed fsync the cache may call clean what
        the disk does not have (Rebello et al., USENIX ATC 2020). Raises Unavailable("disk_failed"): call it again.
        """
        with self._lock:
            self._db = None
            self._suspect = True
            inode = connection.inode(self.path)
            with self._explained():
                conn = connection.connect(self.path, self.readonly, self._busy_s)
                try:
                    connection.prepare(conn, self.readonly)
                    if inode == self._inode and not self.readonly:
                        connection.log_again(conn, self.path)
                except BaseException:
                    conn.close()
                    raise
            with suppress(sqlite3.Error):  # after the new one is open: the last to close would flush the log again
                self._conn.close()
            self._conn, self._inode, self._suspect = conn, inode, False

    def _follow(self) -> bool:
        """A new connection after a failure of the disk, or to the catalogue that was put in the place of this one
        (repair.py).
        """
        if not self._suspect and connection.inode(self.path) == self._inode:
            return False
        if self._conn.in_transaction:
            self._conn.execute("rollback")
        self.reopen()
        return True

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """As `explained`; a failing disk is Unavailable here, since the next use opens the database anew."""
        try:
            with connection.explained(self.path):
                yield
        except EdgedError as e:
            code = getattr(e.__cause__, "sqlite_errorcode", 0) & 0xFF
            if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN) or self.readonly:
                raise
            self._suspect = True
            raise Unavailable(str(e), code="disk_failed", hint="look at dmesg") from e

    @property
    def seal(self) -> Seal:
        """The seal; raises Misconfigured when the store was opened without the site key."""
        if self._seal is None:
            raise Misconfigured("the store was opened without the site key: pictures stay sealed", code="no_key")
        return self._seal

    @property
    def has_key(self) -> bool:
        return self._seal is not None

    @property
    def depth(self) -> int:
        """How many transactions are open, one in the other; to be asked inside one."""
        return self._depth

    @property
    def objects_dir(self) -> Path:
        return self.data_dir / "objects"

    @property
    def segments_dir(self) -> Path:
        return self.data_dir / "segments"

    @property
    def journal(self) -> Journal:
        """The writer of pictures; this process is the only one from the first use to `close`."""
        if self.readonly:
            raise Misconfigured("the store is open for reading only", code="readonly")
        with self._lock:
            if self._journal is None:
                from edged.storage.journal import Journal

                self._journal = Journal(self)
            return self._journal

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def db(self) -> Database:
        """The same connection as a sqlite-utils Database, for queries; write only inside `transaction`."""
        if self._db is None:
            from sqlite_utils import Database

            self._db = Database(self._conn, execute_plugins=False)
        return self._db

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Store]:
        """All inside happens or nothing does; durable when the outermost one ends. An inner one is a savepoint.

        `durable` False is for status that is written often and worth little: seen by all at once, but a power cut may
        take it (it spares the fsync; the next durable one covers it too). Such a one cannot hold a durable one.
        """
        with self._lock:
            name = f"inner_{self._depth}"
            outer = self._depth == 0
            if outer:
                if self._suspect:
                    self.reopen()
                self._durable = durable
            elif durable and not self._durable:
                raise RuntimeError("a durable transaction inside one that is not")
            if not durable and outer:
                self._run("pragma synchronous = normal")
            self._depth += 1
            try:
                self._run("begin immediate" if outer else f"savepoint {name}")
                if outer and self._follow():  # asked under the lock: what is written now is not left behind
                    self._run("begin immediate")
                yield self
                self._run("commit" if outer else f"release {name}")
            except BaseException as e:
                if self._conn.in_transaction:  # SQLite may have rolled back by itself (disk full)
                    if outer:
                        self._conn.execute("rollback")
                    else:
                        self._conn.execute(f"rollback to {name}")
                        self._conn.execute(f"release {name}")
                if outer and durable and self._relieved(e):
                    raise Unavailable(f"{e}; its reserve was given back: try again", code="disk_full") from e
                raise
            finally:
                self._depth -= 1
                if outer and not durable:
                    self._conn.execute("pragma synchronous = full")
            if outer:
                self._settle()

    def execute(self, sql: str, params: Params = ()) -> int:
        """Run one statement (its own durable transaction unless inside one); returns the number of rows changed."""
        with self._lock:
            return self._run_alone(sql, params).rowcount

    def insert(self, sql: str, params: Params = ()) -> int:
        """As `execute`, for an insert into a table with an integer key; returns the new key."""
        with self._lock:
            return self._run_alone(sql, params).lastrowid or 0

    def execute_many(self, sql: str, params: Iterable[Params]) -> None:
        with self._lock, self._explained():
            self._sure()._conn.executemany(sql, params)
            self._settle()

    def rows(self, sql: str, params: Params = ()) -> list[sqlite3.Row]:
        """All rows of a query; columns by name or by place."""
        with self._lock, self._explained():
            if not self._depth and not self._suspect:  # what can be read is read, also from a disk that failed
                self._follow()
            return self._conn.execute(sql, params).fetchall()

    def row(self, sql: str, params: Params = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._lock, self._explained():
            if not self._depth and not self._suspect:  # what can be read is read, also from a disk that failed
                self._follow()
            found: sqlite3.Row | None = self._conn.execute(sql, params).fetchone()
            return found

    def value(self, sql: str, params: Params = ()) -> Any:
        """The first column of the first row, or None."""
        found = self.row(sql, params)
        return None if found is None else found[0]

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        with self._lock, self._explained():
            self._conn.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sure(self) -> Store:
        """Itself, with a connection that can be trusted."""
        if self._suspect and not self._depth:
            self.reopen()
        return self

    def _run_alone(self, sql: str, params: Params) -> sqlite3.Cursor:
        """One statement; outside a transaction tried again when a full disk was relieved."""
        try:
            done = self._sure()._run(sql, params)
        except Unavailable as e:
            if self._depth or not self._relieved(e):
                raise
            done = self._sure()._run(sql, params)
        self._settle()
        return done

    def _settle(self) -> None:
        """After a commit: now and then move the log into the database. What fails here costs the caller nothing, but the
        next one to write gets a new connection.
        """
        if self._depth or self._suspect:
            return
        self._commits += 1
        size = connection.size(connection.log_of(self.path))
        if self._commits < SETTLE_COMMITS and size < self._log_bytes + SETTLE_BYTES:
            return
        try:
            with self._explained():
                self._conn.execute("pragma wal_checkpoint(passive)").fetchone()
            self._commits, self._log_bytes = 0, size
        except (Unavailable, Corrupt) as e:
            log.warning("the catalogue's log stays as it is: %s", e)

    def _relieved(self, e: BaseException) -> bool:
        """The disk was full and has room again: the reserve was given back."""
        return isinstance(e, Unavailable) and e.code == "disk_full" and reserve.release(self.data_dir)

    def _run(self, sql: str, params: Params = ()) -> sqlite3.Cursor:
        with self._explained():
            return self._conn.execute(sql, params)


def fitting(segment_bytes: int, max_bytes: int) -> int:
    """A store of little room has small segments, else it could hold too few to tell old from new."""
    return min(segment_bytes, max(max_bytes // 32, 2**20)) if max_bytes else segment_bytes


def _room(data_dir: Path, max_bytes: int, min_free: int) -> int:
    """Bytes that segments can have here: `max_bytes` may be more than the disk has."""
    taken = sum(p.stat().st_size for p in (data_dir / "segments").glob("*.seg"))
    there = max(1, taken + disk.free(data_dir) - min_free)
    return min(max_bytes, there) if max_bytes else there


def _make_dirs(data_dir: Path, catalogue: Path) -> None:
    try:
        new = [p for p in (data_dir, *data_dir.parents) if not p.exists()]
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in new:
            sync_folder(path.parent)
        for name in ("segments", "models"):
            disk.make_dir(data_dir / name)
        # Before SQLite does: its files (WAL, shared memory) copy the mode of the database.
        os.close(os.open(catalogue, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as e:
        raise disk.renamed(e, data_dir) from e
