"""A damaged catalogue is made anew at the start, from what can be read of it, the newest daily copy and the segments.

    look      1. header, SQLite's own check, the schema, frames of the WAL that SQLite would not reach
    rebuild   1. link the damaged files to `edged.db.damaged-<time>`, -wal too: nothing ever writes them again
              2. into `edged.db.new`: every row that pages.py reads, then what only the newest sound copy in backups/ has
              3. frames, samples and objects from the segments (recover.rebuild), then those only rows tell of
              4. rows that point to nothing go to `edged.db.leftover-<time>.jsonl`, said in numbers
              5. an audit row that names what is missing, an alarm
              6. rename to `edged.db.rebuilt` (from here on it is finished, whatever happens), unlink the old WAL, sync the
                 folder, rename to `edged.db`, sync

Guarantees: a start never goes on with a catalogue that SQLite finds damaged, never overwrites one, and never loses a row of
a label, an act, a snapshot, a model or a release that can still be read, without a word; a kill at any step is taken up
by the next start. Other processes follow to the new file (`Store`). Does not guarantee: that a value was not changed inside
its field (only rows with a hash of their own are safe from that), nor pictures that no segment holds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edged.clock import Clock, SystemClock, iso, stopwatch
from edged.durable import sync_folder
from edged.errors import Corrupt, EdgedError, Misconfigured, Unavailable
from edged.storage import alarms, audit, objects, pages, recover, schema
from edged.storage.store import CATALOGUE, Store, explained

log = logging.getLogger(__name__)

NEW, REBUILT, DAMAGED, LEFTOVER = (
    f"{CATALOGUE}.new",
    f"{CATALOGUE}.rebuilt",
    f"{CATALOGUE}.damaged-",
    f"{CATALOGUE}.leftover-",
)
BACKUPS = "backups"
SMALL_PAGES = 5000  # up to 20 MB the whole check takes well under a second
BUDGET_S = 5.0  # for the quick check of a larger one

# Rows of these never go, so any image of a page may still tell of one.
APPEND_ONLY = frozenset(
    {"label", "audit", "snapshot", "cycle", "candidate", "report", "verdict", "release", "mask", "request"}
)
# What the segments or triggers tell anew, and what counts in rowids of the old objects.
_DERIVED = frozenset({"segment", "holding", "intake", "arrival", "_sqlite_migrations", "gauge"})
_PICTURES = ("frame", "sample")
# Of these the newest state is known or nothing: a row that an older copy has may be gone for good.
_NOT_FROM_COPIES = frozenset({"object", "request", "outbox", "alarm", "planted", "counter", "ageing", "doomed_key"})

Progress = Callable[[str, float], None]  # what is being done; share done, 0..1


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found. `rows`: read from the damaged file, of each table; `copied`: only the daily copy had them;
    `lost`: numbers that are missing in tables that only grow; `leftover`: rows that point to nothing, kept in a file.
    """

    why: str
    damaged: Path | None
    pages: int = 0
    bad_pages: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    copied: dict[str, int] = field(default_factory=dict)
    copy_of: str = ""
    frames: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    leftover: dict[str, int] = field(default_factory=dict)
    audit_missing: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        said = [f"the catalogue was made anew: {self.why}"]
        if self.damaged is not None:
            said.append(f"the damaged one is {self.damaged.name}")
        said.append(f"{self.rows.get('label', 0) + self.copied.get('label', 0)} labels kept")
        said.append(f"{self.frames} frames from segments")
        lost = {**self.lost}
        for table, n in self.leftover.items():
            said.append(f"{n} rows of {table} point to nothing and lie in a file beside it")
        said += [f"{n} rows of {table} lost" for table, n in sorted(lost.items())] or ["no row known to be lost"]
        return "; ".join(said)


def start(
    data_dir: Path, open_: Callable[..., Store], clock: Clock, progress: Progress = lambda *_: None
) -> Rebuilt | None:
    """Before the daemon opens its store: put a sound catalogue there, rebuilt if need be; None when all is well.

    `open_` opens this site's store with these options of `Store.open`. Hold the daemon's lock.
    """
    finish(data_dir)
    why = look(data_dir)
    if why is None:
        return None
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
    path = data_dir / CATALOGUE
    if not path.exists() or path.stat().st_size == 0:
        if any((data_dir / "segments").glob("*.seg")) or any(copies(data_dir)):
            return "it is gone"
        return None
    with path.open("rb") as f:
        head = f.read(100)
    if not _plausible(head):
        return "its header is damaged"
    behind = _behind(path)
    conn = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None)
    try:
        with closing(conn):
            return _sqlite_says(conn, budget_s) or _unreached(conn, behind)
    except sqlite3.DatabaseError as e:
        try:
            with explained(path):
                raise
        except Corrupt as told:
            if told.code == "disk_failed":
                raise
            return str(e)
        except sqlite3.DatabaseError:  # nothing that SQLite says of a sound file of ours
            return str(e)


