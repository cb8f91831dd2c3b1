"""Each broken invariant is found and named: the negative controls of `check`."""

import os
import threading

import pytest

from edged.storage import (
    brought,
    candidates,
    check,
    clean,
    copies,
    cycles,
    insights,
    masks,
    models,
    objects,
    segment,
    segments,
    snapshots,
)
from edged.storage.insights import Insight
from edged.storage.snapshots import Body

from .conftest import StillClock

EMPTY: Body = {"classes": [], "train": [], "tune": [], "holdout": [], "holdout_ratio": 0.2, "block_s": 1, "seed": 1}


def codes(store, **options):
    return sorted(f.code for f in check.run(store, **options))


def place_of(store, kind="frame"):
    """Segment file, place, size of the newest object of a kind."""
    row = store.row("select segment, place, size from object where kind = ? order by rowid desc limit 1", (kind,))
    return segments.path_of(store, row["segment"]), row["place"], row["size"]


def overwrite(path, at, data):
    with path.open("r+b") as f:
        f.seek(at)
        f.write(data)


def change(path, at):
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))


def test_a_sound_store_has_no_findings_with_or_without_the_key(store, add, open_store):
    for n in range(3):
        add(store, n)
    shares = []
    assert codes(store, progress=shares.append) == []
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert codes(store, fast=True) == []
    assert codes(open_store(site_key=None, readonly=True)) == []


def test_a_lost_segment_is_found(store, add):
    add(store, 1)
    place_of(store)[0].unlink()
    assert codes(store) == ["segment_lost"]


def test_a_segment_that_is_cut_off_is_found_with_the_objects_it_lost(store, add):
    add(store, 1, regions=0)
    add(store, 2, regions=0)
    path, place, _ = place_of(store)
    os.truncate(path, place + 100)
    assert codes(store) == ["lost_object", "segment_short"]


def test_damage_of_a_picture_is_found_without_the_key(store, add, open_store):
    add(store, 1, regions=0)
    path, place, size = place_of(store)
    change(path, place + size - 1)
    for options in ({"site_key": None}, {}):
        assert codes(open_store(**options), fast=True) == ["damaged"]


def test_damage_of_what_explains_the_pictures_is_found(store, add):
    for n in range(3):
        add(store, n, regions=0)
    path = place_of(store)[0]
    before = path.read_bytes()
    with path.open("rb") as f:
        found = segment.read(f.fileno(), 1, 0)
    for at in (found.offset, found.offset + 20, found.offset + segment.HEAD_BYTES + 3, found.entries[0].place - 1):
        change(path, at)
        assert codes(store) == ["segment_damaged"], at
        path.write_bytes(before)
    assert codes(store) == []


def test_a_picture_exchanged_together_with_its_hash_is_found(store, add):
    add(store, 1, regions=1)
    one, two = store.rows("select id, size, sha256, place from object order by kind")
    store.execute(
        "update object set size = ?, sha256 = ?, place = ? where id = ?",
        (two["size"], two["sha256"], two["place"], one["id"]),
    )
    assert codes(store) == ["bad_seal", "overlap", "unnamed"]


def test_a_record_put_back_from_an_earlier_generation_is_found(store, add):
    add(store, 1, regions=0)
    store.execute("update segment set generation = 2")
    assert codes(store) == ["segment_damaged"]


def test_records_behind_what_is_recorded_are_found(store, add):
    add(store, 1, regions=0)
    recorded = store.value("select recorded from segment")
    add(store, 2, regions=0)
    store.execute("pragma foreign_keys = off")
    store.execute("delete from object where place > ?", (recorded,))
    store.execute("update frame set object = null where id = 'boot-2'")
    store.execute("update segment set recorded = ?", (recorded,))
    assert codes(store) == ["unrecorded"]
    store.execute("update frame set object = null")
    store.execute("delete from object")
    store.execute("delete from segment")
    assert codes(store) == ["unrecorded"]


def test_a_record_that_a_power_cut_tore_is_no_finding(store, add):
    """Its head may have reached the disk and its pictures not: no restart reads it, and the next frame is written over it."""
    add(store, 1, regions=0)
    recorded = store.value("select recorded from segment")
    add(store, 2, regions=0)
    last = store.row("select * from object where place > ?", (recorded,))
    store.execute("update frame set object = null where id = 'boot-2'")
    store.execute("delete from object where id = ?", (last["id"],))
    store.execute("update segment set recorded = ?", (recorded,))
    overwrite(segments.path_of(store, last["segment"]), last["place"], bytes(last["size"]))
    assert codes(store) == []


def test_a_living_object_in_a_free_segment_is_found(store, add):
    add(store, 1, regions=0)
    store.execute("update segment set state = 'free'")
    assert "free_object" in codes(store)


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        ("update frame set status = 'withheld'", ["kept_frame", "lost_frame"]),
        ("update frame set object = null", ["unused_object"]),
        ("delete from frame", ["lost_frame", "unused_object"]),
        ("update data_key set destroyed = 1", ["half_destroyed", "key_destroyed", "key_destroyed"]),
        ("update object set sha256 = '00' where kind = 'crop'", ["damaged", "unnamed"]),
        ("update object set kind = 'crop'", ["bad_seal", "unnamed"]),
        ("update object set camera = 'yard'", ["bad_seal", "bad_seal"]),
        ("update object set size = size - 1 where kind = 'crop'", ["damaged", "unnamed"]),
    ],
)
def test_rows_that_contradict_each_other_are_found(store, add, break_it, code):
    add(store, 1, regions=1)
    store.execute("pragma foreign_keys = off")
    store.execute(break_it)
    assert codes(store) == code


