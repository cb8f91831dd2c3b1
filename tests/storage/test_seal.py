"""What opens is what was sealed, under that name and key, and nothing opens without it."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edged.clock import day
from edged.errors import Corrupt, Misconfigured, Refused, Unavailable
from edged.storage import Store, check, erasure, frames, objects, samples, seal

DAY = "2026-11-21"
GATE = erasure.What(camera="gate", first=DAY, last=DAY)
TODAY, TOMORROW = DAY, "2026-11-22"


def every_object(store):
    return [r[0] for r in store.rows("select id from object order by created, id")]


def test_nothing_of_a_picture_is_readable_on_disk(store, add, data_dir, frame, scrubbed):
    shown = scrubbed(add(store, 1))
    store.close()
    on_disk = b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    for content in (shown.jpeg, *shown.crops, frame(1).jpeg):
        assert content[:16] not in on_disk


def test_no_data_key_is_readable_on_disk_nor_in_a_repr(store, add, data_dir, site_key):
    add(store, 1)
    (key,) = store.seal.ring.ring().keys
    store.close()
    on_disk = b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    shown = repr([key, store.seal, store.seal.ring, store.seal.ring.ring(), store.seal._open])
    for secret in (key.key, site_key):
        assert secret not in on_disk
        assert secret.hex().encode() not in on_disk
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


def test_files_and_folders_are_the_owners_alone(store, add, data_dir):
    add(store, 1)
    for path in (data_dir, *data_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_any_two_bodies_swapped_renamed_or_rolled_back_do_not_open(store, clock):
    """Threat 26: of all ordered pairs of sealed bodies none opens under the other's name."""
    made = []
    for camera, d, kind, n in itertools.product(("gate", "yard"), (TODAY, TOMORROW), ("frame", "crop"), range(2)):
        key = store.seal.key_for(store, camera, d)
        name = {"id": f"{len(made):032x}", "camera": camera, "kind": kind}
        made.append((key, name, seal.seal(key, f"{camera} {d} {kind} {n}".encode(), **name)))
    opened = 0
    for (key, name, _), (_, theirs, body) in itertools.product(made, made):
        if name is theirs:
            assert seal.unseal(key, body, **name)
            opened += 1
            continue
        with pytest.raises(Corrupt) as e:
            seal.unseal(key, body, **name)
        assert e.value.code == "bad_seal"
    assert opened == len(made) == 16
    # An earlier body of the same camera, kind and day, put back under the present id.
    key, name, _ = made[0]
    with pytest.raises(Corrupt):
        seal.unseal(key, seal.seal(key, b"before", **name | {"id": "f" * 32}), **name)


@pytest.mark.parametrize("change", ["id", "camera", "kind", "day", "key"])
def test_each_part_of_the_name_is_bound(store, change):
    key = store.seal.key_for(store, "gate", DAY)
    name = {"id": "0" * 32, "camera": "gate", "kind": "crop"}
    body = seal.seal(key, b"picture", **name)
    assert seal.unseal(key, body, **name) == b"picture"
    if change in name:
        name[change] = "frame" if change == "kind" else name[change] + "x"
    else:
        day_, id_ = (TOMORROW, key.id) if change == "day" else (key.day, "0" * 16)
        key = seal.DataKey(id_, key.camera, day_, key.cipher)
    with pytest.raises(Corrupt):
        seal.unseal(key, body, **name)


def test_a_body_of_version_1_opens_and_a_later_one_is_not_passed_off_as_one(store):
    key = store.seal.key_for(store, "gate", DAY)
    name = {"id": "0" * 32, "camera": "gate", "kind": "crop"}
    aad = b'["edged object 1","%s","gate","crop","%s"]' % (b"0" * 32, key.id.encode())
    old = b"EDO1" + bytes(12) + key.cipher.encrypt(bytes(12), b"picture", aad)
    assert seal.unseal(key, old, **name) == b"picture"
    new = seal.seal(key, b"picture", **name)
    for body in (b"EDO1" + new[4:], b"EDO2" + old[4:], b"EDO3" + new[4:], new[:-1], new[:20], b""):
        with pytest.raises(Corrupt):
            seal.unseal(key, body, **name)


def test_two_swapped_objects_do_not_open(store, add, edit):
    add(store, 1, regions=1)
    add(store, 2, regions=1)
    one, two = (samples.get(store, f"gate:boot-{n}:0").object for n in (1, 2))
    first = edit(store, one, lambda b: b)
    edit(store, one, lambda _: edit(store, two, lambda _: first))
    for n in (1, 2):
        with pytest.raises(Corrupt) as e:
            samples.crop(store, f"gate:boot-{n}:0")
        assert e.value.code == "bad_seal"


