"""Keyring and catalogue together: an older one put back, one lost, a store of version 3, death at every step."""

import hashlib
import secrets
import shutil
import sqlite3
from importlib import resources

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged.errors import Corrupt, Misconfigured
from edged.storage import Store, audit, check, frames, objects, rotate, schema, seal, sitekey
from edged.storage.keyring import Keyring
from edged.storage.sitekey import Place
from tests.storage.conftest import StillClock
from tests.storage.dying import steps_of

DAY = "2026-11-21"
EVERY = pytest.mark.parametrize("every", [7, pytest.param(1, marks=(pytest.mark.slow, pytest.mark.timeout(900)))])
NAME = {"id": "0" * 32, "camera": "gate", "kind": "crop"}


def codes(store):
    return [t.code for t in store.seal.trouble(store)]


def settled(store):
    store.rows("pragma wal_checkpoint(truncate)")
    store.close()


def put_back(data_dir, copy):
    for name in ("edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    shutil.copy(copy, data_dir / "edged.db")


# -- the catalogue is rolled back


def test_an_older_catalogue_is_refused_until_it_is_accepted(open_store, data_dir, tmp_path):
    with open_store() as store:
        assert store.seal.note_start(store) == 1
        old = store.seal.key_for(store, "gate", DAY)
        settled(store)
    shutil.copy(data_dir / "edged.db", tmp_path / "before.db")
    with open_store() as store:
        assert store.seal.note_start(store) == 2
        new = store.seal.key_for(store, "gate", "2026-11-22")
        store.seal.destroy(store, [old.id])
        settled(store)
    put_back(data_dir, tmp_path / "before.db")
    for options in ({}, {"readonly": True}):
        with pytest.raises(Corrupt) as e:
            open_store(**options)
        assert e.value.code == "catalogue_rolled_back"
        assert "accept" in e.value.hint
    assert open_store(site_key=None).value("select count(*) from data_key") == 1  # rows can still be looked at
    store = open_store(accept_catalogue=True)
    with pytest.raises(Corrupt) as e:
        store.seal.key_of(store, old.id)
    assert e.value.code == "key_destroyed"
    assert store.seal.key_of(store, new.id)
    store.seal.require_live(store, new.id)
    assert codes(store) == []
    assert store.seal.note_start(store) == 3
    assert open_store().value("select value from mark") == 3


def test_a_catalogue_made_anew_is_refused_until_it_is_accepted_and_then_knows_every_key(open_store, data_dir):
    with open_store() as store:
        store.seal.note_start(store)
        made = [store.seal.key_for(store, camera, DAY).id for camera in ("gate", "yard")]
    for path in data_dir.glob("edged.db*"):
        path.unlink()
    with pytest.raises(Corrupt) as e:
        open_store()
    assert e.value.code == "catalogue_rolled_back"
    store = open_store(accept_catalogue=True)
    assert {r[0] for r in store.rows("select id from data_key")} == set(made)
    assert store.seal.key_for(store, "gate", DAY).id in made


def test_a_key_that_the_catalogue_does_not_know_gets_its_row(store, open_store):
    key = store.seal.key_for(store, "gate", DAY)
    store.execute("delete from data_key")
    other = open_store()
    assert other.seal.key_of(other, key.id).id == key.id
    assert other.seal.key_for(other, "gate", DAY).id == key.id
    other.seal.require_live(other, key.id)


def test_killed_at_every_step_of_a_start_the_next_one_is_not_refused(data_dir, open_store, site_key):
    open_store().close()
    n = 0

    def act():
        with Store.open(data_dir, clock=StillClock(), site_key=site_key) as store:
            store.seal.note_start(store)

    for _ in steps_of(act):
        n += 1
        with open_store() as store:
            store.seal.note_start(store)
            assert codes(store) == []
    assert n > 40


# -- the keyring is rolled back or lost


def test_destroyed_keys_that_an_old_keyring_brings_back_are_destroyed_again(store, open_store, data_dir, caplog):
    old, kept = (store.seal.key_for(store, camera, DAY).id for camera in ("gate", "yard"))
    for name in ("keyring", "keys/keyring"):
        shutil.copy(data_dir / name, data_dir / f"{name}.before")
    store.seal.destroy(store, [old])
    for name in ("keyring", "keys/keyring"):
        (data_dir / f"{name}.before").replace(data_dir / name)
    assert codes(store) == []
    assert [f.code for f in check.run(store)] == ["half_destroyed"]
    other = open_store()
    assert "destroyed again" in caplog.text
    assert [k.id for k in other.seal.keys(other)] == [kept]
    assert other.seal.ring.ring().get(old) is None
    assert check.run(other) == []


def test_keys_that_an_old_keyring_does_not_have_are_missed_by_name(store, open_store, data_dir):
    for name in ("keyring", "keys/keyring"):
        shutil.copy(data_dir / name, data_dir / f"{name}.before")
    key = store.seal.key_for(store, "gate", DAY)
    for name in ("keyring", "keys/keyring"):
        (data_dir / f"{name}.before").replace(data_dir / name)
    other = open_store()
    assert codes(other) == ["key_lost"]
    with pytest.raises(Corrupt) as e:
        other.seal.key_of(other, key.id)
    assert e.value.code == "key_lost"
    assert "key_lost" in {f.code for f in check.run(other)}
    assert other.seal.key_for(other, "gate", DAY).id != key.id  # what comes in goes on


@pytest.mark.parametrize("without_catalogue", [False, True])
def test_no_empty_keyring_is_made_over_a_store_that_has_pictures(store, add, open_store, data_dir, without_catalogue):
    add(store, 1)
    store.close()
    for name in ("keyring", "keys/keyring"):
        (data_dir / name).unlink()
    if without_catalogue:
        for path in data_dir.glob("edged.db*"):
            path.unlink()
    for options in ({}, {"accept_catalogue": True}):
        with pytest.raises(Corrupt) as e:
            open_store(**options)
        assert e.value.code == "keyring_lost"
    assert not (data_dir / "keyring").exists()


def test_the_second_copy_alone_is_enough(store, add, open_store, data_dir):
    add(store, 1)
    (data_dir / "keyring").unlink()
    again = open_store()
    assert frames.last_picture(again, "gate") is not None
    assert (data_dir / "keyring").read_bytes() == (data_dir / "keys" / "keyring").read_bytes()


def test_a_reader_uses_the_second_copy_and_repairs_nothing(store, add, open_store, data_dir):
    add(store, 1)
    (data_dir / "keyring").write_bytes(b"x")
    reader = open_store(readonly=True)
    assert frames.last_picture(reader, "gate") is not None
    assert (data_dir / "keyring").read_bytes() == b"x"
    with pytest.raises(Misconfigured):
        reader.seal.key_for(reader, "yard", DAY)


def test_a_second_copy_may_lie_elsewhere(data_dir, clock, site_key, tmp_path):
    copy = tmp_path / "stick" / "edged" / "keyring"
    options = {"clock": clock, "site_key": site_key, "keyring_copy": copy}
    with Store.open(data_dir, **options) as store:
        assert codes(store) == ["keyring_copy_unreachable"]
        key = store.seal.key_for(store, "gate", DAY)
    copy.parent.mkdir(parents=True)
    with Store.open(data_dir, **options) as store:
        assert codes(store) == []
        assert Keyring(site_key, (copy, copy)).ring().get(key.id)


# -- death at every step


def test_killed_at_every_step_of_making_a_key_it_opens_what_it_sealed_or_sealed_nothing(
    data_dir, open_store, site_key, tmp_path
):
    open_store().close()
    sealed, n = tmp_path / "sealed", 0

    def act():
        with Store.open(data_dir, clock=StillClock(), site_key=site_key) as store:
            key = store.seal.key_for(store, f"cam-{n}", DAY)
            sealed.write_bytes(key.id.encode() + seal.seal(key, b"picture", **NAME))

    for _ in steps_of(act):
        with open_store() as store:
            assert codes(store) == []
            if sealed.exists() and sealed.stat().st_size > 16:
                key = store.seal.key_of(store, sealed.read_bytes()[:16].decode())
                assert seal.unseal(key, sealed.read_bytes()[16:], **NAME) == b"picture"
                sealed.unlink()
            assert store.seal.key_for(store, f"cam-{n}", DAY)
            assert store.seal.lost(store) == []
        n += 1
    assert n > 40


def test_killed_at_every_step_of_a_destruction_it_is_whole_or_not_begun(data_dir, open_store, site_key):
    n = whole = 0
    with open_store() as store:
        kept = store.seal.key_for(store, "yard", DAY).id
        doomed = store.seal.fresh(store, "gate", DAY).id

    def act():
        with Store.open(data_dir, clock=StillClock(), site_key=site_key) as store:
            store.seal.destroy(store, [doomed])

    for _ in steps_of(act):
        n += 1
        with open_store() as store:
            assert store.seal.key_of(store, kept)
            assert codes(store) == []
            assert check.run(store) == []
            gone = store.value("select destroyed is not null from data_key where id = ?", (doomed,))
            assert gone == (store.seal.ring.ring().get(doomed) is None), "the two do not agree after a start"
            whole += gone
            doomed = store.seal.fresh(store, "gate", DAY).id
    assert n > 50
    assert 0 < whole < n


def test_a_build_that_destroys_the_key_before_its_row_is_caught(data_dir, open_store, site_key, monkeypatch):
    """The negative control: a death in between leaves a row that counts on a key which is gone."""

    def wrong(self, store, key_ids):
        self._drop(frozenset(key_ids))
        with store.transaction():
            self.condemn(store, key_ids)

    with open_store() as store:
        doomed = store.seal.fresh(store, "gate", DAY).id

    def act():
        monkeypatch.setattr(seal.Seal, "destroy", wrong)
        with Store.open(data_dir, clock=StillClock(), site_key=site_key) as store:
            store.seal.destroy(store, [doomed])

    lost = 0
    for _ in steps_of(act):
        with open_store() as store:
            lost += "key_lost" in codes(store)
            store.seal.condemn(store, store.seal.lost(store))
            doomed = store.seal.fresh(store, "gate", DAY).id
    assert lost


# -- a store of version 3: each key lay in the catalogue, wrapped by the site key


@pytest.fixture
def version_3(data_dir, site_key, clock):
    """Its keys by id, with a body of version 1 each; the blobs as they lay in the catalogue."""
    (data_dir / "models").mkdir(parents=True)
    conn = sqlite3.connect(data_dir / "edged.db", isolation_level=None)
    conn.execute("pragma journal_mode = wal")
    for file in list(schema.STEPS.values())[:3]:
        conn.executescript(resources.files("edged.storage").joinpath(file).read_text(encoding="utf-8"))
    conn.execute('create table "_sqlite_migrations" (migration_set text, name text, applied_at text)')
    conn.executemany('insert into "_sqlite_migrations" values (?, ?, ?)',
                     [("edged", name, "2026-11-01") for name in list(schema.STEPS)[:3]])  # fmt: skip
    conn.execute("pragma user_version = 3")
    site, mark = AESGCM(site_key), hashlib.sha256(b"edged site key\0" + site_key).digest()[:8]
    made = {}
    for n in range(6):
        key_id, key, nonce = f"{n:016x}", secrets.token_bytes(32), secrets.token_bytes(12)
        aad = seal._aad("edged data key 1", key_id, f"cam-{n}", DAY)
        wrapped = mark + nonce + site.encrypt(nonce, key, aad)
        conn.execute("insert into data_key (id, camera, day, wrapped, created) values (?, ?, ?, ?, ?)",
                     (key_id, f"cam-{n}", DAY, wrapped, clock.now()))  # fmt: skip
        name = {"id": f"{n:032x}", "camera": f"cam-{n}", "kind": "frame"}
        body = b"EDO1" + nonce + AESGCM(key).encrypt(nonce, b"old %d" % n, seal._aad(
            "edged object 1", name["id"], name["camera"], name["kind"], key_id))  # fmt: skip
        made[key_id] = (name, body, wrapped)
    conn.execute("insert into data_key (id, camera, day, created, destroyed) values ('gone', 'gate', ?, 0, 1)", (DAY,))
    conn.close()
    return made


def assert_moved(store, data_dir, made):
    for key_id, (name, body, wrapped) in made.items():
        assert seal.unseal(store.seal.key_of(store, key_id), body, **name).startswith(b"old")
        for path in data_dir.glob("edged.db*"):
            content = path.read_bytes()
            assert not any(wrapped[i : i + 8] in content for i in range(20, len(wrapped) - 7)), path
    assert store.value("select count(*) from data_key where wrapped is not null") == 0
    assert codes(store) == []
    with pytest.raises(Corrupt):
        store.seal.key_of(store, "gone")


def test_the_keys_of_a_version_3_store_move_to_the_keyring_and_leave_nothing_behind(version_3, open_store, data_dir):
    content = b"".join(p.read_bytes() for p in data_dir.glob("edged.db*"))
    assert all(wrapped in content for _, _, wrapped in version_3.values())  # the control: one would see them
    store = open_store()
    assert_moved(store, data_dir, version_3)
    assert [k.epoch for k in store.seal.keys(store)] == [1] * 6
    assert_moved(open_store(), data_dir, version_3)


def test_a_version_3_store_is_not_moved_without_its_site_key(version_3, open_store, data_dir):
    with open_store(site_key=None) as blind:
        assert blind.value("select count(*) from data_key where wrapped is not null") == 6
    with pytest.raises(Misconfigured) as e:
        open_store(site_key=bytes(32))
    assert e.value.code == "wrong_key"
    assert not (data_dir / "keyring").exists()
    assert_moved(open_store(), data_dir, version_3)


def test_a_damaged_key_of_a_version_3_store_is_kept_and_named(version_3, open_store, data_dir):
    with open_store(site_key=None) as blind:
        blind.execute("update data_key set wrapped = zeroblob(68) where camera = 'cam-0'")
    store = open_store()
    with pytest.raises(Corrupt, match="damaged"):
        store.seal.key_of(store, f"{0:016x}")
    assert codes(store) == ["key_lost"]
    assert store.seal.key_of(store, f"{1:016x}")


@EVERY
def test_killed_at_every_step_of_the_move_no_key_is_lost(version_3, open_store, data_dir, site_key, tmp_path, every):
    import sqlite_utils  # noqa: F401 once, not in each fork

    shutil.copytree(data_dir, tmp_path / "before")
    n = 0

    def act():
        Store.open(data_dir, clock=StillClock(), site_key=site_key).close()

    for _ in steps_of(act, every):
        n += 1
        with open_store() as store:
            assert_moved(store, data_dir, version_3)
        shutil.rmtree(data_dir)
        shutil.copytree(tmp_path / "before", data_dir)
    assert n > 60 // every


# -- a new site key


@pytest.fixture
def place(data_dir):
    (data_dir / "keys").mkdir(parents=True)
    made = Place.of(data_dir / "keys" / "storage.key")
    sitekey.make_key(made.path)
    return made


def start(data_dir, place):
    """As `site.open_store` does it."""
    store = Store.open(data_dir, clock=StillClock(), site_key=sitekey.read(place))
    with store.seal.ring.locked():
        sitekey.mend(place)
    return store


def test_after_a_rotation_only_the_new_key_opens_the_store_and_everything_in_it(data_dir, place, add):
    with start(data_dir, place) as store:
        add(store, 1)
        old = sitekey.read(place)
        said = rotate.run(store, place, "anna")
    new = sitekey.read(place)
    assert new != old
    assert (said.fingerprint, said.resumed) == (sitekey.fingerprint(new), False)
    assert place.path.read_bytes() == place.copy.read_bytes()
    assert not place.staged.exists()
    with start(data_dir, place) as store:
        assert frames.last_picture(store, "gate") is not None
        assert codes(store) == check.run(store) == []
        row = audit.rows(store)[0]
        assert (row.act, row.actor, row.subject) == (rotate.ACT, "anna", "site key")
        assert said.fingerprint in row.detail
        assert new.hex() not in row.detail
    with pytest.raises(Misconfigured) as e:
        Store.open(data_dir, clock=StillClock(), site_key=old)
    assert e.value.code == "wrong_key"


@EVERY
def test_killed_at_every_step_of_a_rotation_the_key_in_its_place_opens_the_store_and_a_second_run_ends_it(
    data_dir, place, add, every
):
    n = resumed = 0
    with start(data_dir, place) as store:
        add(store, 1)

    def act():
        with start(data_dir, place) as store:
            rotate.run(store, place, "anna")

    for _ in steps_of(act, every):
        n += 1
        for file in place.files:  # either file is whole
            sitekey.unpack(file.read_bytes(), file)
        with start(data_dir, place) as store:
            assert frames.last_picture(store, "gate") is not None
            assert set(codes(store)) <= {"rotation_unfinished"}
            audited = store.value("select count(*) from audit")
            under_way = len(store.seal.ring.marks()) > 1 or place.staged.exists()
            said = rotate.run(store, place, "anna") if under_way else None
        resumed += said is not None and said.resumed
        with start(data_dir, place) as store:
            assert frames.last_picture(store, "gate") is not None
            assert codes(store) == check.run(store) == []
            assert len(store.seal.ring.marks()) == 1
            assert store.value("select count(*) from audit") <= audited + 1
            if said is not None:
                assert said.fingerprint == sitekey.fingerprint(sitekey.read(place))
        assert place.path.read_bytes() == place.copy.read_bytes()
        assert {p.name for p in place.path.parent.iterdir()} == {"keyring", "storage.key", "storage.key.copy"}
    print(f"{n - 1} deaths, {resumed} resumed")
    assert n > 100 // every
    assert 0 < resumed < n


def test_a_rotation_that_switched_the_key_first_is_caught(data_dir, place, add, monkeypatch):
    """The negative control of the test above: without the second slot a death leaves a store that does not open."""
    with start(data_dir, place) as store:
        add(store, 1)
    monkeypatch.setattr(Keyring, "admit", lambda *_: None)

    def act():
        with start(data_dir, place) as store:
            rotate.run(store, place, "anna")

    shut = 0
    for _ in steps_of(act):
        try:
            start(data_dir, place).close()
        except Misconfigured:
            shut += 1
            break
    assert shut


def test_a_rotation_waits_for_the_second_copy_of_the_keyring(data_dir, place, tmp_path, clock):
    from edged.errors import Unavailable

    copy = tmp_path / "stick" / "keyring"
    before = place.path.read_bytes()
    with Store.open(data_dir, clock=clock, site_key=sitekey.read(place), keyring_copy=copy) as store:
        with pytest.raises(Unavailable):
            rotate.run(store, place, "anna")
        copy.parent.mkdir()
        assert place.path.read_bytes() == before
        rotate.run(store, place, "anna")
    assert place.path.read_bytes() != before


def test_a_key_that_we_cannot_replace_is_handed_over_and_either_opens_until_it_is_finished(data_dir, place, tmp_path):
    from edged.errors import Refused

    old, target = sitekey.read(place), tmp_path / "new.key"
    with start(data_dir, place) as store:
        said = rotate.hand_over(store, target)
        with pytest.raises(Refused):
            rotate.hand_over(store, tmp_path / "another.key")
        with pytest.raises(Refused):
            rotate.run(store, place, "anna")
        assert codes(store) == ["rotation_unfinished"]
    new = sitekey.read(Place(target, None))
    assert sitekey.fingerprint(new) == said.fingerprint
    for key in (old, new):
        with Store.open(data_dir, clock=StillClock(), site_key=key) as store:
            assert store.seal.key_for(store, "gate", DAY)
    with Store.open(data_dir, clock=StillClock(), site_key=new) as store:
        assert rotate.finish(store, Place(target, None), new, "anna")
        assert audit.rows(store)[0].act == rotate.ACT
        with pytest.raises(Refused):
            rotate.finish(store, Place(target, None), new, "anna")
    with pytest.raises(Misconfigured):
        Store.open(data_dir, clock=StillClock(), site_key=old)


def test_a_hand_over_is_called_off_by_finishing_with_the_old_key(data_dir, place, tmp_path):
    old = sitekey.read(place)
    with start(data_dir, place) as store:
        rotate.hand_over(store, tmp_path / "new.key")
        assert not rotate.finish(store, place, old, "anna")
        assert codes(store) == []
        assert audit.rows(store) == []
    with pytest.raises(Misconfigured):
        Store.open(data_dir, clock=StillClock(), site_key=sitekey.read(Place(tmp_path / "new.key", None)))


def test_objects_are_read_after_a_rotation_by_a_process_that_was_started_again_only(data_dir, place, add):
    with start(data_dir, place) as daemon, start(data_dir, place) as page:
        add(daemon, 1)
        object_id = page.value("select object from frame")
        rotate.run(daemon, place, "anna")
        with pytest.raises(Misconfigured) as e:
            objects.read(page, object_id)
        assert "restart" in e.value.hint