def test_a_key_that_is_in_no_keyring_is_found_once_for_all_it_sealed(store, add):
    for n in range(3):
        add(store, n)
    store.execute("pragma foreign_keys = off")
    store.execute("update data_key set id = 'ffffffffffffffff'")
    store.execute("update object set key_id = 'ffffffffffffffff'")
    found = [f.code for f in check.run(store) if f.code != "unnamed"]
    assert found == ["key_lost", "key_lost"]  # the key's own look, and that of the objects


def test_a_lost_copy_of_the_keyring_is_found(store, add, data_dir):
    add(store, 1)
    (data_dir / "keys" / "keyring").unlink()
    assert codes(store) == ["keyring_copy_missing"]


def test_a_dangling_row_is_found(store, add):
    add(store, 1, regions=1)
    store.execute("pragma foreign_keys = off")
    store.execute("insert into label (sample, class, source, author, ts) values ('none', 'a', 'human', 'me', 0)")
    assert codes(store) == ["dangling"]


def test_a_snapshot_with_a_sample_in_two_parts_or_changed_is_found(store):
    snapshots.add(store, {**EMPTY, "train": [["a", "x"]], "holdout": [["a", "x"]]})
    assert codes(store) == ["leak"]
    store.execute("update snapshot set body = replace(body, 'x', 'y')")
    assert codes(store) == ["snapshot_changed"]


def test_a_damaged_page_is_a_finding_and_the_other_looks_go_on(store, add, open_store, data_dir):
    add(store, 1, regions=0)
    root = store.value("select rootpage from sqlite_schema where name = 'sample'")
    size = store.value("pragma page_size")
    path, *_ = place_of(store)
    store.close()
    overwrite(data_dir / "edged.db", (root - 1) * size, b"\xff" * size)
    path.unlink()
    found = codes(open_store())
    assert "corrupt" in found or "database" in found
    assert "segment_lost" in found


def test_a_lost_or_changed_model_is_found(store):
    cycle = cycles.start(store, "asked")
    sha = models.put_model(store, b"model")
    name = snapshots.add(store, EMPTY)
    candidates.add(store, cycle, name="m", sha256=sha, size=5, snapshot=name, recipe={})
    assert codes(store) == []
    models.model_path(store, sha).write_bytes(b"other")
    assert codes(store) == ["model_changed"]
    (store.models_dir / f"{sha}.onnx").unlink()
    assert codes(store) == ["model_lost"]


def test_a_total_that_its_rows_do_not_add_up_to_is_found(store, add):
    add(store, 1)
    store.execute("update holding set bytes = bytes + 1")
    assert codes(store) == ["total_wrong"]


def test_a_mask_that_cannot_be_burned_in_is_found(store):
    masks.paint(store, "gate", "street", [(0, 0), (1, 0), (1, 1)], "anna")
    store.execute("update mask set polygon = 'x'")
    assert codes(store) == ["mask_damaged"]


def test_a_damaged_daily_copy_is_found_before_it_is_needed(store, add, clock, data_dir):
    add(store, 1)
    path = copies.make(data_dir, clock)
    assert codes(store) == []
    overwrite(path, 0, bytes(100))
    assert codes(store) == ["copy_damaged"]


def test_what_goes_while_it_is_looked_at_is_no_finding(store, add, monkeypatch):
    """Retention takes a picture between the listing and the look."""
    add(store, 1, regions=0)
    path, place, size = place_of(store)
    real = check.walked

    def walked(*args):
        found = real(*args)
        store.execute("update frame set object = null")
        store.execute("delete from object")
        overwrite(path, place, bytes(size))
        return found

    monkeypatch.setattr(check, "walked", walked)
    assert codes(store) == []


class Patient(StillClock):
    """Its sleep takes a little of real time: the box has to get on."""

    def sleep(self, seconds):
        threading.Event().wait(1.5)


def test_beside_a_box_that_takes_and_forgets_pictures_nothing_is_found(open_store, add):
    small = {"segment_bytes": 64 * 1024, "max_bytes": 1}
    box = open_store(linger_s=0.02, **small)
    box.max_bytes = 24 * 64 * 1024
    add(box, 0)  # the day's data key: its two copies are written one after the other
    stop, broken = threading.Event(), []

    def live():
        n = 1
        try:
            while not stop.is_set():
                add(box, n)
                n += 1
                if n % 20 == 0:
                    with box.transaction():
                        old = box.rows("select id from object order by rowid desc limit -1 offset 120")
                        objects.forget(box, [r[0] for r in old])
                    clean.run(box)
        except Exception as e:  # noqa: BLE001
            broken.append(e)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        looking = open_store(readonly=True, clock=Patient())
        found = [str(f) for _ in range(8) for f in check.run(looking, fast=True)]
    finally:
        stop.set()
        thread.join(30)
    assert broken == []
    assert found == []


def test_an_insight_that_outlived_its_picture_is_found(store, add):
    add(store)
    insights.add_many(store, [Insight(f"gate:boot-1:{i}", i) for i in range(2)])
    assert codes(store) == []
    with store.transaction():
        store.execute("drop trigger insight_out")
        objects.forget(store, [store.value("select object from sample where id = 'gate:boot-1:0'")])
    assert [(f.code, f.subject) for f in check.run(store)] == [("stray_insight", "gate:boot-1:0")]


def test_a_model_that_was_brought_and_is_gone_or_changed_is_found(store):
    sha256 = models.put_model(store, b"a teacher")
    weights = models.put_model(store, b"its weights", ".safetensors")
    brought.add(store, "candidate", sha256=sha256, name="big", classes=["a"], px=64, author="ada", weights=weights)
    assert codes(store) == []
    (store.models_dir / f"{sha256}.onnx").write_bytes(b"another")
    (store.models_dir / f"{weights}.safetensors").unlink()
    assert codes(store) == ["model_changed", "model_lost"]
