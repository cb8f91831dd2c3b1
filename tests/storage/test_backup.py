"""Backups: whole or not there, incremental, without keys; restores that lose nothing and bring back nothing erased."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import pytest

from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.storage import (
    Store,
    audit,
    backup,
    brought,
    check,
    clean,
    copies,
    destination,
    erasure,
    insights,
    labels,
    models,
    objects,
    repair,
    restore,
    samples,
    schema,
)
from edged.storage.insights import Insight


@pytest.fixture
def opener(data_dir, clock, site_key):
    return lambda **options: Store.open(
        data_dir, **{"clock": clock, "site_key": site_key, "busy_s": 0.2, "segment_bytes": 2**16} | options
    )


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "backup"


@pytest.fixture
def back_up(data_dir, dest, clock):
    def run(**options):
        clock.at += 1
        return backup.run(data_dir, dest, clock, site="plant-a", **options)

    return run


@pytest.fixture
def put_back(dest, data_dir, opener, clock, site_key):
    def run(**options):
        clock.at += 1
        return restore.run(dest, data_dir, opener, clock, site_key=site_key, **options)

    return run


def fill(store, add, first=0, n=40):
    for i in range(first, first + n):
        add(store, i)
        labels.add(store, f"gate:boot-{i}:0", "car", "human", "anna")


def state(store):
    return {
        t: set(map(tuple, store.rows(f"select * from {t}"))) for t in ("frame", "sample", "label", "object", "snapshot")
    }


def pictures(store):
    return {r[0]: objects.read(store, r[0]) for r in store.rows("select id from object")}


def lose(data_dir):
    """The disk dies; the keys were kept elsewhere."""
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    for name in ("segments", "models", "tuf", "backups"):
        shutil.rmtree(data_dir / name, ignore_errors=True)


def test_what_was_backed_up_comes_back_whole_onto_an_empty_box(opener, add, data_dir, dest, back_up, put_back):
    with opener() as store:
        fill(store, add)
        sha = models.put_model(store, b"model")
        before, seen = state(store), pictures(store)
        made = back_up()
    assert backup.verify(dest) == []
    assert (made.folder / "manifest.json").is_file()
    lose(data_dir)
    done = put_back()
    assert (done.findings, done.erased, done.aside) == ([], 0, None)
    with opener() as store:
        assert state(store) == before
        assert pictures(store) == seen
        assert models.read_model(store, sha) == b"model"
        assert audit.rows(store, 1)[0].act == "restored"
        add(store, 1000)
        assert check.run(store) == []


def test_the_shorter_ways_to_a_release_come_back_with_it(opener, add, data_dir, dest, back_up, put_back):
    """A camera that asked for one before the disk died is served it after the restore."""
    with opener() as store:
        fill(store, add, n=2)
        named = {models.put_model(store, data, suffix): suffix for data, suffix in ((b"p", ".epk"), (b"d", ".epd"))}
        (store.models_dir / f".{'0' * 64}.epk.1.tmp").write_bytes(b"half")  # what a killed write left
        made = back_up()
    assert {f.name for f in made.manifest.models} == {f"models/{sha}{suffix}" for sha, suffix in named.items()}
    assert backup.verify(dest) == []
    next((dest / "models").glob("*.epd")).write_bytes(b"x")
    assert [t.code for t in backup.verify(dest)] == ["backup_damaged"]
    back_up()
    lose(data_dir)
    put_back()
    with opener() as store:
        assert {sha: models.sent_path(store, sha).read_bytes() for sha in named} == dict(
            zip(named, (b"p", b"d"), strict=True)
        )
        assert check.run(store) == []
        for sha in named:  # and when no release names them any more they leave the backups too
            models.sent_path(store, sha).unlink()
        back_up(keep_days=1)
    assert list((dest / "models").iterdir()) == []


@pytest.mark.parametrize("suffix", [".epk", ".onnx"])
def test_a_way_that_goes_while_it_is_backed_up_is_left_out_and_a_model_is_not(
    opener, add, back_up, monkeypatch, suffix
):
    with opener() as store:
        fill(store, add, n=2)
        gone = models.put_model(store, b"going", suffix)
        stays = models.put_model(store, b"staying", ".epd")
        listed = backup._models(store.data_dir)
        monkeypatch.setattr(backup, "_models", lambda _: listed)
        (store.models_dir / f"{gone}{suffix}").unlink()
        if suffix == ".onnx":
            with pytest.raises((EdgedError, OSError)):
                back_up()
        else:
            assert [f.name for f in back_up().manifest.models] == [f"models/{stays}.epd"]


def test_room_is_asked_for_models_too(opener, add, dest, back_up, monkeypatch):
    with opener() as store:
        fill(store, add, n=2)
        models.put_model(store, b"m" * 5000)
        asked = []
        monkeypatch.setattr(destination, "require_room", lambda dest, size: asked.append(size))
        back_up()
        back_up()
    assert asked[0] > 5000
    assert asked[1] == 0


def test_no_key_is_in_a_backup(opener, add, data_dir, dest, back_up, site_key):
    with opener() as store:
        fill(store, add)
        keys = [k.key for k in store.seal.ring.ring().keys]
        back_up()
    assert keys
    secret = [site_key, site_key.hex().encode(), (data_dir / "keyring").read_bytes()[-64:], *keys]
    for path in dest.rglob("*"):
        assert path.name not in ("keyring", "storage.key")
        if path.is_file():
            assert not any(s in path.read_bytes() for s in secret), path


def test_a_second_backup_copies_only_what_was_added(opener, add, dest, back_up):
    with opener() as store:
        fill(store, add, n=100)
        first = back_up()
        again = back_up()
        fill(store, add, first=100, n=5)
        third = back_up()
    segments = sum(s.bytes for s in first.manifest.segments)
    assert first.copied >= segments > 200_000
    assert again.copied == again.manifest.catalogue.bytes
    added = third.copied - third.manifest.catalogue.bytes
    assert 0 < added < 40_000
    for folder in destination.folders(dest):
        assert backup.verify(dest, folder.name) == []


def test_a_backup_cut_off_anywhere_is_never_taken_for_a_whole_one(opener, add, data_dir, dest, back_up, monkeypatch):
    class Killed(BaseException):
        pass

    with opener() as store:
        fill(store, add, n=20)
        models.put_model(store, b"model")
        back_up()
        fill(store, add, first=20, n=20)
        kills = 0
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "pwritev"), (os, "mkdir")):
            for k in range(1, 60):
                real, calls = getattr(owner, name), [0]

                def dying(*args, _real=real, _calls=calls, _k=k, **options):
                    _calls[0] += 1
                    if _calls[0] == _k:
                        raise Killed
                    return _real(*args, **options)

                with monkeypatch.context() as patch:
                    patch.setattr(owner, name, dying)
                    try:
                        back_up()
                        done = True
                    except Killed:
                        done = False
                        kills += 1
                for folder in destination.folders(dest):
                    assert backup.verify(dest, folder.name) == []
                assert destination.folders(dest)
                if done:
                    break
        back_up()
        assert not list(dest.glob("*.partial"))
    print(f"{kills} cuts")
    assert kills > 10


@pytest.mark.parametrize("what", ["edged.db", "segment", "model", "manifest", "lost"])
def test_damage_of_a_backup_is_found_and_a_restore_from_it_changes_nothing(
    opener, add, data_dir, dest, back_up, put_back, what
):
    with opener() as store:
        fill(store, add)
        models.put_model(store, b"model" * 100)
        made = back_up()
        before = state(store)
    path = {
        "edged.db": made.folder / "edged.db", "manifest": made.folder / "manifest.json",
        "model": next((dest / "models").iterdir()),
    }.get(what, next((dest / "segments").iterdir()))  # fmt: skip
    if what == "lost":
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    if what == "manifest":
        with pytest.raises(Corrupt) as e:
            backup.verify(dest)
        assert e.value.code == "bad_manifest"
    else:
        assert [t.code for t in backup.verify(dest)] == ["backup_lost" if what == "lost" else "backup_damaged"]
    with pytest.raises(Corrupt):
        put_back(replace=True)
    assert not (data_dir / restore.STAGE).exists()
    with opener() as store:
        assert state(store) == before
        assert check.run(store) == []


def test_a_good_store_is_replaced_only_on_demand_and_kept_aside(opener, add, data_dir, back_up, put_back, clock):
    with opener() as store:
        fill(store, add, n=10)
        back_up()
        before = state(store)
        fill(store, add, first=10, n=10)
        after = state(store)
    with pytest.raises(Refused) as e:
        put_back()
    assert e.value.code == "store_exists"
    done = put_back(replace=True)
    assert done.findings == []
    with opener() as store:
        assert state(store)["label"] == before["label"]
    old = data_dir.with_name("old")
    shutil.copytree(data_dir, old)
    for name in ("edged.db", "segments"):
        shutil.rmtree(old / name) if (old / name).is_dir() else (old / name).unlink()
        os.rename(old / done.aside.name / name, old / name)
    for name in ("edged.db-wal", "edged.db-shm"):
        (old / name).unlink(missing_ok=True)
    with Store.open(old, clock=clock, site_key=bytes(range(32)), accept_catalogue=True) as store:
        assert state(store)["label"] == after["label"]


def test_pictures_erased_after_the_backup_stay_erased_and_are_not_called_damage(
    opener, add, data_dir, dest, back_up, put_back, clock
):
    with opener() as store:
        fill(store, add, n=10)
        add(store, 100, camera="yard")
        back_up()
        gone = {r[0] for r in store.rows("select id from object where camera = 'gate'")}
        assert erasure.now(store, erasure.What(camera="gate"), "anna").objects == 30
    done = put_back(replace=True)
    assert (done.erased, done.findings) == (30, [])
    with opener() as store:
        assert samples.get(store, "gate:boot-1:0").object is None
        assert len(pictures(store)) == 3
        assert store.value("select count(*) from label") == 10
        # Nor do the bytes of the backup open with any key that is left.
        for part in backup.choose(dest)[1].segments:
            raw = (dest / "segments" / part.file).read_bytes()
            assert raw
        for object_id in gone:
            with pytest.raises(Refused):
                objects.read(store, object_id)
        for key in store.seal.keys(store):
            assert key.camera == "yard"


def test_a_restore_without_the_keyring_is_refused_before_anything_is_touched(
    opener, add, data_dir, back_up, put_back, site_key, dest, clock
):
    with opener() as store:
        fill(store, add, n=5)
        back_up()
    copies = [data_dir / "keyring", data_dir / "keys" / "keyring"]
    kept = [c.read_bytes() for c in copies]
    lose(data_dir)
    for c in copies:
        c.unlink()
    with pytest.raises(Misconfigured) as e:
        put_back()
    assert e.value.code == "keyring_lost"
    assert not (data_dir / "edged.db").exists()
    copies[0].write_bytes(kept[0])
    with pytest.raises(Misconfigured) as e:
        restore.run(dest, data_dir, opener, clock, site_key=bytes(32))
    assert e.value.code == "wrong_key"
    put_back()
    with opener() as store:
        assert len(pictures(store)) == 15


def test_a_keyring_older_than_the_backup_is_not_taken_for_erasure(opener, add, data_dir, back_up, put_back):
    with opener() as store:
        store.seal.note_start(store)
        fill(store, add, n=5)
        old = (data_dir / "keyring").read_bytes()
    with opener() as store:
        store.seal.note_start(store)
        add(store, 50, camera="yard")
        back_up()
    lose(data_dir)
    for path in (data_dir / "keyring", data_dir / "keys" / "keyring"):
        path.write_bytes(old)
    with pytest.raises(Misconfigured) as e:
        put_back()
    assert e.value.code == "keyring_old"
    assert put_back(replace=True).erased == 3


def test_frames_go_on_coming_while_a_backup_is_made(opener, add, data_dir, dest, back_up):
    with opener() as store:
        fill(store, add, n=30)
        stop, errors = threading.Event(), []

        def ingest():
            n = 1000
            while not stop.is_set():
                try:
                    add(store, n)
                    labels.add(store, f"gate:boot-{n}:0", "car", "human", "bert")
                except EdgedError as e:
                    errors.append(e)
                n += 1

        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            names = [back_up().folder.name for _ in range(5)]
        finally:
            stop.set()
            thread.join()
        assert not errors
    assert len(set(names)) == 5
    assert len(destination.folders(dest)) == 1  # of one day
    assert backup.verify(dest) == []


def test_a_backup_of_a_store_that_recycles_its_segments_is_of_one_moment(
    opener, add, data_dir, dest, back_up, put_back, monkeypatch
):
    """While segments are copied, pictures are let go and their segment is written anew: it is begun again."""
    with opener() as store:
        fill(store, add, n=60)
        real, rounds = backup._copy_segment, []

        def copying(data_dir, dest, number, generation, size, known, last):
            if not rounds:
                rounds.append(number)
                with store.transaction():
                    gone = [r[0] for r in store.rows("select id from object where segment = ?", (number,))]
                    objects.forget(store, gone)
                clean.free_empty(store)
                fill(store, add, first=500, n=60)
                assert store.value("select generation from segment where number = ?", (number,)) > generation
            return real(data_dir, dest, number, generation, size, known, last)

        monkeypatch.setattr(backup, "_copy_segment", copying)
        made = back_up()
        assert rounds
        before, seen = state(store), pictures(store)
    assert backup.verify(dest) == []
    assert {(s.number, s.generation) for s in made.manifest.segments} >= {(rounds[0], 2)}
    lose(data_dir)
    assert put_back().findings == []
    with opener() as store:
        assert state(store) == before
        assert pictures(store) == seen


def test_a_store_that_never_rests_is_told_to_try_again(opener, add, back_up, monkeypatch):
    with opener() as store:
        fill(store, add, n=5)
    monkeypatch.setattr(backup, "_copy_segment", lambda *_: (None, 0, False))
    with pytest.raises(Unavailable):
        back_up()


def test_the_newest_of_each_day_is_kept_and_what_no_backup_names_goes(opener, add, dest, back_up, clock):
    with opener() as store:
        for day in range(5):
            for _ in range(2):
                fill(store, add, first=int(clock.at) % 100000, n=3)
                back_up(keep_days=3)
            with store.transaction():
                gone = [r[0] for r in store.rows("select id from object order by rowid limit 9")]
                objects.forget(store, gone)
            clock.at += 86400
            assert len(destination.folders(dest)) == min(day + 1, 3)
    for folder in destination.folders(dest):
        assert backup.verify(dest, folder.name) == []
    named = {s.file for f in destination.folders(dest) for s in backup.choose(dest, f.name)[1].segments}
    assert {p.name for p in (dest / "segments").iterdir()} == named


def test_another_sites_backup_and_a_folder_of_something_else_are_left_alone(
    opener, add, data_dir, dest, back_up, clock, tmp_path
):
    with opener() as store:
        add(store, 1)
    back_up()
    with pytest.raises(Refused) as e:
        backup.run(data_dir, dest, clock, site="plant-b")
    assert e.value.code == "other_site"
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"x")
    for bad in (other, data_dir / "backup", data_dir, data_dir.parent):
        with pytest.raises(Refused) as e:
            backup.run(data_dir, bad, clock, site="plant-a")
        assert e.value.code == "bad_destination"
    assert [p.name for p in other.iterdir()] == ["a.jpg"]


def test_a_damaged_catalogue_does_not_push_out_a_good_backup(opener, add, data_dir, dest, back_up):
    with opener() as store:
        fill(store, add)
        root = store.value("select rootpage from sqlite_schema where name = 'label'")
    back_up()
    with (data_dir / "edged.db").open("r+b") as f:
        f.seek((root - 1) * 4096)
        f.write(random.Random(1).randbytes(4096))
    with pytest.raises(Corrupt):
        back_up()
    assert len(destination.folders(dest)) == 1
    assert backup.verify(dest) == []


def test_bytes_changed_inside_a_segment_are_said_and_push_out_no_whole_backup(opener, add, dest, back_up, edit, clock):
    with opener(segment_bytes=2**20) as store:
        fill(store, add)
        whole = back_up(keep_days=1)
        bad = store.value("select id from object where place is not null order by place limit 1")
        edit(store, bad, lambda sealed: bytes(len(sealed)))
        fill(store, add, 100, 5)
        made = back_up(keep_days=1)  # the copy made before is whole, and stays
        assert ("stays" in made.damaged[0], made.manifest.damaged) == (True, 0)
        assert backup.verify(dest) == []
        fill(store, add, 200, 5)
        new = store.value("select id from object order by place desc limit 1")
        edit(store, new, lambda sealed: bytes(len(sealed)))
        for _ in range(3):
            clock.at += 86400
            made = back_up(keep_days=1)
        assert made.manifest.damaged > 0
    assert destination.folders(dest)[0] == made.folder
    (trouble,) = backup.verify(dest)
    assert "damaged already" in trouble.message
    assert len(destination.folders(dest)) == 2
    assert backup.verify(dest, destination.folders(dest)[1].name) == []
    assert whole


def test_a_destination_that_cannot_be_made_is_the_arguments_fault(opener, add, data_dir, clock):
    with opener() as store:
        fill(store, add, n=2)
    with pytest.raises(Refused) as e:
        backup.run(data_dir, Path("/dev/null/stick"), clock, site="plant-a")
    assert (e.value.code, e.value.exit_code) == ("bad_destination", 1)


def test_a_site_on_a_read_only_disk_is_backed_up_with_what_its_log_holds(
    opener, add, data_dir, dest, back_up, monkeypatch
):
    with opener() as store:
        fill(store, add)
        before = state(store)
        there = set(data_dir.iterdir())
        monkeypatch.setattr(backup, "_read_only", lambda _: True)
        monkeypatch.setattr(backup.copies, "opened", refusing(data_dir, backup.copies.opened))
        made = back_up()
        assert set(data_dir.iterdir()) == there
    assert not (made.folder / backup.RESCUE).exists()
    assert backup.verify(dest) == []
    with copies.opened(made.folder / "edged.db") as conn:
        assert set(conn.execute("select * from frame").fetchall()) == before["frame"]


def refusing(data_dir, real):
    def opened(path):
        assert data_dir not in path.parents
        return real(path)

    return opened


def test_a_manifest_that_names_a_file_outside_of_the_site_is_refused(opener, add, dest, back_up):
    with opener() as store:
        add(store, 1)
    made = back_up()
    import hashlib

    path = made.folder / "manifest.json"
    document = json.loads(path.read_bytes())["manifest"]
    for name in ("../../etc/passwd", "/etc/passwd", "keys/storage.key", "edged.db"):
        document["files"] = [{"name": name, "bytes": 1, "sha256": "0" * 64}]
        raw = json.dumps(document)
        path.write_text(f'{{"sha256":"{hashlib.sha256(raw.encode()).hexdigest()}","manifest":{raw}}}')
        with pytest.raises(Corrupt) as e:
            backup.choose(dest)
        assert e.value.code == "bad_manifest"


def test_a_restore_cut_off_at_any_step_is_finished_by_the_next_start_or_never_began(
    opener, add, data_dir, dest, back_up, put_back, monkeypatch, clock
):
    class Killed(BaseException):
        pass

    with opener() as store:
        fill(store, add, n=10)
        back_up()
        backed_up = state(store)["label"]
        fill(store, add, first=10, n=5)
        newest = state(store)["label"]
    whole = data_dir.with_name("whole")
    shutil.copytree(data_dir, whole)
    kills = 0
    for owner, name in ((os, "rename"), (os, "fsync"), (os, "mkdir")):
        for k in range(1, 80):
            shutil.rmtree(data_dir)
            shutil.copytree(whole, data_dir)
            real, calls = getattr(owner, name), [0]

            def dying(*args, _real=real, _calls=calls, _k=k, **options):
                _calls[0] += 1
                if _calls[0] == _k:
                    raise Killed
                return _real(*args, **options)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, dying)
                try:
                    put_back(replace=True)
                    done = True
                except Killed:
                    done = False
                    kills += 1
            restore.finish(data_dir)
            assert repair.start(data_dir, opener, clock) is None
            with opener(accept_catalogue=True) as store:
                assert state(store)["label"] == (backed_up if done else state(store)["label"])
                assert state(store)["label"] in (backed_up, newest)
                restore._forget_erased(store)
                assert check.run(store) == []
            assert not (data_dir / restore.STAGE).exists()
            if done:
                break
    print(f"{kills} cuts")
    assert kills > 20


def test_signed_metadata_that_the_box_has_newer_stays(opener, add, data_dir, back_up, put_back):
    def timestamp(version):
        (data_dir / "tuf").mkdir(exist_ok=True)
        (data_dir / "tuf" / "timestamp.json").write_text(json.dumps({"signed": {"version": version}}))

    with opener() as store:
        add(store, 1)
    timestamp(7)
    back_up()
    timestamp(9)
    put_back(replace=True)
    assert json.loads((data_dir / "tuf" / "timestamp.json").read_text())["signed"]["version"] == 9
    shutil.rmtree(data_dir / "tuf")
    put_back(replace=True)
    assert json.loads((data_dir / "tuf" / "timestamp.json").read_text())["signed"]["version"] == 7


# the box's own copies


def test_the_own_copy_is_made_once_a_day_at_its_time_and_three_are_kept(opener, add, data_dir, clock):
    with opener() as store:
        fill(store, add, n=3)
    own = copies.Daily(data_dir, clock, "03:30", 3, 0)
    made = 0
    for _ in range(24 * 5):
        made += own.step() is not None
        clock.at += 3600
    assert made == 6  # at once on the first day, since its time had passed, and after 03:30 of five more
    names = sorted(p.name for p in (data_dir / "backups").iterdir())
    assert names == ["edged-2026-11-24.db", "edged-2026-11-25.db", "edged-2026-11-26.db"]
    assert copies.used(data_dir) > 0
    assert all(copies.sound(p) for p in copies.all(data_dir))


def test_an_own_copy_that_would_eat_the_reserve_is_not_made_and_tried_again_later(opener, add, data_dir, clock):
    with opener() as store:
        add(store, 1)
    own = copies.Daily(data_dir, clock, "00:00", 3, 2**62)
    assert own.step() is None
    assert list((data_dir / "backups").iterdir()) == []
    own = copies.Daily(data_dir, clock, "00:00", 3, 0)
    assert own.step() is not None


def test_an_erasure_that_drops_labels_leaves_no_own_copy_that_has_them(opener, add, data_dir, clock):
    with opener() as store:
        fill(store, add, n=3)
        copies.make(data_dir, clock)
        erasure.now(store, erasure.What(samples=("gate:boot-1:0",)), "anna")
        assert len(copies.all(data_dir)) == 1
        erasure.now(store, erasure.What(samples=("gate:boot-2:0",), drop_labels=True), "anna")
        assert copies.all(data_dir) == []


def test_an_own_copy_holds_no_key_and_no_picture(opener, add, data_dir, clock, site_key):
    with opener() as store:
        fill(store, add, n=3)
        keys = [k.key for k in store.seal.ring.ring().keys]
    raw = copies.make(data_dir, clock).read_bytes()
    assert not any(k in raw for k in (site_key, *keys))
    assert b"JFIF" not in raw


def test_a_backup_of_the_schema_before_is_restored_and_brought_up_to_date(
    opener, add, data_dir, back_up, put_back, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", dict(list(schema.STEPS.items())[:4]))
        patch.setattr(schema, "VERSION", 4)
        with opener() as store:
            add(store, 1)
            store.execute(
                "insert into label (sample, class, source, author, ts) values ('gate:boot-1:0', 'car', 'human', 'ada', 1.0)"
            )
            assert not store.rows("select 1 from sqlite_schema where name = 'insight'")
        back_up()
    lose(data_dir)
    assert put_back().findings == []
    with opener() as store:
        assert store.value("pragma user_version") == schema.VERSION
        assert [(x.class_, x.score) for x in labels.of(store, "gate:boot-1:0")] == [("car", None)]
        assert insights.add_many(store, [Insight("gate:boot-1:0", 1)]) == 1
        labels.add(store, "gate:boot-1:1", "car", "teacher", "teacher:vgg", 0.9)
        assert len(pictures(store)) == 3
        assert check.run(store) == []


def test_a_backup_holds_nothing_of_what_models_saw_and_the_restored_box_looks_again(
    opener, add, data_dir, dest, back_up, put_back
):
    seen = bytes(range(100, 164))
    with opener() as store:
        fill(store, add, n=3)
        insights.add_many(store, [Insight("gate:boot-1:0", 1, "m1", "car", 0.9, 0.8, seen)])
        brought.add(
            store, "teacher", sha256=models.put_model(store, b"big"), name="big", classes=["car"], px=9, author="ada"
        )
    back_up()
    assert not [p.name for p in dest.rglob("*") if p.is_file() and seen in p.read_bytes()]
    lose(data_dir)
    assert put_back().findings == []
    with opener() as store:
        assert insights.hashes(store) == {}
        assert len(insights.missing(store, 100)) == 6
        assert brought.teacher(store).name == "big"
        assert models.read_model(store, brought.teacher(store).sha256) == b"big"
