import os
import shutil

import pytest

from edged.errors import Corrupt, Misconfigured, Refused
from edged.storage import Store, check, frames, objects, samples, seal

DAY = "2026-11-21"


def test_a_key_file_is_made_once_with_mode_0600_and_reads_back(tmp_path):
    path = tmp_path / "storage.key"
    key = seal.make_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert seal.read_key(path) == key
    with pytest.raises(Misconfigured, match="exists") as e:
        seal.make_key(path)
    assert e.value.code == "key_exists"
    assert seal.read_key(path) == key
    assert [p.name for p in tmp_path.iterdir()] == ["storage.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    path = tmp_path / "storage.key"
    seal.make_key(path)
    path.chmod(mode)
    with pytest.raises(Misconfigured, match="others") as e:
        seal.read_key(path)
    assert e.value.code == "key_mode"


def test_a_key_file_with_any_one_byte_changed_or_cut_is_refused(tmp_path):
    path = tmp_path / "storage.key"
    seal.make_key(path)
    good = path.read_bytes()
    for i in range(len(good) - 1):  # the last byte is the newline
        for bad in (good[:i], good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :]):
            path.write_bytes(bad)
            with pytest.raises(Misconfigured):
                seal.read_key(path)


def test_a_missing_key_file_is_named(tmp_path):
    with pytest.raises(Misconfigured, match=r"nowhere\.key"):
        seal.read_key(tmp_path / "nowhere.key")


def test_nothing_of_a_picture_is_readable_on_disk(store, add, data_dir, frame, scrubbed):
    shown = scrubbed(add(store, 1))
    store.close()
    on_disk = b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    for content in (shown.jpeg, *shown.crops, frame(1).jpeg):
        assert content[:16] not in on_disk


def test_files_and_folders_are_the_owners_alone(store, add, data_dir):
    add(store, 1)
    for path in (data_dir, *data_dir.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_two_swapped_objects_do_not_open(store, add, files):
    add(store, 1, regions=1)
    add(store, 2, regions=1)
    one, two = (
        objects.path_of(store, samples.get(store, f"gate:boot-{n}:0").object) for n in (1, 2)
    )  # fmt: skip
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)
    for n in (1, 2):
        with pytest.raises(Corrupt) as e:
            samples.crop(store, f"gate:boot-{n}:0")
        assert e.value.code == "bad_seal"


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


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", lambda b: b + b"x",
                                    lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:]])  # fmt: skip
def test_a_damaged_object_is_noticed_when_read_and_by_check(store, add, damage):
    add(store, 1, regions=0)
    path = objects.path_of(store, store.value("select object from frame"))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Corrupt):
        frames.last_picture(store, "gate")
    assert [f.code for f in check.run(store)] == ["damaged"]


def test_a_damaged_or_moved_wrapped_key_does_not_open(store, add, open_store):
    add(store, 1, camera="gate")
    add(store, 1, camera="yard")
    gate = store.value("select wrapped from data_key where camera = 'gate'")
    store.execute("update data_key set wrapped = ? where camera = 'yard'", (gate,))
    with pytest.raises(Corrupt, match="data key"):
        frames.last_picture(open_store(), "yard")
    store.execute("update data_key set wrapped = ? where camera = 'yard'", (gate[:-1],))
    with pytest.raises(Corrupt, match="data key"):
        frames.last_picture(open_store(), "yard")


def test_another_site_key_is_told_at_once(store, add, open_store):
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
    rows = store.rows("select camera, day from data_key order by camera, day")
    assert [tuple(r) for r in rows] == [("gate", DAY), ("gate", "2026-11-22"), ("yard", DAY)]


def test_erasing_a_day_leaves_no_way_to_its_pictures_not_even_from_a_copy_of_the_files(
    store, add, open_store, clock, data_dir, tmp_path, site_key
):
    add(store, 1, camera="gate")
    add(store, 1, camera="yard")
    object_id = store.value("select object from frame where camera = 'gate'")
    wrapped = bytes(store.value("select wrapped from data_key where camera = 'gate'"))
    row = dict(store.row("select * from object where id = ?", (object_id,)))
    shutil.copytree(data_dir / "objects", tmp_path / "copy")
    clock.at += 86400
    add(store, 2, camera="gate")

    assert objects.erase(store, "gate", DAY, actor="anna") == 3

    assert not (data_dir / "objects" / object_id[:2] / object_id).exists()
    with pytest.raises(Refused):
        samples.crop(store, "gate:boot-1:0")
    assert frames.last_picture(store, "yard") is not None
    assert frames.last_picture(store, "gate") is not None  # the next day's
    assert store.row("select act, subject from audit")[:] == ("erase", f"gate/{DAY}")
    assert check.run(store) == []
    # Bring file and row back from copies: the key is gone.
    shutil.copy(tmp_path / "copy" / object_id[:2] / object_id, objects.path_of(store, object_id))
    store.execute("insert into object values (:id, :kind, :camera, :key_id, :size, :sha256, :created)", row)
    for opened in (store, open_store()):
        with pytest.raises(Corrupt):
            objects.read(opened, object_id)
    # Nor is the wrapped key left in a free page or in the WAL.
    for path in data_dir.glob("edged.db*"):
        content = path.read_bytes()
        assert not any(wrapped[i : i + 8] in content for i in range(20, len(wrapped) - 7))


def test_pictures_of_an_erased_day_get_a_new_key(store, add):
    add(store, 1)
    objects.erase(store, "gate", DAY, actor="anna")
    add(store, 2)
    assert frames.last_picture(store, "gate") is not None
    assert store.value("select count(*) from data_key where camera = 'gate'") == 2
    assert check.run(store) == []


def test_a_half_destroyed_key_is_noticed_by_the_next_frame(store, add, open_store):
    add(store, 1)
    store.execute("update data_key set wrapped = null")
    with pytest.raises(Corrupt):
        add(open_store(), 2)


def test_a_writer_that_still_holds_an_erased_key_is_told_to_try_again(store, add, open_store):
    from edged.errors import Unavailable

    add(store, 1)
    other = open_store()
    add(other, 2)  # now both hold the key
    objects.erase(store, "gate", DAY, actor="anna")
    with pytest.raises(Unavailable):
        add(other, 3)
    add(other, 3)
    assert frames.find_receipt(store, "gate", "boot-3") is not None
    assert check.run(store) == []


def test_the_site_key_must_have_its_length(data_dir, clock):
    with pytest.raises(Misconfigured):
        Store.open(data_dir, clock=clock, site_key=os.urandom(16))
