"""Rows out of damaged databases. The referee is SQLite: what it reads of the sound file is what must be found."""

from __future__ import annotations

import random
import sqlite3
import struct
from contextlib import closing

import pytest

from edged.storage import pages, schema, wal
from edged.storage.table import of as table_of

PAGE = wal.PAGE_BYTES
KEPT = frozenset({"label", "audit", "candidate", "release"})


def value(rng, table, place):
    _, kind, not_null, _ = table.columns[place]
    if not not_null and place not in table.key and rng.random() < 0.2:
        return None
    if place in table.words:
        return rng.choice(sorted(table.words[place]))
    if kind == "INTEGER":
        return rng.choice(
            [0, 1, -1, rng.randrange(-128, 128), rng.randrange(2**15), rng.randrange(-(2**40), 2**40), 2**45]
        )
    if kind == "REAL":
        return rng.choice([0.0, 5.0, rng.random() * 2e9, -1.5e300])
    size = rng.choice([0, 3, 20, 60, 300] + [9000] * (rng.random() < 0.02))
    if kind == "BLOB":
        return rng.randbytes(size)
    text = "".join(rng.choice("abcäöü😀 {}") for _ in range(size))
    return f"{{{text}}}" if place in table.documents else text


@pytest.fixture(scope="module")
def tables():
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn)
        return table_of(conn)


def fill(conn, tables, rng, n):
    """Rows of every table, in ways that split, merge and overflow pages."""
    for _ in range(n):
        table = rng.choice(list(tables.values()))
        row = [value(rng, table, place) for place in range(len(table.columns))]
        if table.rowid is not None and rng.random() < 0.9:
            row[table.rowid] = None
        conn.execute(f"insert or ignore into {table.name} values ({','.join('?' * len(row))})", row)
        if rng.random() < 0.05 and table.name not in KEPT:
            key = table.columns[table.key[0]][0]
            conn.execute(
                f"delete from {table.name} where {key} in (select {key} from {table.name} order by random() limit 3)"
            )


