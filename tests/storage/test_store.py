import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.storage import audit, check, counters, frames, labels, requests, samples, schema

OPEN_AND_COUNT = """
import sys
from pathlib import Path
from edged.clock import SystemClock
from edged.storage import Store, counters
with Store.open(Path(sys.argv[1]), clock=SystemClock(), site_key=None) as store:
    for i in range(40):
        counters.bump(store, "n")
        counters.bump(store, sys.argv[2])
"""


def test_a_new_store_is_wal_full_and_checks_foreign_keys(store):
    assert store.value("pragma journal_mode") == "wal"
    assert store.value("pragma synchronous") == 2
    assert store.value("pragma secure_delete") == 1
    assert store.value("pragma foreign_keys") == 1
    assert store.value("pragma user_version") == schema.VERSION
    with pytest.raises(sqlite3.IntegrityError):
        store.execute("insert into label (sample, class, source, author, ts) values ('none', 'a', 'human', 'me', 0)")


def test_processes_that_open_a_new_store_at_once_and_write_lose_nothing(data_dir, open_store):
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", OPEN_AND_COUNT, str(data_dir), f"child-{i}"])
        for i in range(3)
    ]
    assert [c.wait(60) for c in children] == [0, 0, 0]
    store = open_store()
    assert counters.all(store) == {"n": 120, "child-0": 40, "child-1": 40, "child-2": 40}
    assert check.run(store) == []


def test_while_another_writes_a_writer_is_told_to_try_again_and_readers_read(store, open_store):
    other = open_store()
    with store.transaction():
        counters.bump(store, "mine")
        with pytest.raises(Unavailable) as e:
            counters.bump(other, "theirs")
        assert e.value.code == "busy"
        assert counters.all(other) == {}
    counters.bump(other, "theirs")
    assert counters.all(store) == {"mine": 1, "theirs": 1}


def test_a_transaction_that_fails_leaves_nothing_and_the_next_works(store):
    def half_a_step():
        with store.transaction():
            counters.bump(store, "a")
            raise ValueError

    with pytest.raises(ValueError):
        half_a_step()
    counters.bump(store, "b")
    assert counters.all(store) == {"b": 1}


def test_an_inner_transaction_that_fails_takes_only_its_own_part(store):
    def inner():
        with store.transaction():
            counters.bump(store, "inner")
            raise ValueError

    with store.transaction():
        counters.bump(store, "outer")
        with pytest.raises(ValueError):
            inner()
    assert counters.all(store) == {"outer": 1}


def test_a_cheap_transaction_is_seen_at_once_and_the_next_one_is_durable_again(store, open_store):
    def fail():
        with store.transaction(durable=False):
            raise ValueError

    with store.transaction(durable=False):
        assert store.value("pragma synchronous") == 1
        counters.bump(store, "a")
    assert counters.all(open_store()) == {"a": 1}
    assert store.value("pragma synchronous") == 2
    with pytest.raises(ValueError):
        fail()
    with store.transaction():
        assert store.value("pragma synchronous") == 2
        counters.bump(store, "b")
        assert store.value("pragma synchronous") == 2
    with open_store().transaction(), pytest.raises(Unavailable):
        counters.bump(store, "c")
    assert store.value("pragma synchronous") == 2


def test_what_must_last_is_not_written_inside_a_cheap_transaction(store):
    with store.transaction(durable=False), pytest.raises(RuntimeError):
        audit.append(store, "anna", "release", "1")
    assert audit.verify(store) == 0


def test_a_damaged_database_is_corrupt(store, open_store, data_dir):
    for i in range(200):
        counters.bump(store, f"name {i}")
    store.close()
    db = data_dir / "edged.db"
    db.write_bytes(db.read_bytes()[:100] + os.urandom(db.stat().st_size - 100))
    with pytest.raises(Corrupt, match=r"edged\.db"):
        open_store()
    db.write_bytes(b"no database at all" * 100)
    with pytest.raises(Corrupt):
        open_store()


def test_a_store_of_a_newer_edged_is_not_touched(store, open_store, data_dir):
    store.close()
    with closing(sqlite3.connect(data_dir / "edged.db")) as conn:
        conn.execute(f"pragma user_version = {schema.VERSION + 1}")
    before = (data_dir / "edged.db").read_bytes()
    for readonly in (False, True):
        with pytest.raises(Misconfigured) as e:
            open_store(readonly=readonly)
        assert e.value.code == "newer_schema"
    assert (data_dir / "edged.db").read_bytes() == before


def test_a_readonly_store_reads_pictures_and_writes_nothing(store, add, open_store, files):
    add(store, 1)
    reader = open_store(readonly=True)
    assert frames.last_picture(reader, "gate") == frames.last_picture(store, "gate")
    before = files()
    for write in (
        lambda: counters.bump(reader, "x"),
        lambda: labels.add(reader, "gate:boot-1:0", "car", "human", "me"),
        lambda: add(reader, 2),
    ):
        with pytest.raises(Misconfigured):
            write()
    assert files() == before
    add(store, 3)
    assert samples.count(reader) == 4


def test_a_readonly_store_opens_after_the_last_writer_has_gone(store, add, open_store):
    add(store, 1)
    store.close()
    assert samples.count(open_store(readonly=True)) == 2


def test_reading_a_store_that_is_not_there_says_how_to_make_one(open_store, data_dir):
    with pytest.raises(Misconfigured) as e:
        open_store(readonly=True)
    assert "edged init" in e.value.hint
    assert not data_dir.exists()


def test_a_request_of_the_page_reaches_the_daemon_through_its_own_connection(store, open_store):
    page = open_store(site_key=None)
    number = requests.add(page, "cycle", {"why": "asked"}, "anna")
    asked = requests.pending(store)
    assert [(r.id, r.verb, r.args, r.author) for r in asked] == [(number, "cycle", {"why": "asked"}, "anna")]
    requests.done(store, number, "started")
    requests.done(store, number, "twice")
    assert requests.pending(page) == []
    assert requests.latest(page)[0].result == "started"


def test_sqlite_utils_sees_the_same_connection(store):
    with store.transaction():
        store.db["counter"].insert({"name": "via", "n": 3})
    assert list(store.db.query("select n from counter")) == [{"n": 3}]


def test_a_store_opens_without_importing_sqlite_utils_once_it_exists(store, data_dir):
    store.close()
    code = (
        "import sys; from pathlib import Path; from edged.clock import SystemClock; from edged.storage import Store\n"
        "Store.open(Path(sys.argv[1]), clock=SystemClock(), site_key=None).close()\n"
        "assert 'sqlite_utils' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(data_dir)], check=True, timeout=60)
