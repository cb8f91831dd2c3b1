"""A damaged catalogue: the start goes on with all that can still be read, and says what it lost."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from edged.errors import Corrupt, EdgedError, Misconfigured
from edged.storage import (
    Store,
    alarms,
    audit,
    brought,
    candidates,
    check,
    clean,
    copies,
    cycles,
    erasure,
    frames,
    insights,
    labels,
    models,
    objects,
    pages,
    recover,
    repair,
    salvage,
    schema,
    snapshots,
)
from edged.storage.insights import Insight

PAGE = pages.PAGE_BYTES
EMPTY = {"classes": [], "train": [], "tune": [], "holdout": [], "holdout_ratio": 0.2, "block_s": 1, "seed": 1}


@pytest.fixture
def opener(data_dir, clock, site_key):
    return lambda **options: Store.open(
        data_dir, **{"clock": clock, "site_key": site_key, "busy_s": 0.2, "segment_bytes": 2**20} | options
    )


@pytest.fixture
def start(data_dir, opener, clock):
    """What the daemon does before it takes frames; the store it goes on with."""

    def start_():
        rebuilt = repair.start(data_dir, opener, clock)
        return rebuilt, opener()

    return start_


def fill(store, add, n=30):
    """Frames, labels and what a cycle leaves; returns the rows that must not go."""
    for i in range(n):
        add(store, i)
        labels.add(store, f"gate:boot-{i}:0", "car", "human", "anna")
        if i % 3 == 0:
            labels.undo(store, labels.add(store, f"gate:boot-{i}:1", "van", "human", "anna"), "anna")
        audit.append(store, "anna", "looked", str(i))
    cycle = cycles.start(store, "asked")
    snapshot = snapshots.add(store, EMPTY)
    candidates.add(store, cycle, name="m", sha256="0" * 64, size=5, snapshot=snapshot, recipe={})
    return kept(store)


def kept(store):
    return {
        name: set(map(tuple, store.rows(f"select * from {name}")))
        for name in ("label", "audit", "snapshot", "candidate")
    }


def rows_of(store, name):
    return set(map(tuple, store.rows(f"select * from {name}")))


def test_a_sound_catalogue_is_left_alone(opener, add, data_dir, start):
    with opener() as store:
        fill(store, add)
    before = (data_dir / "edged.db").read_bytes()
    rebuilt, store = start()
    store.close()
    assert rebuilt is None
    assert (data_dir / "edged.db").read_bytes()[100:] == before[100:]
    assert not list(data_dir.glob("edged.db.*"))


def test_a_new_site_has_nothing_to_repair(data_dir, start):
    data_dir.mkdir()
    rebuilt, store = start()
    assert rebuilt is None
    store.close()


def test_without_a_rebuild_the_start_fails(opener, add, data_dir):
    """The negative control."""
    with opener() as store:
        fill(store, add)
    raw = bytearray((data_dir / "edged.db").read_bytes())
    raw[:PAGE] = bytes(PAGE)
    (data_dir / "edged.db").write_bytes(raw)
    with pytest.raises(Corrupt):
        opener()


@pytest.mark.parametrize("what", ["header", "everything", "gone", "empty", "cut"])
def test_a_catalogue_that_is_as_good_as_lost_comes_back_from_segments_and_the_daily_copy(
    opener, add, data_dir, start, what, clock
):
    with opener() as store:
        before = fill(store, add)
        copies.make(store.data_dir, clock)
        pictures = {i: frames.last_picture(store, "gate") for i in [0]}
        frame_rows, sample_rows = rows_of(store, "frame"), rows_of(store, "sample")
    path = data_dir / "edged.db"
    raw = bytearray(path.read_bytes())
    if what == "header":
        raw[:PAGE] = bytes(PAGE)
        path.write_bytes(raw)
    elif what == "everything":
        path.write_bytes(random.Random(1).randbytes(len(raw)))
    elif what == "gone":
        path.unlink()
    elif what == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(raw[: len(raw) // 3])
    rebuilt, store = start()
    with store:
        assert rebuilt.frames == 30
        after = kept(store)
        for name, rows in before.items():
            assert rows <= after[name], name
        assert rows_of(store, "frame") == frame_rows
        assert rows_of(store, "sample") == sample_rows
        assert frames.last_picture(store, "gate") == pictures[0]
        assert [f.code for f in check.run(store) if f.code != "model_lost"] == []
        assert alarms.stands(store, alarms.CATALOGUE_REBUILT)
        act = audit.rows(store, 2)[1]
        assert (act.act, json.loads(act.detail)["frames"]) == (audit.REBUILT, 30)
        assert store.value("select n from counter where name = 'labels:human'") == len(before["label"])
    assert repair.look(data_dir) is None
    if what not in ("gone", "empty"):
        assert rebuilt.damaged.exists()
    assert repair.start(data_dir, opener, clock) is None


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("what", ["gone", "noise"])
def test_what_a_lost_catalogue_alone_held_is_said_to_be_gone(opener, add, data_dir, start, clock, what, copy):
    with opener() as store:
        fill(store, add)
        if copy:
            copies.make(store.data_dir, clock)
    path = data_dir / "edged.db"
    if what == "noise":
        path.write_bytes(random.Random(1).randbytes(path.stat().st_size))
    else:
        path.unlink()
    rebuilt, store = start()
    with store:
        said = next(a.text for a in alarms.standing(store) if a.code == alarms.CATALOGUE_REBUILT)
    assert said == str(rebuilt)
    assert "no row known to be lost" not in said
    since = "between the daily copy edged-2026-11-21.db and" if copy else "before"
    assert f"labels, audit log, releases and alarms made {since} 2026-11-21T12:00:00Z are gone" in said


def test_rows_that_only_damaged_pages_held_are_said_to_be_perhaps_lost(opener, add, data_dir, start):
    with opener() as store:
        fill(store, add)
        store.rows("pragma wal_checkpoint(truncate)")
        root = store.value("select rootpage from sqlite_schema where name = 'frame'")
    raw = bytearray((data_dir / "edged.db").read_bytes())
    raw[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    (data_dir / "edged.db").write_bytes(raw)
    rebuilt, store = start()
    store.close()
    assert rebuilt.bad_pages >= 1
    assert "may be lost" in str(rebuilt)
    assert "no row known" not in str(rebuilt)


def spoil(data_dir, rng, seed):
    """Damage as flash does it, somewhere in the catalogue or its WAL. Returns what was done."""
    path = data_dir / "edged.db"
    wal = data_dir / "edged.db-wal"
    target = wal if seed % 4 == 3 and wal.exists() else path
    raw = bytearray(target.read_bytes())
    what = []
    for _ in range(rng.choice([1, 1, 2, 5])):
        how = rng.choice(["zero", "noise", "torn", "bit"])
        if target is wal:
            at = 32 + rng.randrange((len(raw) - 32) // (PAGE + 24)) * (PAGE + 24)
        else:
            at = (0 if rng.random() < 0.2 else rng.randrange(len(raw) // PAGE)) * PAGE
        if how == "zero":
            raw[at : at + PAGE] = bytes(PAGE)
        elif how == "noise":
            raw[at : at + PAGE] = rng.randbytes(PAGE)
        elif how == "torn":
            at += 512 * rng.randrange(8)
            raw[at : at + 512] = bytes(512)
        else:
            raw[at + rng.randrange(PAGE)] ^= 1 << rng.randrange(8)
        what.append((target.name, at // PAGE, how))
    target.write_bytes(raw)
    return what


SEEDS = int(os.environ.get("EDGED_DAMAGES", "20"))


def test_whatever_is_damaged_the_start_goes_on_and_no_readable_label_is_lost(
    opener, add, data_dir, start, tmp_path, clock
):
    """Random damage to file and WAL. Readable is what `pages.read` finds, which test_pages.py holds against SQLite."""
    with opener() as store:
        before = fill(store, add, 60)
        store.rows("pragma wal_checkpoint(truncate)")
        for i in range(60, 80):
            add(store, i)
            labels.add(store, f"gate:boot-{i}:0", "car", "human", "anna")
        before = kept(store)
        whole = tmp_path / "whole"
        shutil.copytree(data_dir, whole)
    rebuilds = unseen = lost = told = 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        shutil.rmtree(data_dir)
        shutil.copytree(whole, data_dir)
        what = spoil(data_dir, rng, seed)
        readable = pages.read(
            data_dir / "edged.db", {"label": salvage.tables()["label"]}, append_only=salvage.APPEND_ONLY
        )
        rebuilt, store = start()
        with store:
            after = kept(store)
            missing = {r[0] for r in readable.rows["label"].values() if r in before["label"]} - {
                r[0] for r in after["label"]
            }
            apart = sum((rebuilt.leftover if rebuilt else {}).values())
            assert len(missing) <= apart, (seed, what)
            gone = len(before["label"]) - len({r[0] for r in before["label"]} & {r[0] for r in after["label"]})
            lost += gone
            if rebuilt is None:
                unseen += 1
                if "wal" not in what[0][0]:  # of its last frames nobody can say whether they were ever written
                    assert gone == 0, (seed, what)
                    assert after["audit"] == before["audit"], (seed, what)
            else:
                rebuilds += 1
                told += rebuilt.lost.get("label", 0) + rebuilt.leftover.get("label", 0)
                assert audit.verify(store) > 0
                if not rebuilt.grafted or rebuilt.lost:
                    assert alarms.stands(store, alarms.CATALOGUE_REBUILT)
            codes = {f.code for f in check.run(store)} - {"model_lost"}
            assert not codes, (seed, what, codes)
    print(
        f"{SEEDS} damages: {rebuilds} rebuilds, {unseen} of no consequence; {lost} labels lost with their pages, {told} told"
    )
    assert rebuilds > SEEDS // 3
    assert told <= lost <= told + SEEDS


@pytest.mark.parametrize("torn", [True, False])
def test_labels_behind_a_broken_frame_of_the_wal_are_grafted_without_a_rebuild(opener, add, data_dir, start, torn):
    with opener() as store:
        fill(store, add, 5)
        store.rows("pragma wal_checkpoint(truncate)")
        sizes = []
        for i in range(5):
            labels.add(store, f"gate:boot-{i}:0", "van", "human", "bert")
            sizes.append((data_dir / "edged.db-wal").stat().st_size)
            audit.append(store, "bert", "looked", str(i))
        before = kept(store)
        whole = data_dir.with_name("whole")
        shutil.copytree(data_dir, whole)
    shutil.rmtree(data_dir)
    shutil.copytree(whole, data_dir)
    log = bytearray((data_dir / "edged.db-wal").read_bytes())
    first = 32 if not torn else sizes[-1]  # the first of all frames, or of those of the last act
    log[first + 24 + 100] ^= 0xFF
    (data_dir / "edged.db-wal").write_bytes(log)
    rebuilt, store = start()
    with store:
        if not torn:
            assert rebuilt.grafted
            assert rebuilt.damaged.exists()
        else:
            assert rebuilt is None or rebuilt.grafted
        assert before["label"] <= kept(store)["label"]
        assert audit.verify(store) >= len(before["audit"]) - 1
        assert [f.code for f in check.run(store) if f.code != "model_lost"] == []
    assert repair.look(data_dir) is None


def test_frames_that_a_power_cut_left_out_never_cost_a_rebuild(opener, add, data_dir, start):
    """Frames that were not synced reach the disk in any order; SQLite goes on with those before the first gap."""
    with opener() as store:
        fill(store, add, 5)
        store.rows("pragma wal_checkpoint(truncate)")
        for i in range(5):
            labels.add(store, f"gate:boot-{i}:0", "van", "human", "bert")
        synced = (data_dir / "edged.db-wal").stat().st_size
        promised = kept(store)["label"]
        for i in range(10, 15):
            add(store, i)
            labels.add(store, f"gate:boot-{i}:0", "van", "human", "carl")
        whole = data_dir.with_name("whole")
        shutil.copytree(data_dir, whole)
    grafts = 0
    for seed in range(12):
        rng = random.Random(seed)
        shutil.rmtree(data_dir)
        shutil.copytree(whole, data_dir)
        log = bytearray((data_dir / "edged.db-wal").read_bytes())
        frames_left = range(synced, len(log) - PAGE, PAGE + 24)
        for at in rng.sample(frames_left, rng.randrange(1, len(frames_left))):
            log[at : at + PAGE + 24] = bytes(PAGE + 24)
        (data_dir / "edged.db-wal").write_bytes(log)
        rebuilt, store = start()
        with store:
            recover.run(store)
            assert rebuilt is None or rebuilt.grafted, seed
            grafts += rebuilt is not None
            assert promised <= kept(store)["label"], seed
            assert frames.count(store) == 10
            assert [f.code for f in check.run(store) if f.code != "model_lost"] == [], seed
    print(f"12 cuts, {grafts} grafts")


def test_another_process_follows_to_the_new_catalogue_and_its_label_is_not_left_behind(opener, add, data_dir, clock):
    with opener() as store:
        fill(store, add)
    page = opener(site_key=None)
    assert page.value("select count(*) from label") == 40
    repair.rebuild(data_dir, opener, clock, "asked for")
    labels.add(page, "gate:boot-1:1", "van", "human", "bert")
    with page, opener() as store:
        assert store.value("select count(*) from label where author = 'bert'") == 1


def test_a_process_that_closes_the_old_catalogue_leaves_the_new_ones_wal_alone(opener, add, data_dir, clock):
    """SQLite removes a WAL by its name at the last close: it must see that another file has the name now."""
    with opener() as store:
        fill(store, add, 5)
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select * from label').fetchall()\n"
        "c.execute('update counter set n = n'); c.commit(); print('open', flush=True); sys.stdin.readline(); c.close()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, data_dir / "edged.db"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "open\n"
        repair.rebuild(data_dir, opener, clock, "asked for")
        with opener() as store:
            labels.add(store, "gate:boot-1:1", "van", "human", "bert")
            other.communicate("close\n", timeout=60)
            cut = data_dir.with_name("cut")  # what a kill would leave now
            shutil.copytree(data_dir, cut)
    with Store.open(cut, clock=clock, site_key=None) as store:
        assert store.value("select count(*) from label where author = 'bert'") == 1


class Killed(BaseException):
    pass


def dying(real, at):
    """`real`, until its call number `at`."""
    count = 0

    def call(*args, **options):
        nonlocal count
        count += 1
        if count == at:
            raise Killed
        return real(*args, **options)

    return call


@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "link"), (os, "rename"), (Path, "unlink"), (repair, "sync_folder")],
    ids=lambda x: str(x)[:12],
)
def test_a_rebuild_killed_at_any_step_is_taken_up_by_the_next_start(
    opener, add, data_dir, start, clock, monkeypatch, owner, name
):
    with opener() as store:
        before = fill(store, add, 10)
        whole = data_dir.with_name("whole")
        shutil.copytree(data_dir, whole)
    kills = 0
    for k in range(1, 20):
        shutil.rmtree(data_dir)
        shutil.copytree(whole, data_dir)
        raw = bytearray((data_dir / "edged.db").read_bytes())
        raw[:100] = bytes(100)
        (data_dir / "edged.db").write_bytes(raw)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), k))
            try:
                repair.start(data_dir, opener, clock)
                done = True
            except Killed:
                done = False
                kills += 1
        rebuilt, store = start()
        with store:
            assert not done or rebuilt is None
            after = kept(store)
            assert before["label"] <= after["label"]
            assert frames.count(store) == 10
            assert [f.code for f in check.run(store) if f.code != "model_lost"] == []
        assert not list(data_dir.glob("edged.db.new*"))
        assert not (data_dir / "edged.db.rebuilt").exists()
        if done:
            break
    print(f"{name}: killed {kills} times")
    assert kills


def test_pictures_keep_the_order_in_which_they_came_though_segments_were_recycled(opener, add, data_dir, clock):
    with opener(segment_bytes=2**14) as store:
        for i in range(30):
            clock.at += 60
            add(store, i)
        with store.transaction():
            objects.forget(store, [r[0] for r in store.rows("select id from object where segment in (1, 2)")])
        clean.free_empty(store)
        for i in range(30, 40):
            clock.at += 60
            add(store, i)
        assert store.value("select max(generation) from segment") == 2
        order = [r[0] for r in store.rows("select created from object order by rowid")]
        counted = [tuple(r) for r in store.rows("select * from holding")]
    repair.rebuild(data_dir, opener, clock, "asked for")
    with opener() as store:
        assert [r[0] for r in store.rows("select created from object order by rowid")] == order
        assert [tuple(r) for r in store.rows("select * from holding")] == counted
        (taken_in,) = store.rows("select sum(bytes) from intake")
        assert taken_in[0] == store.value("select sum(size) from object")


def test_a_header_with_another_version_is_damage_when_the_tables_say_so(opener, add, data_dir, start):
    with opener() as store:
        before = fill(store, add, 5)
    with closing(sqlite3.connect(data_dir / "edged.db")) as conn:
        conn.execute(f"pragma user_version = {schema.VERSION + 64}")
    rebuilt, store = start()
    with store:
        assert "version" in rebuilt.why
        assert before["label"] <= kept(store)["label"]


def test_a_store_of_a_newer_edged_is_not_made_anew(opener, add, data_dir, start):
    with opener() as store:
        add(store, 1)
    with closing(sqlite3.connect(data_dir / "edged.db")) as conn:
        conn.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('edged', '0099_later', '')"
        )
        conn.execute(f"pragma user_version = {schema.VERSION + 1}")
        conn.commit()
    with pytest.raises(Misconfigured) as e:
        start()
    assert e.value.code == "newer_schema"


def test_a_segment_that_is_gone_is_an_alarm_and_frames_go_on_in_another(opener, add, data_dir, caplog):
    with opener() as store:
        fill(store, add, 5)
        assert repair.miss_segments(store) == []
    (segment,) = (data_dir / "segments").glob("*.seg")
    away = segment.rename(data_dir / "away")
    with opener() as store:
        assert repair.miss_segments(store) == [1]
        assert "1 segment with" in caplog.text
        assert "00000001.seg" in caplog.text
        assert repair.missing_segments(data_dir) == [1]
        recover.run(store)
        assert alarms.stands(store, alarms.SEGMENTS_LOST)
        add(store, 100)
        assert objects.read(store, store.value("select object from frame where id = 'boot-100'"))
        assert {f.code for f in check.run(store)} == {"segment_lost", "model_lost"}
    away.rename(segment)
    with opener() as store:
        assert repair.miss_segments(store) == []
        recover.run(store)
        assert not alarms.stands(store, alarms.SEGMENTS_LOST)
        assert {f.code for f in check.run(store)} == {"model_lost"}


def test_labels_whose_sample_is_nowhere_are_kept_beside_and_told(opener, add, data_dir, start, clock):
    with opener() as store:
        fill(store, add, 5)
        store.execute("pragma foreign_keys = off")
        store.execute("delete from sample where id = 'gate:boot-3:0'")
        store.execute("delete from frame where id = 'boot-3'")
    for segment in (data_dir / "segments").glob("*.seg"):
        segment.unlink()
    raw = bytearray((data_dir / "edged.db").read_bytes())
    raw[:100] = bytes(100)
    (data_dir / "edged.db").write_bytes(raw)
    rebuilt, store = start()
    with store:
        assert rebuilt.leftover == {"label": 1}
        assert "1 row of label that point to nothing" in str(rebuilt)
        (file,) = data_dir.glob("edged.db.leftover-*")
        assert json.loads(file.read_text())["sample"] == "gate:boot-3:0"
        assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_labels_that_an_erasure_dropped_do_not_come_back_with_another_tables_damage(
    opener, add, data_dir, start, clock
):
    with opener() as store:
        before = fill(store, add, 10)
        copies.make(data_dir, clock)
        erasure.now(store, erasure.What(samples=("gate:boot-3:0",), drop_labels=True), "anna")
        root = store.value("select rootpage from sqlite_schema where name = 'alarm'")
    with (data_dir / "edged.db").open("r+b") as f:
        f.seek((root - 1) * PAGE)
        f.write(b"\xff" * PAGE)
    rebuilt, store = start()
    with store:
        assert rebuilt.lost == {}
        assert rebuilt.bad_pages
        assert {r[1] for r in before["label"]} - {r[1] for r in kept(store)["label"]} == {"gate:boot-3:0"}


def test_a_disk_that_does_not_answer_is_not_taken_for_damage(opener, add, data_dir, monkeypatch):
    with opener() as store:
        add(store, 1)

    class Failing:
        def __init__(self, *_a, **_k):
            pass

        def execute(self, *_):
            e = sqlite3.OperationalError("disk I/O error")
            e.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise e

        def close(self):
            pass

    monkeypatch.setattr(repair.sqlite3, "connect", Failing)
    with pytest.raises(EdgedError) as e:
        repair.look(data_dir)
    assert e.value.code == "disk_failed"


def test_a_rebuilt_catalogue_has_the_models_that_were_brought_and_no_insight_of_before(opener, add, data_dir, start):
    with opener() as store:
        before = fill(store, add)
        insights.add_many(store, [Insight(f"gate:boot-{n}:0", n, "m1", "car", 0.9, 0.8, bytes(64)) for n in range(30)])
        sha256 = models.put_model(store, b"a teacher")
        brought.add(store, "teacher", sha256=sha256, name="vgg", classes=["car"], px=64, author="ada")
        store.execute(
            "insert into drift (ts, camera, test, model, n, score) values (1, 'gate', 'features', 'm1', 500, 0.4)"
        )
        labels.add(store, "gate:boot-1:1", "car", "teacher", "teacher:vgg", 0.75)
        before |= kept(store)
        drift = rows_of(store, "drift")
    raw = bytearray((data_dir / "edged.db").read_bytes())
    raw[PAGE + 5 : PAGE + 400] = bytes(395)  # a page of the schema
    (data_dir / "edged.db").write_bytes(raw)
    rebuilt, store = start()
    with store:
        assert rebuilt is not None
        after = kept(store)
        assert {n: before[n] - after[n] for n in before} == {n: set() for n in before}
        assert brought.teacher(store).sha256 == sha256
        assert rows_of(store, "drift") == drift
        assert insights.hashes(store) == {}
        assert len(insights.missing(store, 100, "m1")) == 60
        assert [f for f in check.run(store) if f.subject != "0" * 64] == []