def make(path, tables, seed, n=700, in_wal=True):
    """A database with rows in file and WAL; returns what SQLite reads and the connection, which keeps the WAL."""
    rng = random.Random(seed)
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("pragma journal_mode = wal")
    conn.execute("pragma secure_delete = on")
    schema.migrate(conn)
    fill(conn, tables, rng, n)
    conn.execute("pragma wal_checkpoint(truncate)")
    conn.execute("pragma wal_autocheckpoint = 0")
    if in_wal:
        fill(conn, tables, rng, n // 5)
    rows = {name: set(conn.execute(f"select * from {name}").fetchall()) for name in tables}
    return conn, rows


def found(path, tables, append_only=KEPT):
    read = pages.read(path, tables, append_only=append_only)
    return read, {name: set(read.rows[name].values()) for name in tables}


@pytest.mark.parametrize("seed", range(3))
def test_of_a_sound_file_exactly_the_rows_that_sqlite_reads(tmp_path, tables, seed):
    conn, rows = make(tmp_path / "a.db", tables, seed)
    with closing(conn):
        read, got = found(tmp_path / "a.db", tables)
    assert got == rows
    assert (read.damaged, read.wal_broken) == (set(), 0)
    assert sum(map(len, rows.values())) > 400


def test_rows_of_a_page_that_nobody_names_are_not_taken_for_another_tables(tmp_path, tables):
    """A row of `segment` has the columns of one of `report`, but its words, and no JSON."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrate(conn)
        for i in range(16):
            conn.execute("insert into segment values (?, 1, 'new', 'full', 33512244)", (i + 1,))
    raw = bytearray(path.read_bytes())
    raw[:PAGE] = bytes(PAGE)
    path.write_bytes(raw)
    _, got = found(path, tables)
    assert len(got["segment"]) == 16
    assert got["report"] == set()
    _, got = found(path, {n: t for n, t in tables.items() if n != "segment"})
    assert got["report"] == set()


def test_pages_of_zeros_are_counted_also_when_the_way_to_them_is_gone_but_not_free_ones(tmp_path, tables):
    path = tmp_path / "a.db"
    conn, _ = make(path, tables, 1, in_wal=False)
    with closing(conn):
        conn.execute("pragma foreign_keys = off")
        conn.execute("delete from outbox")
        conn.execute("pragma wal_checkpoint(truncate)")
        assert conn.execute("pragma freelist_count").fetchone()[0] > 0
    raw = bytearray(path.read_bytes())
    before = {p for p in range(len(raw) // PAGE) if any(raw[p * PAGE : (p + 1) * PAGE])}
    assert found(path, tables)[0].damaged == set()
    raw[10 * PAGE : 40 * PAGE] = bytes(30 * PAGE)
    path.write_bytes(raw)
    zeroed = {p + 1 for p in before if 10 <= p < 40}
    damaged = found(path, tables)[0].damaged
    assert zeroed <= damaged
    assert len(damaged) < len(zeroed) + 10


class Tracing(pages._Reader):
    """Notes which pages a row was read from."""

    def sources(self):
        where = {}
        owner, _ = self._owners(set())
        for page, (name,) in owner.items():
            image = self.newest(page)
            self.touched = []
            for record in self._records(image, self._start(page)):
                row = self._tables[name].row(record[1], record[0])
                where[name, row] = {page, *self.touched}
                self.touched = []
        return where

    def newest(self, page):
        self.__dict__.setdefault("touched", []).append(page)
        return super().newest(page)


def spoil(raw, page, how, rng):
    """A copy with one page damaged as flash damages them."""
    start = (page - 1) * PAGE
    old = bytes(raw[start : start + PAGE])
    new = bytearray(old)
    if how == "zero":
        new = bytearray(PAGE)
    elif how == "ones":
        new = bytearray(b"\xff" * PAGE)
    elif how == "noise":
        new = bytearray(rng.randbytes(PAGE))
    elif how == "torn":
        at = 512 * rng.randrange(8)
        new[at : at + 512] = bytes(512)
    elif how == "bit":
        new[rng.randrange(PAGE)] ^= 1 << rng.randrange(8)
    elif how == "stale":
        other = rng.randrange(len(raw) // PAGE) * PAGE
        new = bytearray(raw[other : other + PAGE])
    raw[start : start + PAGE] = new
    return bytes(new) != old


HOWS = ("zero", "ones", "noise", "torn", "bit", "stale")


@pytest.mark.parametrize("how", HOWS)
def test_every_row_of_an_undamaged_page_is_found_whatever_page_is_damaged(tmp_path, tables, how):
    path = tmp_path / "a.db"
    conn, rows = make(path, tables, 99, n=900, in_wal=False)
    conn.close()
    sound = path.read_bytes()
    where = Tracing(sound, b"", tables).sources()
    assert {key for key in where} == {(name, row) for name in tables for row in rows[name]}
    lost = wrong = 0
    rng = random.Random(how)
    damaged = [
        [1],
        *([p] for p in range(2, len(sound) // PAGE + 1)),
        *([1, *rng.sample(range(2, len(sound) // PAGE), 5)] for _ in range(100)),
    ]
    rng.shuffle(damaged)
    for pages_hit in damaged[:25]:
        raw = bytearray(sound)
        for page in pages_hit:
            spoil(raw, page, how, rng)
        path.write_bytes(raw)
        _, got = found(path, tables)
        for (name, row), places in where.items():
            if row not in got[name] and not places & set(pages_hit):
                narrow = tables[name].without_rowid and len(tables[name].columns) < 5
                assert narrow, (pages_hit, name, row)
                assert set(pages_hit) != {1}  # its root is gone, and by its looks it could be an index
                lost += 1
        wrong += sum(len(got[name] - rows[name]) for name in tables)
    print(
        f"{how}: 25 damages of {len(sound) // PAGE} pages; {lost} readable rows of narrow tables lost, {wrong} changed"
    )


def test_a_reader_that_stops_at_the_first_damage_fails_this_test(tmp_path, tables):
    """The negative control: SQLite itself, which is right to stop."""
    path = tmp_path / "a.db"
    conn, rows = make(path, tables, 99, n=900, in_wal=False)
    conn.close()
    raw = bytearray(path.read_bytes())
    spoil(raw, 1, "zero", random.Random(1))
    path.write_bytes(raw)
    with closing(sqlite3.connect(path)) as conn, pytest.raises(sqlite3.DatabaseError):
        conn.execute("select * from label").fetchall()
    assert found(path, tables)[1]["label"] == rows["label"]


@pytest.mark.parametrize("seed", range(8))
def test_what_stands_in_the_wal_behind_a_damaged_frame_is_found(tmp_path, tables, seed):
    path = tmp_path / "a.db"
    rng = random.Random(seed)
    conn, rows = make(path, tables, seed)
    with closing(conn):
        main, log = path.read_bytes(), bytearray((tmp_path / "a.db-wal").read_bytes())
    frames = (len(log) - 32) // (PAGE + 24)
    frame = rng.randrange(frames - 5)
    at = 32 + frame * (PAGE + 24)
    page = struct.unpack_from(">I", log, at)[0]
    if seed % 2:
        log[at : at + 24 + PAGE] = bytes(24 + PAGE)
    else:
        log[at + 24 + rng.randrange(PAGE)] ^= 0x10
    path = tmp_path / "b.db"
    path.write_bytes(main)
    (tmp_path / "b.db-wal").write_bytes(log)
    walked = wal.read(bytes(log))
    assert walked.cut <= frame < len(walked.frames)
    assert walked.broken == 2 - (seed + 1) % 2  # one that has lost its head cannot vouch for the next
    got = found(path, tables)[1]
    with closing(sqlite3.connect(path)) as control:
        cut = {name: set(control.execute(f"select * from {name}")) for name in KEPT}
    lost = sum(len(rows[n] - got[n]) for n in KEPT)
    by_sqlite = sum(len(rows[n] - cut[n]) for n in KEPT)
    print(f"seed {seed}: frame {frame} of {frames} (page {page}): {lost} rows lost, {by_sqlite} by SQLite")
    assert lost <= 30  # no more than stood on those pages alone
    assert lost <= by_sqlite


def test_a_wal_with_a_damaged_head_is_still_read(tmp_path, tables):
    conn, rows = make(tmp_path / "a.db", tables, 5)
    with closing(conn):
        raw, log = (tmp_path / "a.db").read_bytes(), bytearray((tmp_path / "a.db-wal").read_bytes())
    (tmp_path / "b.db").write_bytes(raw)
    log[:32] = bytes(32)
    (tmp_path / "b.db-wal").write_bytes(log)
    _, got = found(tmp_path / "b.db", tables)
    assert sum(len(rows[name] - got[name]) for name in KEPT) <= 20  # the first frame can no longer be judged


@pytest.mark.parametrize("content", [b"", b"x", bytes(100), b"no database" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_database_has_no_rows(tmp_path, tables, content):
    (tmp_path / "a.db").write_bytes(content)
    (tmp_path / "a.db-wal").write_bytes(content)
    assert not any(pages.read(tmp_path / "a.db", tables).rows.values())


def test_any_noise_at_all_is_read_without_an_exception(tmp_path, tables):
    path = tmp_path / "a.db"
    conn, _ = make(path, tables, 7, n=400)
    with closing(conn):
        raw, log = path.read_bytes(), (tmp_path / "a.db-wal").read_bytes()
    path = tmp_path / "b.db"
    for seed in range(30):
        rng = random.Random(seed)
        for file, content in ((path, raw), (tmp_path / "b.db-wal", log)):
            spoilt = bytearray(content)
            for _ in range(rng.choice([1, 10, 1000])):
                at = rng.randrange(len(spoilt) - 100)
                size = rng.choice([1, 4, 100])
                spoilt[at : at + size] = rng.randbytes(size)
            file.write_bytes(spoilt[: rng.choice([len(spoilt), rng.randrange(len(spoilt))])])
        pages.read(path, tables, append_only=KEPT)


def test_what_sqlite_takes_of_a_log_is_known_without_reading_it_whole(tmp_path, tables):
    conn, _ = make(tmp_path / "a.db", tables, 3)
    with closing(conn):
        log = tmp_path / "a.db-wal"
        raw = log.read_bytes()
        (taken,) = struct.unpack_from("=I", (tmp_path / "a.db-shm").read_bytes(), 16)
        assert wal.last_commit(log) == taken == (len(raw) - 32) // (PAGE + 24)
        (tmp_path / "b-wal").write_bytes(raw[: -(PAGE + 24)])
        assert wal.last_commit(tmp_path / "b-wal") < taken
        (tmp_path / "b-wal").write_bytes(bytes(32) + raw[32:])
        assert wal.last_commit(tmp_path / "b-wal") == taken
    assert wal.last_commit(tmp_path / "none") == 0


@pytest.mark.parametrize("of", ["table", "index"])
def test_rows_that_another_trees_inner_page_now_leads_to_are_still_their_own_tables(tmp_path, tables, of):
    """The inner page of `delivery` lies in the place of another tree's, and the schema has forgotten `delivery`."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        schema.migrate(conn)
        conn.execute("pragma foreign_keys = off")
        for i in range(200):
            row = (i, f"cam{i}", "FAILED", 0.5, "some detail that takes room", None, 4.5)
            conn.execute(
                "insert into delivery (release, camera, status, progress, detail, offered, updated)"
                " values (?, ?, ?, ?, ?, ?, ?)", row,
            )  # fmt: skip
        rows = set(conn.execute("select * from delivery"))
    raw = bytearray(path.read_bytes())
    read = pages._Reader(bytes(raw), b"", tables)
    leaves = {
        leaf: list(read._rows(read.newest(leaf), leaf, pages._SCHEMA)[0].values())
        for leaf in read._walk(1, False, set(), set())
    }
    (home,) = [leaf for leaf, named in leaves.items() if any(r[:2] == ("table", "delivery") for r in named)]
    root = next(r[3] for r in leaves[home] if r[:2] == ("table", "delivery"))
    others = [r for leaf, named in leaves.items() if leaf != home for r in named]
    target = next(r[3] for r in others if r[0] == of and (of == "index" or tables[r[1]].without_rowid))
    assert raw[(root - 1) * PAGE] == 2
    raw[(target - 1) * PAGE : target * PAGE] = raw[(root - 1) * PAGE : root * PAGE]
    raw[(home - 1) * PAGE : home * PAGE] = bytes(PAGE)
    path.write_bytes(raw)
    assert found(path, tables)[1]["delivery"] == rows


def test_a_short_record_is_a_row_only_of_a_table_that_grew(tables):
    """A row of `segment` has the first five columns of one of `candidate`, which never had fewer than nine."""
    segment = [7, 1, "new", "full", 33512244]
    assert tables["segment"].row([None, *segment[1:]], 7) is not None
    assert tables["candidate"].row([None, 1, "new", "full", 33512244], 7) is None
    whole = [None, "gate:f-1:0", "car", "human", "ada", 1.0, None]
    assert tables["label"].row(whole, 3) == (3, *whole[1:], None)
    assert tables["label"].row(whole[:-1], 3) is None
    assert {n: t.added for n, t in tables.items() if t.added} == {"label": 1, "object": 2, "release": 10, "delivery": 4}


def test_no_entry_of_an_index_has_as_many_columns_as_a_row_that_is_looked_for(tables):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as conn:
        schema.migrate(conn)
        indexes = [r[0] for r in conn.execute("select name from sqlite_schema where type = 'index'")]
        widths = {i: len(conn.execute(f'pragma index_xinfo("{i}")').fetchall()) for i in indexes}
        without = {i for t in tables for i, in conn.execute("select name from pragma_index_list(?) where origin = 'pk'", (t,))
                   if tables[t].without_rowid}  # fmt: skip
    assert max(w for i, w in widths.items() if i not in without) <= 4


@pytest.mark.parametrize("byte", [17, 20, 28, 56])
def test_what_the_header_says_of_the_pages_is_not_believed(tmp_path, tables, byte):
    """Ours are all alike; a bit of "bytes reserved on each page" would cost every row that overflows."""
    path = tmp_path / "a.db"
    conn, rows = make(path, tables, 12, n=150, in_wal=False)
    conn.close()
    raw = bytearray(path.read_bytes())
    for bit in (2, 5):
        raw[byte] ^= 1 << bit
        path.write_bytes(raw)
        assert found(path, tables)[1] == rows
        raw[byte] ^= 1 << bit