def test_no_object_of_a_store_opens_in_the_place_of_another_nor_from_where_it_lay_before(store, add, clock):
    """Threat 26 on the whole store: every ordered pair, the bytes at one row's place read under the other's name."""
    for n, (camera, later) in enumerate(itertools.product(("gate", "yard"), (0, 86400))):
        clock.at += later
        add(store, n, camera=camera, regions=2)
    rows = store.rows("select id, segment, place, size, sha256, key_id from object order by id")
    pairs = refused = 0
    for mine, theirs in itertools.permutations(rows, 2):
        for columns in ("segment, place, size, sha256", "segment, place, size, sha256, key_id"):
            values = [theirs[c] for c in columns.split(", ")]
            place = ", ".join(f"{c} = ?" for c in columns.split(", "))
            store.execute(f"update object set {place} where id = ?", (*values, mine["id"]))
            pairs += 1
            with pytest.raises(Corrupt):
                objects.read(store, mine["id"])
            refused += 1
        store.execute(
            "update object set segment = ?, place = ?, size = ?, sha256 = ?, key_id = ? where id = ?",
            (mine["segment"], mine["place"], mine["size"], mine["sha256"], mine["key_id"], mine["id"]),
        )
    assert pairs == refused == 2 * 12 * 11
    assert all(objects.read(store, r["id"]) for r in rows)  # the control
    print(f"{refused} of {pairs} refused")


def test_a_row_that_points_to_another_cameras_object_does_not_open(store, add):
    add(store, 1, camera="gate", regions=1)
    add(store, 1, camera="yard", regions=1)
    theirs = samples.get(store, "yard:boot-1:0").object
    store.execute("update object set camera = 'gate' where id = ?", (theirs,))
    store.execute("update sample set object = ? where id = 'gate:boot-1:0'", (theirs,))
    with pytest.raises(Corrupt):
        samples.crop(store, "gate:boot-1:0")


def test_a_picture_passed_off_as_a_crop_does_not_open(store, add):
    add(store, 1, regions=1)
    picture = store.value("select object from frame")
    store.execute("update object set kind = 'crop' where id = ?", (picture,))
    with pytest.raises(Corrupt):
        objects.read(store, picture)


@pytest.mark.parametrize("at", [0, 3, 4, 15, 16, 40, -1])
def test_a_damaged_object_is_noticed_when_read_and_by_check(store, add, edit, at):
    add(store, 1, regions=0)
    (picture,) = every_object(store)

    def change(body):
        bad = bytearray(body)
        bad[at] ^= 1
        return bytes(bad)

    edit(store, picture, change)
    with pytest.raises(Corrupt):
        frames.last_picture(store, "gate")
    assert [f.code for f in check.run(store)] == ["damaged"]


def test_another_site_key_is_told_at_once(store, add, open_store):
    for later in (False, True):
        if later:
            add(store, 1)
        with pytest.raises(Misconfigured) as e:
            open_store(site_key=b"x" * 32)
        assert e.value.code == "wrong_key"


def test_without_the_site_key_rows_are_readable_and_pictures_are_not(store, add, open_store):
    add(store, 1)
    blind = open_store(site_key=None)
    assert samples.count(blind) == 2
    with pytest.raises(Misconfigured) as e:
        frames.last_picture(blind, "gate")
    assert e.value.code == "no_key"


def test_there_is_one_data_key_for_each_camera_and_day_of_receipt(store, add, clock):
    add(store, 1, camera="gate", ts=0.0)  # the camera's own idea of time does not matter
    add(store, 2, camera="gate", ts=9e9)
    add(store, 1, camera="yard")
    clock.at += 86400
    add(store, 3, camera="gate")
    rows = store.rows("select camera, day, wrapped from data_key order by camera, day")
    assert [tuple(r) for r in rows] == [("gate", DAY, None), ("gate", TOMORROW, None), ("yard", DAY, None)]
    assert [(k.camera, k.day, k.epoch) for k in store.seal.keys(store)] == [
        ("gate", DAY, 1), ("gate", TOMORROW, 1), ("yard", DAY, 1)
    ]  # fmt: skip


