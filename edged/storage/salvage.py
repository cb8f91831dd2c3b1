"""What a damaged catalogue still says goes into a new one: its rows, those of a daily copy, the segments.

    fill    1. every row that pages.py read; then, where a table was damaged, those only the daily copy has
            2. frames, samples and objects from the segments (recover.rebuild), then those only rows tell of
            3. rows that point to nothing go to `edged.db.leftover-<time>.jsonl`
            4. an audit row that names what is missing, an alarm

Guarantees: a row that can be read is in the new catalogue or in that file, and what is known to be lost is said in
numbers; a destroyed data key stays destroyed. Does not guarantee that a value was not changed inside its field: only
audit rows and snapshots hold a hash of themselves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from edged.clock import iso
from edged.errors import Corrupt
from edged.storage import alarms, audit, copies, objects, pages, recover, schema
from edged.storage.store import CATALOGUE, Store
from edged.storage.table import Row, Table, Value
from edged.storage.table import of as tables_of

log = logging.getLogger(__name__)

LEFTOVER = f"{CATALOGUE}.leftover-"

# Rows of these never go, so any image of a page may still tell of one.
APPEND_ONLY = frozenset(
    {
        "label", "audit", "snapshot", "cycle", "candidate", "report", "verdict", "release", "mask", "request", "brought",
        "calibration",
    }
)  # fmt: skip
# An erasure may drop labels, too: an older image of an undamaged page, or a daily copy, does not bring them back; nor a
# pin that was taken away.
_UNLESS_WHOLE = frozenset({"label", "pin"})
# What the segments, triggers or the next survey tell anew, and what counts in rowids of the old objects. An insight must
# not outlive its picture, so none is taken from a file that may have an older one.
_DERIVED = frozenset({"segment", "holding", "intake", "arrival", "insight", "_sqlite_migrations"})
_PICTURES = ("frame", "sample")
# Of these the newest state is known or nothing: a row that an older copy has may be gone for good.
_NOT_FROM_COPIES = frozenset(
    {"object", "request", "gauge", "outbox", "alarm", "planted", "counter", "ageing", "doomed_key"}
)

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
    gone_until: str = ""  # when no row at all could be read of the old one: the time of the rebuild, ISO 8601
    grafted: bool = False  # the catalogue stayed; only rows behind a broken frame of its WAL were added

    def __str__(self) -> str:
        if self.grafted:
            added = ", ".join(f"{n} of {table}" for table, n in sorted(self.rows.items()))
            gone = ", ".join(f"{n} of {table}" for table, n in sorted(self.lost.items())) or "none known"
            return f"rows were taken from behind a broken frame of the log: {added}; lost: {gone}"
        said = [f"the catalogue was made anew: {self.why}"]
        if self.damaged is not None:
            said.append(f"the damaged one is {self.damaged.name}")
        said.append(f"{counted(self.rows.get('label', 0) + self.copied.get('label', 0), 'label')} kept")
        said.append(f"{counted(self.frames, 'frame')} from segments")
        if self.gone_until:
            when = f"between the daily copy {self.copy_of} and" if self.copy_of else "before"
            said.append(
                "nothing could be read of the old one: labels, audit log, releases and alarms made"
                f" {when} {self.gone_until} are gone"
            )
        elif self.bad_pages:
            said.append(f"rows on {counted(self.bad_pages, 'damaged page')} may be lost")
        lost = {**self.lost}
        for table, n in self.leftover.items():
            said.append(f"{counted(n, 'row')} of {table} that point to nothing lie in a file beside it")
        said += [f"{counted(n, 'row')} of {table} lost" for table, n in sorted(lost.items())]
        if not (lost or self.gone_until or self.bad_pages):
            said.append("no row known to be lost")
        return "; ".join(said)


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def read(damaged: Path | None) -> pages.Found:
    """The rows of a damaged catalogue; none if there is none."""
    if damaged is None:
        return pages.Found({n: {} for n in tables() if n not in _DERIVED})
    large = frozenset({*_PICTURES, "object", "insight"})
    # Also those that are not wanted: a page of one must not be taken for another's.
    found = pages.read(damaged, tables(), append_only=APPEND_ONLY, unless_whole=_UNLESS_WHOLE, large=large)
    for name in _DERIVED & found.rows.keys():
        del found.rows[name]
    for name in ("audit", "snapshot"):
        found.rows[name] = {k: r for k, r in found.rows[name].items() if _own_hash(name, r)}
    return found


SHAPE = "select type, name, tbl_name from sqlite_schema where name not like 'sqlite_%'"


@cache
def _reference() -> tuple[dict[str, Table], frozenset[tuple[str, str, str]]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn)
        return tables_of(conn), frozenset(tuple(r) for r in conn.execute(SHAPE))


def tables() -> dict[str, Table]:
    return _reference()[0]


def shape() -> frozenset[tuple[str, str, str]]:
    return _reference()[1]


def _own_hash(name: str, row: Row) -> bool:
    """Whether a row that holds a hash of itself is as it was written."""
    if name == "snapshot":
        return row[0] == hashlib.sha256(str(row[2]).encode()).hexdigest()
    n, ts, actor, act, subject, detail, prev, hash_ = row
    return hash_ == audit.hash_of(str(prev), n, ts, actor, act, subject, detail)  # type: ignore[arg-type]


def fill(
    store: Store, found: pages.Found, why: str, damaged: Path | None, stamp: str, progress: Progress
) -> Rebuilt:  # fmt: skip
    """Fill an empty store. `why` it is made anew, from `damaged`, whose rows were `found`; `stamp` names files beside it."""
    conn, known = store._conn, tables()
    conn.execute("pragma foreign_keys = off")
    copy = next((p for p in copies.all(store.data_dir) if copies.sound(p)), None)
    rows, copied = {}, {}
    with store.transaction():
        # Labels count themselves, so they come before the counters.
        plain = sorted((n for n in found.rows if n not in (*_PICTURES, "object")), key=lambda n: n == "counter")
        for name in plain:
            rows[name] = _insert(conn, known[name], found.rows[name].values())
        for name in plain:
            if copy is not None and name not in _NOT_FROM_COPIES | (_UNLESS_WHOLE & found.whole):
                copied[name] = _insert(conn, known[name], _of_copy(copy, known[name]))
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
        plain_files = [r for r in found.each("object") if r[7] is None and _has_file(store, str(r[0]))]
        rows["object"] = _insert(conn, known["object"], plain_files)
        _in_order(store)
        for name in _PICTURES:
            without = (_without_object(store, known[name], r) for r in found.each(name))
            rows[name] = _insert(conn, known[name], without)
            if copy is not None:
                older = (_without_object(store, known[name], r) for r in _of_copy(copy, known[name]))
                copied[name] = _insert(conn, known[name], older)
        _introduce(store)
        leftover = _set_apart(store, conn, stamp)
        lost = _numbers_missing(store, copy, found.whole)
        missing = tuple(audit.gaps(audit.Entry(*r) for r in store.rows("select * from audit order by n")))
        if store.has_key:
            store.seal.accept_catalogue(store)
        nothing = found.reader is None or not any(_some(rows).values())
        result = Rebuilt(
            why, damaged, found.pages, len(found.damaged - {1}), _some(rows), _some(copied), copy.name if copy else "",
            frames, _some(lost), leftover, missing, gone_until=iso(store.clock.now())[:19] + "Z" if nothing else "",
        )  # fmt: skip
        audit.append(store, alarms.AUTHOR, audit.REBUILT, CATALOGUE, _detail(result))
        alarms.sound(store, alarms.CATALOGUE_REBUILT, str(result))
    conn.execute("pragma foreign_keys = on")
    conn.execute("pragma optimize")
    return result


def graft(store: Store, found: pages.Found, why: str, kept: Path, stamp: str) -> Rebuilt:
    """Put rows that stand in the WAL behind a broken frame into the catalogue, which is sound without them. A cut of power
    looks the same, so there is an alarm only if something is known to be lost. `kept`: a copy of that WAL.
    """
    conn = store._conn
    if store.has_key:
        recover.run(store)  # their samples
    conn.execute("pragma foreign_keys = off")
    with store.transaction():
        rows = {n: _insert(conn, tables()[n], found.rows[n].values()) for n in sorted(found.rows) if n != "audit"}
        last = audit.head(store).n
        intact = [r for k, r in sorted(found.rows["audit"].items()) if _own_hash("audit", r) and int(str(r[0])) > last]
        rows["audit"] = _insert(conn, tables()["audit"], intact)
        leftover = _set_apart(store, conn, stamp)
        lost = _numbers_missing(store, None, set())
        missing = tuple(audit.gaps(audit.Entry(*r) for r in store.rows("select * from audit order by n")))
        result = Rebuilt(why, kept, 0, found.wal_broken, _some(rows), lost=_some(lost), leftover=leftover,
                         audit_missing=missing, grafted=True)  # fmt: skip
        audit.append(store, alarms.AUTHOR, audit.REBUILT, CATALOGUE, _detail(result))
        if result.lost or leftover or missing:
            alarms.sound(store, alarms.CATALOGUE_REBUILT, str(result))
    conn.execute("pragma foreign_keys = on")
    log.warning("%s", result)
    return result


def _detail(r: Rebuilt) -> dict[str, object]:
    return {
        "why": r.why, "damaged": r.damaged.name if r.damaged else "", "pages": r.pages, "bad_pages": r.bad_pages,
        "rows": r.rows, "copied": r.copied, "copy": r.copy_of, "frames": r.frames, "lost": r.lost,
        "leftover": r.leftover, "audit_missing": [list(m) for m in r.audit_missing],
        "gone_until": r.gone_until,
    }  # fmt: skip


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {k: n for k, n in counts.items() if n}


def _insert(conn: sqlite3.Connection, table: Table, rows: Iterable[Sequence[Value]]) -> int:
    """Put rows where none of their key is yet; what breaks another rule of the table was damaged. Returns how many."""
    sql = f"insert or ignore into {table.name} values ({', '.join('?' * len(table.columns))})"
    made = 0
    for row in rows:
        with suppress(sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError, UnicodeEncodeError):
            made += conn.execute(sql, row).rowcount
    return made


def _of_copy(copy: Path, table: Table) -> Iterator[Row]:
    """Rows of a daily copy; a column that it does not have yet gets its default."""
    with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as conn:
        have = {r[1] for r in conn.execute(f"pragma table_info({table.name})")}
        if not have:
            return
        names = [c[0] for c in table.columns if c[0] in have]
        at = [next(i for i, c in enumerate(table.columns) if c[0] == n) for n in names]
        for values in conn.execute(f"select {', '.join(names)} from {table.name}"):
            row = [c[3] for c in table.columns]
            for i, v in zip(at, values, strict=True):
                row[i] = v
            if table.name == "release":  # what became of it since is not known: no camera gets it by itself
                row = ["paused" if v in ("rolling", "waiting") else v for v in row]
            yield tuple(row)


def _without_object(store: Store, table: Table, row: Row) -> Row:
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


def _in_order(store: Store) -> None:
    """Retention takes objects in the order of their rowids: as they came in, which is not the order of the segments."""
    store.execute("create temp table ordered as select * from object order by created, id")
    store.execute("delete from object")
    store.execute("delete from intake")  # the triggers count once more
    store.execute("insert into object select * from ordered order by rowid")
    store.execute("drop table ordered")


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
            table = tables()[name]
            if rowid is not None:
                gone = conn.execute(f"select * from {name} where rowid = ?", (rowid,)).fetchall()
                conn.execute(f"delete from {name} where rowid = ?", (rowid,))
            else:  # without a rowid SQLite does not say which
                column = next(
                    r[3] for r in conn.execute(f"pragma foreign_key_list({name})").fetchall() if r[2] == parent
                )
                key = tables()[parent].columns[tables()[parent].key[0]][0]
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


def _numbers_missing(store: Store, copy: Path | None, whole: set[str]) -> dict[str, int]:
    """Tables that only grow are numbered without gaps: what is missing below the highest number, and was not missing in
    the copy already, is lost."""
    lost = {}
    for name in sorted(APPEND_ONLY - whole):
        table = tables()[name]
        if table.rowid is not None:
            column = table.columns[table.rowid][0]
            sql = f"select coalesce(max({column}), 0) - count(*) from {name}"
            known = 0
            if copy is not None:
                with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro", uri=True)) as conn:
                    known = sum(int(r[0]) for r in quietly(conn, sql) if isinstance(r[0], int))
            lost[name] = max(0, int(store.value(sql)) - known)
    return lost


def quietly(conn: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    try:
        return conn.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []
