"""A damaged catalogue is made anew at the start, from what can be read of it, the newest daily copy and the segments.

    look      1. header, SQLite's own check, the schema, frames of the WAL that SQLite would not reach
    start     behind such frames stand rows that never go: salvage.graft; all else: rebuild
    rebuild   1. link the damaged files to `edged.db.damaged-<time>`, -wal too: nothing ever writes them again
              2. salvage.fill into `edged.db.new`
              3. rename it to `edged.db.rebuilt` (from here on it is finished, whatever happens), unlink the old WAL, sync
                 the folder, rename to `edged.db`, sync

Guarantees: a start never goes on with a catalogue that SQLite finds damaged, never overwrites one, and never loses a row of
a label, an act, a snapshot, a model or a release that can still be read, without a word; a kill at any step is taken up
by the next start. Other processes follow to the new file (`Store`). Does not guarantee the whole check of a large catalogue
at every start: after BUDGET_S it goes on, and `edged check` does the rest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from edged.clock import Clock, SystemClock, iso, stopwatch
from edged.durable import sync_folder
from edged.errors import Corrupt, Unavailable
from edged.storage import alarms, copies, pages, salvage, schema, segments, wal
from edged.storage.connection import explained
from edged.storage.store import CATALOGUE, Store

log = logging.getLogger(__name__)

NEW, REBUILT, DAMAGED = f"{CATALOGUE}.new", f"{CATALOGUE}.rebuilt", f"{CATALOGUE}.damaged-"
SMALL_PAGES = 5000  # up to 20 MB the whole check takes well under a second
BUDGET_S = 5.0  # for the quick check of a larger one

Progress = Callable[[str, float], None]  # what is being done; share done, 0..1


def start(
    data_dir: Path, open_: Callable[..., Store], clock: Clock, progress: Progress = lambda *_: None
) -> salvage.Rebuilt | None:
    """Before the daemon opens its store: put a sound catalogue there, rebuilt if need be; None when all is well.

    `open_` opens this site's store with these options of `Store.open`. Hold the daemon's lock.
    """
    finish(data_dir)
    why, behind = _looked(data_dir, BUDGET_S)
    if why is None:
        return None
    if behind is not None:
        stamp = _stamp(clock)
        kept = data_dir / f"{DAMAGED}{stamp}-wal"
        shutil.copyfile(
            data_dir / f"{CATALOGUE}-wal", kept
        )  # a second name would not do: SQLite goes on with this file
        os.chmod(kept, 0o600)
        with open_() as store:
            return salvage.graft(store, behind, why, kept, stamp)
    log.error("%s: %s; it is made anew", data_dir / CATALOGUE, why)
    return rebuild(data_dir, open_, clock, why, progress)


def finish(data_dir: Path) -> None:
    """End a switch that was cut off; remove what a rebuild that was cut off had made."""
    if (data_dir / REBUILT).exists():
        _switch(data_dir)
    for name in (NEW, *_beside(NEW)):
        with suppress(FileNotFoundError):
            (data_dir / name).unlink()


def look(data_dir: Path, *, budget_s: float = BUDGET_S) -> str | None:
    """What is wrong with the catalogue file, in words; None if nothing was found in the time. Changes no row.

    Raises Misconfigured("newer_schema"), Unavailable, and Corrupt("disk_failed") when the disk does not answer.
    """
    return _looked(data_dir, budget_s)[0]


def _looked(data_dir: Path, budget_s: float) -> tuple[str | None, pages.Found | None]:
    """`look`; and if all that is wrong are rows which SQLite does not reach in the WAL: these."""
    path = data_dir / CATALOGUE
    if not path.exists() or path.stat().st_size == 0:
        if any((data_dir / "segments").glob("*.seg")) or any(copies.all(data_dir)):
            return "it is gone", None
        return None, None
    with path.open("rb") as f:
        head = f.read(100)
    if not _plausible(head):
        return "its header is damaged", None
    conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None)
    try:
        with closing(conn):
            if why := _sqlite_says(conn, budget_s):
                return why, None
            behind = _behind(path)
            why = _unreached(conn, behind)
            return why, behind if why else None
    except sqlite3.DatabaseError as e:
        try:
            with explained(path):
                raise
        except Corrupt as told:
            if told.code == "disk_failed":
                raise
            return str(e), None
        except sqlite3.DatabaseError:  # nothing that SQLite says of a sound file of ours
            return str(e), None


def miss_segments(store: Store) -> list[int]:
    """At a start: segments whose file is gone or shorter than its rows say. There is an alarm while any is; nothing is
    written to them again. Their rows stay: a disk that is not mounted may come back.
    """
    missing = cut_off(store.rows(_COUNTED), segments.files(store))
    if not missing:
        alarms.clear(store, alarms.SEGMENTS_LOST)
        return []
    lost = sum(int(store.value("select count(*) from object where segment = ?", (n,))) for n in missing)
    text = f"{salvage.counted(len(missing), 'segment')} with {salvage.counted(lost, 'picture')} gone or cut off"
    with store.transaction():
        store.execute_many("update segment set state = 'full' where number = ?", [(n,) for n in missing])
        alarms.sound(store, alarms.SEGMENTS_LOST, text)
    log.error("%s: %s; is a disk not mounted?", text, ", ".join(f"{n:08d}.seg" for n in missing[:20]))
    return missing


_COUNTED = "select number, recorded from segment where state <> 'free' and recorded > 0 order by number"


def cut_off(rows: Iterable[Sequence[int]], paths: Mapping[int, Path]) -> list[int]:
    """Of (number, bytes its rows count on) those whose file is gone or shorter."""
    return [int(n) for n, size in rows if n not in paths or paths[n].stat().st_size < size]


def missing_segments(data_dir: Path) -> list[int]:
    """As `miss_segments`, and changes nothing. Of a sound catalogue, as `look` finds it."""
    paths = {int(p.stem): p for p in (data_dir / "segments").glob("*.seg") if p.stem.isdecimal()}
    with explained(data_dir / CATALOGUE), closing(copies.opened(data_dir / CATALOGUE)) as conn:
        return cut_off(salvage.quietly(conn, _COUNTED), paths)  # type: ignore[arg-type]


def rebuild(
    data_dir: Path, open_: Callable[..., Store], clock: Clock, why: str, progress: Progress = lambda *_: None
) -> salvage.Rebuilt:
    """Make the catalogue anew; returns what became of it. Raises Unavailable while another process writes to it."""
    finish(data_dir)
    stamp = _stamp(clock)
    with _writers_kept_out(data_dir):
        damaged = _keep(data_dir, stamp)
        progress("reading what is left", 0)
        found = salvage.read(damaged)
        with open_(catalogue=NEW, accept_catalogue=True) as store:
            result = salvage.fill(store, found, why, damaged, stamp, progress)
            store.rows("pragma wal_checkpoint(truncate)")
        os.rename(data_dir / NEW, data_dir / REBUILT)
        sync_folder(data_dir)
        _switch(data_dir)
    log.warning("%s", result)
    return result


# looking


def _plausible(head: bytes) -> bool:
    """The bytes of the header that are always the same in ours (https://www.sqlite.org/fileformat2.html section 1.3)."""
    return (
        len(head) == 100
        and head[:16] == b"SQLite format 3\0"
        and int.from_bytes(head[16:18], "big") == wal.PAGE_BYTES
        and head[18:20] in (b"\1\1", b"\2\2")
        and head[20:24] == bytes([0, 64, 32, 32])
        and int.from_bytes(head[44:48], "big") in (0, 4)
        and int.from_bytes(head[52:56], "big") == 0
        and int.from_bytes(head[56:60], "big") in (0, 1)
    )


def _sqlite_says(conn: sqlite3.Connection, budget_s: float) -> str | None:
    until = stopwatch() + budget_s
    small = conn.execute("pragma page_count").fetchone()[0] <= SMALL_PAGES
    steps = {str(r[0]) for r in salvage.quietly(conn, "select name from _sqlite_migrations")}
    version = int(conn.execute("pragma user_version").fetchone()[0])
    if version == 0 and not conn.execute("select 1 from sqlite_schema limit 1").fetchone():
        return None  # an empty one: made, and nothing put in
    if version != schema.VERSION and steps == set(schema.STEPS):
        return f"its header names schema version {version}, its tables are of {schema.VERSION}"
    schema.version_of(conn)
    if not small:
        conn.set_progress_handler(lambda: stopwatch() > until, 10_000)
    try:
        said = conn.execute("pragma integrity_check(3)" if small else "pragma quick_check(3)").fetchall()
    except sqlite3.OperationalError as e:
        if "interrupted" not in str(e):
            raise
        log.info("the check of the catalogue was not finished in %.0f s; `edged check` does it whole", budget_s)
        said = []
    finally:
        conn.set_progress_handler(None, 0)
    wrong = [str(r[0]) for r in said if r[0] != "ok"]
    if wrong:
        return "; ".join(wrong)[:300]
    if version == schema.VERSION and (missing := salvage.shape() - {tuple(r) for r in conn.execute(salvage.SHAPE)}):
        return f"its schema lacks {', '.join(sorted(m[1] for m in missing))[:200]}"
    return None


def _behind(path: Path) -> pages.Found | None:
    """Rows that never go, in frames of the WAL which SQLite does not reach because one before them is broken."""
    with suppress(FileNotFoundError):
        # What SQLite took stands in the wal-index it has just made (https://www.sqlite.org/walformat.html section 2.1).
        index = path.with_name(path.name + "-shm").read_bytes()[:20]
        log_file = path.with_name(path.name + "-wal")
        if len(index) == 20 and wal.last_commit(log_file) <= struct.unpack_from("=I", index, 16)[0]:
            return None
        walked = wal.read(log_file.read_bytes())
        if walked.cut < len(walked.frames):
            tables = {n: t for n, t in salvage.tables().items() if n in salvage.APPEND_ONLY}
            return pages.read(path, tables, append_only=salvage.APPEND_ONLY)
    return None


def _unreached(conn: sqlite3.Connection, behind: pages.Found | None) -> str | None:
    """A cut of power may leave such frames, too: their rows were promised to nobody then, and do no harm."""
    for name, rows in (behind.rows if behind else {}).items():
        table = salvage.tables()[name]
        key = ", ".join(table.columns[i][0] for i in table.key)
        have = {tuple(r) for r in conn.execute(f"select {key} from {name}")}
        more = sum(k not in have for k in rows)
        if more:
            return f"its WAL is damaged: {more} rows of {name} stand behind the damage"
    return None


# rebuilding


def _stamp(clock: Clock) -> str:
    return iso(clock.now()).replace(":", "").replace("-", "").replace(".", "")


@contextmanager
def _writers_kept_out(data_dir: Path) -> Iterator[None]:
    """Hold the locks by which SQLite's writers and checkpoints exclude each other (https://www.sqlite.org/walformat.html
    section 2.3.1), without opening the damaged file: bytes 120 and 121 of the -shm.
    """
    if not (data_dir / CATALOGUE).exists():
        yield
        return
    fd = os.open(data_dir / f"{CATALOGUE}-shm", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(100):
            with suppress(BlockingIOError, PermissionError):
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 120)
                break
            SystemClock().sleep(0.1)
        else:
            raise Unavailable("another process writes to the damaged catalogue", code="busy", hint="stop it first")
        yield
    finally:
        os.close(fd)


def _keep(data_dir: Path, stamp: str) -> Path | None:
    """Give the damaged files a second name."""
    if not (data_dir / CATALOGUE).exists():
        return None
    kept = data_dir / f"{DAMAGED}{stamp}"
    for suffix in ("", "-wal"):
        with suppress(FileNotFoundError, FileExistsError):
            os.link(data_dir / f"{CATALOGUE}{suffix}", f"{kept}{suffix}")
    sync_folder(data_dir)
    return kept


def _switch(data_dir: Path) -> None:
    for name in _beside(CATALOGUE):  # before the new one has the name: SQLite would apply a WAL that lies beside it
        with suppress(FileNotFoundError):
            (data_dir / name).unlink()
    sync_folder(data_dir)
    os.rename(data_dir / REBUILT, data_dir / CATALOGUE)
    sync_folder(data_dir)


def _beside(name: str) -> tuple[str, ...]:
    return f"{name}-wal", f"{name}-shm", f"{name}-journal"