def rebuild(
    data_dir: Path, open_: Callable[..., Store], clock: Clock, why: str, progress: Progress = lambda *_: None
) -> Rebuilt:
    """Make the catalogue anew; returns what became of it. Raises Unavailable while another process writes to it."""
    finish(data_dir)
    stamp = iso(clock.now()).replace(":", "").replace("-", "").replace(".", "")
    with _writers_kept_out(data_dir):
        damaged = _keep(data_dir, stamp)
        progress("reading what is left", 0)
        known = _tables()
        wanted = {n: t for n, t in known.items() if n not in _DERIVED}
        found = pages.Found({n: {} for n in wanted})
        if damaged is not None:
            found = pages.read(damaged, wanted, append_only=APPEND_ONLY)
        for name in ("audit", "snapshot"):
            found.rows[name] = {k: r for k, r in found.rows[name].items() if _own_hash(name, r)}
        with open_(catalogue=NEW, accept_catalogue=True) as store:
            result = _fill(store, known, found, why, damaged, stamp, progress)
            store.rows("pragma wal_checkpoint(truncate)")
        os.rename(data_dir / NEW, data_dir / REBUILT)
        sync_folder(data_dir)
        _switch(data_dir)
    log.warning("%s", result)
    return result


def copies(data_dir: Path) -> list[Path]:
    """The daily copies of the catalogue, the newest first."""
    return sorted((data_dir / BACKUPS).glob("edged-????-??-??.db"), reverse=True)