def test_erasing_a_day_leaves_no_way_to_its_pictures_not_even_from_a_copy_of_everything_but_the_keyring(
    store, add, open_store, clock, data_dir, tmp_path
):
    add(store, 1, camera="gate")
    add(store, 1, camera="yard")
    object_id = store.value("select object from frame where camera = 'gate'")
    row = dict(store.row("select * from object where id = ?", (object_id,)))
    key = store.seal.key_of(store, row["key_id"])
    store.rows("pragma wal_checkpoint(truncate)")
    shutil.copytree(data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("keyring"))
    clock.at += 86400
    add(store, 2, camera="gate")

    assert erasure.now(store, GATE, "anna").objects == 3

    with pytest.raises(Refused):
        samples.crop(store, "gate:boot-1:0")
    assert frames.last_picture(store, "yard") is not None
    assert frames.last_picture(store, "gate") is not None  # the next day's
    assert store.row("select act, subject from audit")[:] == ("erase", f"gate/{DAY}")
    assert check.run(store) == []
    # Bring the row back: the bytes are still in the segment, the key is gone.
    store.execute(f"insert into object ({', '.join(row)}) values ({', '.join('?' * len(row))})", tuple(row.values()))
    for opened in (store, open_store()):
        with pytest.raises(Corrupt) as e:
            objects.read(opened, object_id)
        assert e.value.code == "key_destroyed"
    # Bring the whole catalogue and all segments back from the backup: they are older, and accepted they open nothing.
    for name in ("keyring", "keys/keyring"):
        (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
        shutil.copy(data_dir / name, tmp_path / "copy" / name)
    with Store.open(tmp_path / "copy", clock=clock, site_key=bytes(range(32)), accept_catalogue=True) as restored:
        with pytest.raises(Corrupt):
            objects.read(restored, object_id)
        assert frames.last_picture(restored, "yard") is not None
    # The control: with the key all of this would open.
    raw = objects.raw_bytes(store, object_id, row["segment"], row["place"], row["size"])
    assert seal.unseal(key, raw, id=object_id, camera="gate", kind="frame")


def test_pictures_of_an_erased_day_get_a_new_key(store, add):
    add(store, 1)
    erasure.now(store, GATE, "anna")
    add(store, 2)
    assert frames.last_picture(store, "gate") is not None
    assert store.value("select count(*) from data_key where camera = 'gate'") == 2
    assert [k.epoch for k in store.seal.keys(store)] == [2]
    assert check.run(store) == []


def test_a_writer_that_still_holds_an_erased_key_is_told_to_try_again(store, open_store):
    key = store.seal.key_for(store, "gate", DAY)
    erasure.now(open_store(), GATE, "anna")
    with pytest.raises(Unavailable):
        store.seal.require_live(store, key.id)
    assert store.seal.key_for(store, "gate", DAY).id != key.id


def test_a_fresh_key_seals_from_now_on_and_the_old_one_still_opens_its_own(store, open_store):
    other = open_store()
    old = store.seal.key_for(store, "gate", DAY)
    assert other.seal.key_for(other, "gate", DAY).id == old.id
    name = {"id": "0" * 32, "camera": "gate", "kind": "crop"}
    body = seal.seal(old, b"picture", **name)
    new = store.seal.fresh(store, "gate", DAY)
    assert new.id != old.id
    for s in (store, other, open_store()):
        assert s.seal.key_for(s, "gate", DAY).id == new.id
        assert seal.unseal(s.seal.key_of(s, old.id), body, **name) == b"picture"
    assert [k.epoch for k in store.seal.keys(store)] == [1, 2]
    store.seal.destroy(store, [old.id])
    for s in (store, other):
        with pytest.raises(Corrupt):
            s.seal.key_of(s, old.id)
    assert [k.id for k in store.seal.keys(store)] == [new.id]


def test_destroy_is_not_done_inside_a_transaction_that_might_be_taken_back(store):
    key = store.seal.key_for(store, "gate", DAY)
    with pytest.raises(RuntimeError), store.transaction():
        store.seal.destroy(store, [key.id])
    assert store.seal.key_of(store, key.id)
    store.seal.require_live(store, key.id)


def test_keys_that_nothing_needs_go_but_not_those_of_today_or_in_use(store, add, clock):
    for d in range(4):
        clock.at += 86400 if d else 0
        add(store, d)
    days = sorted(k.day for k in store.seal.keys(store))
    gone = [r[0] for r in store.rows("select o.id from object o join data_key k on k.id = o.key_id where k.day <> ?",
                                     (days[2],))]  # fmt: skip
    with store.transaction():
        objects.forget(store, gone)
    named = next(k.id for k in store.seal.keys(store) if k.day == days[1])
    assert len(store.seal.destroy_unused(store, day(clock.now()), used=[named])) == 1
    assert sorted(k.day for k in store.seal.keys(store)) == days[1:]


def test_the_site_key_must_have_its_length(data_dir, clock):
    with pytest.raises(Misconfigured):
        Store.open(data_dir, clock=clock, site_key=os.urandom(16))


MAKE = """
import sys
from pathlib import Path
from edged.clock import SystemClock
from edged.storage import Store
with Store.open(Path(sys.argv[1]), clock=SystemClock(), site_key=bytes(range(32))) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(20):
        print(store.seal.key_for(store, f"cam-{n % 5}", f"2026-11-{n // 5 + 1:02}").id, flush=True)
        if n % 7 == 3:
            store.seal.fresh(store, "busy", "2026-11-21")
"""


def test_two_processes_that_make_keys_at_once_agree_on_them(data_dir, open_store):
    open_store().close()
    command = [sys.executable, "-c", MAKE, str(data_dir)]
    made = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        for _ in range(3)
    ]
    for child in made:
        assert child.stdout.readline() == "ready\n"
    for child in made:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate()[0].split() for child in made]
    assert all(child.returncode == 0 for child in made)
    assert said[0] == said[1] == said[2]
    with open_store() as store:
        listed = store.seal.keys(store)
        assert len(listed) == 20 + 3 * 3
        assert [k.epoch for k in listed if k.camera == "busy"] == list(range(1, 10))
        assert store.seal.trouble(store) == []
        assert store.value("select count(*) from data_key") == 29