def sound(path: Path) -> bool:
    """Whether a copy of a catalogue can be read, is of a schema we know, and SQLite finds nothing wrong with it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as conn:
            return bool(conn.execute("pragma quick_check(1)").fetchone()[0] == "ok") and schema.version_of(conn) > 0
    except (sqlite3.DatabaseError, Misconfigured):
        return False


# looking


def _plausible(head: bytes) -> bool:
    """The bytes of the header that are always the same in ours (https://www.sqlite.org/fileformat2.html section 1.3)."""
    return (
        len(head) == 100
        and head[:16] == b"SQLite format 3\0"
        and int.from_bytes(head[16:18], "big") == pages.PAGE_BYTES
        and head[18:20] in (b"\1\1", b"\2\2")
        and head[20:24] == bytes([0, 64, 32, 32])
        and int.from_bytes(head[44:48], "big") in (0, 4)
        and int.from_bytes(head[52:56], "big") == 0
        and int.from_bytes(head[56:60], "big") in (0, 1)
    )


def _sqlite_says(conn: sqlite3.Connection, budget_s: float) -> str | None:
    until = stopwatch() + budget_s
    small = conn.execute("pragma page_count").fetchone()[0] <= SMALL_PAGES
    steps = {str(r[0]) for r in _quietly(conn, "select name from _sqlite_migrations")}
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
    if version == schema.VERSION and (missing := _shape() - {tuple(r) for r in conn.execute(_SHAPE)}):
        return f"its schema lacks {', '.join(sorted(m[1] for m in missing))[:200]}"
    return None


def _behind(path: Path) -> pages.Found | None:
    """Rows that never go, in frames of the WAL which SQLite does not reach because one before them is broken."""
    wal = path.with_name(path.name + "-wal")
    with suppress(FileNotFoundError):
        raw = wal.read_bytes()
        walked = pages.read_wal(raw)
        if walked.cut < len(walked.frames):
            tables = {n: t for n, t in _tables().items() if n in APPEND_ONLY}
            return pages.read(path, tables, append_only=APPEND_ONLY)
    return None


def _unreached(conn: sqlite3.Connection, behind: pages.Found | None) -> str | None:
    """A cut of power leaves such frames too; then nothing in them was promised to anybody, and no row is missing."""
    for name, rows in (behind.rows if behind else {}).items():
        table = _tables()[name]
        key = ", ".join(table.columns[i][0] for i in table.key)
        have = {tuple(r) for r in conn.execute(f"select {key} from {name}")}
        more = sum(k not in have for k in rows)
        if more:
            return f"its WAL is damaged: {more} rows of {name} stand behind the damage"
    return None


def _quietly(conn: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    try:
        return conn.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


_SHAPE = "select type, name, tbl_name from sqlite_schema where name not like 'sqlite_%'"


@cache
def _reference() -> tuple[dict[str, pages.Table], frozenset[tuple[str, str, str]]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn)
        return pages.tables_of(conn), frozenset(tuple(r) for r in conn.execute(_SHAPE))


def _tables() -> dict[str, pages.Table]:
    return _reference()[0]


def _shape() -> frozenset[tuple[str, str, str]]:
    return _reference()[1]


# rebuilding


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


def _own_hash(name: str, row: pages.Row) -> bool:
    """Whether a row that holds a hash of itself is as it was written."""
    if name == "snapshot":
        return row[0] == hashlib.sha256(str(row[2]).encode()).hexdigest()
    n, ts, actor, act, subject, detail, prev, hash_ = row
    return hash_ == audit.hash_of(str(prev), n, ts, actor, act, subject, detail)  # type: ignore[arg-type]


def _fill(
    store: Store, tables: dict[str, pages.Table], found: pages.Found, why: str, damaged: Path | None, stamp: str,
    progress: Progress,
) -> Rebuilt:  # fmt: skip
    conn = store._conn
    conn.execute("pragma foreign_keys = off")
    copy = next((p for p in copies(store.data_dir) if sound(p)), None)
    rows, copied = {}, {}
    with store.transaction():
        # Labels count themselves, so they come before the counters.
        plain = sorted((n for n in found.rows if n not in (*_PICTURES, "object")), key=lambda n: n == "counter")
        for name in plain:
            rows[name] = _insert(conn, tables[name], found.rows[name].values())
        for name in plain:
            if copy is not None and name not in _NOT_FROM_COPIES:
                copied[name] = _insert(conn, tables[name], _of_copy(copy, tables[name]))
        # The keyring has put rows of its keys there; what was to be destroyed still is.
        condemned = [(r[5], r[0]) for r in found.rows["data_key"].values() if r[5] is not None]
        store.execute_many("update data_key set destroyed = ? where id = ?", condemned)
        store.execute("update data_key set wrapped = null where destroyed is not null")
    progress("reading the segments", 0.1)
    frames = 0
    if store.has_key:
        frames = recover.rebuild(store, lambda share: progress("reading the segments", 0.1 + 0.8 * share)).frames
    else:
        log.warning("without the site key no frame is read from the segments")
    progress("putting it together", 0.9)
    with store.transaction():
        # Of version 3, whose pictures lie in plain files until the first start of a later one moves them.
        plain_files = [r for r in found.rows["object"].values() if r[7] is None and _has_file(store, str(r[0]))]
        rows["object"] = _insert(conn, tables["object"], plain_files)
        for name in _PICTURES:
            without = [_without_object(store, tables[name], r) for r in found.rows[name].values()]
            rows[name] = _insert(conn, tables[name], without)
            if copy is not None:
                older = (_without_object(store, tables[name], r) for r in _of_copy(copy, tables[name]))
                copied[name] = _insert(conn, tables[name], older)
        _introduce(store)
        leftover = _set_apart(store, conn, stamp)
        lost = _numbers_missing(store)
        missing = tuple(audit.gaps(audit.Entry(*r) for r in store.rows("select * from audit order by n")))
        if store.has_key:
            store.seal.accept_catalogue(store)
        result = Rebuilt(
            why, damaged, found.pages, len(found.damaged), _some(rows), _some(copied), copy.name if copy else "", frames,
            _some(lost), leftover, missing,
        )  # fmt: skip
        audit.append(store, alarms.AUTHOR, audit.REBUILT, CATALOGUE, _detail(result))
        alarms.sound(store, alarms.CATALOGUE_REBUILT, str(result))
    conn.execute("pragma foreign_keys = on")
    conn.execute("pragma optimize")
    return result


def _detail(r: Rebuilt) -> dict[str, object]:
    return {
        "why": r.why, "damaged": r.damaged.name if r.damaged else "", "pages": r.pages, "bad_pages": r.bad_pages,
        "rows": r.rows, "copied": r.copied, "copy": r.copy_of, "frames": r.frames, "lost": r.lost,
        "leftover": r.leftover, "audit_missing": [list(m) for m in r.audit_missing],
    }  # fmt: skip


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {k: n for k, n in counts.items() if n}


def _insert(conn: sqlite3.Connection, table: pages.Table, rows: Iterable[Sequence[pages.Value]]) -> int:
    """Put rows where none of their key is yet; what breaks another rule of the table was damaged. Returns how many."""
    sql = f"insert or ignore into {table.name} values ({', '.join('?' * len(table.columns))})"
    made = 0
    for row in rows:
        with suppress(sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError):
            made += conn.execute(sql, row).rowcount
    return made


def _of_copy(copy: Path, table: pages.Table) -> list[pages.Row]:
    """Rows of a daily copy; a column that it does not have yet gets its default."""
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        have = {r[1] for r in conn.execute(f"pragma table_info({table.name})")}
        if not have:
            return []
        names = [c[0] for c in table.columns if c[0] in have]
        at = [next(i for i, c in enumerate(table.columns) if c[0] == n) for n in names]
        rows: list[pages.Row] = []
        for values in conn.execute(f"select {', '.join(names)} from {table.name}"):
            row = [c[3] for c in table.columns]
            for i, v in zip(at, values, strict=True):
                row[i] = v
            if table.name == "release":  # what became of it since is not known: no camera gets it by itself
                row = ["halted" if v == "rolling" else v for v in row]
            rows.append(tuple(row))
        return rows


def _without_object(store: Store, table: pages.Table, row: pages.Row) -> pages.Row:
    """A row of frame or sample; its picture only if some segment has it."""
    i = next(i for i, c in enumerate(table.columns) if c[0] == "object")
    if row[i] is None or store.value("select 1 from object where id = ?", (row[i],)):
        return row
    return (*row[:i], None, *row[i + 1 :])


def _has_file(store: Store, object_id: str) -> bool:
    try:
        return objects.plain_path(store, object_id).exists()
    except Corrupt:
        return False


def _introduce(store: Store) -> None:
    """A camera whose own row was lost has spoken all the same."""
    store.execute(
        "insert or ignore into camera (id, first_seen, last_seen, last_frame)"
        " select camera, min(received), max(received), max(case status when 'stored' then received end)"
        " from frame group by camera"
    )


def _set_apart(store: Store, conn: sqlite3.Connection, stamp: str) -> dict[str, int]:
    """Move rows that point to nothing into a file beside the catalogue; returns how many of each table."""
    store.execute("update release set candidate = null where candidate not in (select id from candidate)")
    told: dict[str, int] = {}
    lines: list[str] = []
    for _ in range(10):  # what pointed to those rows may point to nothing now
        broken = {(str(r[0]), r[1], str(r[2])) for r in conn.execute("pragma foreign_key_check").fetchall()}
        if not broken:
            break
        for name, rowid, parent in broken:
            table = _tables()[name]
            if rowid is not None:
                gone = conn.execute(f"select * from {name} where rowid = ?", (rowid,)).fetchall()
                conn.execute(f"delete from {name} where rowid = ?", (rowid,))
            else:  # without a rowid SQLite does not say which
                column = next(
                    r[3] for r in conn.execute(f"pragma foreign_key_list({name})").fetchall() if r[2] == parent
                )
                key = _tables()[parent].columns[_tables()[parent].key[0]][0]
                where = f"where {column} is not null and {column} not in (select {key} from {parent})"
                gone = conn.execute(f"select * from {name} {where}").fetchall()
                conn.execute(f"delete from {name} {where}")
            told[name] = told.get(name, 0) + len(gone)
            lines += [
                json.dumps({"table": name, **{c[0]: v for c, v in zip(table.columns, r, strict=True)}}, default=repr)
                for r in gone
            ]
    if lines:
        path = store.data_dir / f"{LEFTOVER}{stamp}.jsonl"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.writelines(f"{line}\n" for line in lines)
            f.flush()
            os.fsync(f.fileno())
    return told


def _numbers_missing(store: Store) -> dict[str, int]:
    """Tables that only grow are numbered without gaps: what is missing below the highest number is lost."""
    lost = {}
    for name in sorted(APPEND_ONLY):
        table = _tables()[name]
        if table.rowid is not None:
            column = table.columns[table.rowid][0]
            lost[name] = int(store.value(f"select coalesce(max({column}), 0) - count(*) from {name}"))
    return lost


def doubt(e: EdgedError) -> bool:
    """Whether an error that a running store met may be a damaged catalogue: a restart looks, and rebuilds."""
    return isinstance(e, Corrupt) and e.code == "corrupt"
