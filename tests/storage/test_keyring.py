"""The keyring: what is on disk after damage, death and erasure."""

import errno
import hashlib
import logging
import os
import shutil
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Corrupt, Misconfigured, Unavailable
from edged.storage import keyring, sheet, supersede
from edged.storage.keyring import Keyring
from edged.storage.sheet import Key, Ring, SiteKey
from tests.storage.dying import steps_of

SITE, OTHER = bytes(range(32)), bytes(32)


def key(n, camera="gate", day="2026-11-21", epoch=1):
    return Key(f"{n:016x}", camera, day, epoch, 0.0, hashlib.sha256(b"%d" % n).digest())


def plus(*keys):
    return lambda ring: msgspec.structs.replace(ring, keys=(*ring.keys, *keys))


def minus(key_id):
    return lambda ring: msgspec.structs.replace(ring, keys=tuple(k for k in ring.keys if k.id != key_id))


def ids(ring):
    return [int(k.id, 16) for k in ring.keys]


@pytest.fixture
def copies(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "medium").mkdir()
    return tmp_path / "site" / "keyring", tmp_path / "medium" / "keyring"


@pytest.fixture
def made(copies):
    """A keyring with three keys in both copies."""
    ring = Keyring(SITE, copies)
    ring.create()
    ring.update(plus(key(1), key(2), key(3)))
    return ring


def opened(copies, site=SITE):
    """What a process that starts now finds, having repaired what it could."""
    ring = Keyring(site, copies)
    return ring.update(lambda r: r)


def test_both_copies_hold_the_keys_and_are_the_owners_alone(made, copies):
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert ids(opened(copies)) == [1, 2, 3]
    assert opened(copies).generation == 2
    assert keyring.trouble(copies) == keyring.trouble(copies, SITE) == []
    for path in copies:
        assert path.stat().st_mode & 0o777 == 0o600
        assert {p.name for p in path.parent.iterdir()} <= {"keyring", ".keyring.lock"}


@pytest.mark.parametrize("which", [0, 1])
def test_each_byte_of_a_copy_changed_or_cut_is_noticed_and_the_other_is_used(made, copies, which, caplog):
    good, flips = copies[which].read_bytes(), 0
    for at in range(len(good)):
        for bad in (good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :], good[:at]):
            copies[which].write_bytes(bad)
            assert [t.code for t in keyring.trouble(copies)] == ["keyring_copy_damaged"]
            assert ids(Keyring(SITE, copies).ring()) == [1, 2, 3]
            flips += 1
    caplog.clear()
    assert ids(opened(copies)) == [1, 2, 3]
    assert f"{copies[which]} is damaged" in caplog.text
    assert copies[which].read_bytes() == good
    print(f"{flips} damages of {len(good)} bytes")


def test_both_copies_damaged_is_loud_and_nothing_is_made_new(made, copies):
    for path in copies:
        path.write_bytes(path.read_bytes()[:-1])
    before = [p.read_bytes() for p in copies]
    for act in (Keyring(SITE, copies).ring, lambda: opened(copies), Keyring(SITE, copies).create):
        with pytest.raises(Corrupt) as e:
            act()
        assert e.value.code == "keyring_lost"
        assert "backup" in e.value.hint
    assert [p.read_bytes() for p in copies] == before
    assert [t.code for t in keyring.trouble(copies)] == ["keyring_lost"]


def test_a_changed_copy_with_a_right_checksum_is_noticed_by_the_seal(made, copies):
    """Somebody without the site key can make the checksum right; each such byte is caught all the same."""
    good, foreign = copies[0].read_bytes(), 0
    for at in range(len(good) - 32):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 : -32]
        for path in copies:
            path.write_bytes(bad + hashlib.sha256(bad).digest())
        with pytest.raises((Corrupt, Misconfigured)) as e:
            Keyring(SITE, copies).ring()
        foreign += e.value.code == "wrong_key"
    assert foreign == 8  # the mark of the site key
    for path in copies:  # the control: it opens once it is as it was
        path.write_bytes(good)
    assert ids(Keyring(SITE, copies).ring()) == [1, 2, 3]


@given(st.binary(max_size=300), st.booleans())
def test_whatever_lies_in_the_place_of_a_keyring_is_refused_as_damaged(content, with_magic):
    content = sheet._MAGIC + content if with_magic else content
    with suppress(ValueError):  # not an error of struct, nor one of memory
        assert SiteKey(SITE).mark not in [s.mark for s in sheet.parse(content + hashlib.sha256(content).digest()).slots]


def test_parts_of_two_generations_cannot_be_mixed(made, copies):
    old = sheet.parse(copies[0].read_bytes())
    made.update(lambda r: msgspec.structs.replace(r, catalogue=1))  # of the same length
    new = sheet.parse(copies[0].read_bytes())
    for head, body in ((old.head, new.body), (new.head, old.body)):
        mixed = sheet.parse(head + body + hashlib.sha256(head + body).digest())
        with pytest.raises(ValueError):
            sheet.unlock(mixed, sheet.SiteKey(SITE))


def test_another_site_key_opens_nothing_and_repairs_nothing(made, copies):
    before = [p.read_bytes() for p in copies]
    for act in (Keyring(OTHER, copies).ring, lambda: opened(copies, OTHER)):
        with pytest.raises(Misconfigured) as e:
            act()
        assert e.value.code == "wrong_key"
    assert [p.read_bytes() for p in copies] == before


def test_an_older_copy_put_back_is_made_new_again_whichever_it_is(made, copies, tmp_path):
    for which in (0, 1):
        older = copies[which].read_bytes()
        made.update(minus(f"{which + 1:016x}"))
        copies[which].write_bytes(older)
        assert [t.code for t in keyring.trouble(copies, SITE)] == ["keyring_copy_old", "keys_owed"]
        assert which + 1 not in ids(opened(copies))
        assert copies[0].read_bytes() == copies[1].read_bytes()
        assert keyring.trouble(copies, SITE) == []
        made = Keyring(SITE, copies)


def test_a_medium_that_is_away_is_no_stop_and_is_caught_up_with_when_it_is_back(made, copies, caplog):
    medium = copies[1].parent
    medium.rename(medium.with_name("away"))
    made.update(plus(key(4)))
    made.update(minus(f"{1:016x}"))
    made.update(plus(key(5)))
    assert caplog.text.count("not reachable") == len(caplog.records) == 1
    assert not medium.exists()  # nothing is made where the medium would be
    codes = {t.code: t.text for t in keyring.trouble(copies, SITE)}
    assert set(codes) == {"keyring_copy_unreachable", "keys_owed"}
    assert codes["keys_owed"].startswith("1 destroyed")
    medium.with_name("away").rename(medium)
    assert ids(Keyring(SITE, (copies[1], copies[1])).ring()) == [1, 2, 3]  # it still holds the destroyed one
    assert ids(opened(copies)) == [2, 3, 4, 5]
    assert copies[0].read_bytes() == copies[1].read_bytes()
    assert keyring.trouble(copies, SITE) == []


def test_the_disk_of_the_store_lost_the_medium_brings_the_keys_back(made, copies):
    copies[0].unlink()
    assert ids(opened(copies)) == [1, 2, 3]
    assert copies[0].read_bytes() == copies[1].read_bytes()


def test_a_wrong_medium_is_left_alone(made, copies, tmp_path, caplog):
    (tmp_path / "other").mkdir()
    elsewhere = tmp_path / "other" / "keyring", tmp_path / "keyring"
    theirs = Keyring(OTHER, elsewhere)
    theirs.create()
    for n in range(5):
        theirs.update(plus(key(n)))
    shutil.copy(elsewhere[0], copies[1])
    before = copies[1].read_bytes()
    ring = Keyring(SITE, copies)
    assert ids(ring.update(plus(key(4)))) == [1, 2, 3, 4]
    assert copies[1].read_bytes() == before
    assert [t.code for t in keyring.trouble(copies, SITE)] == ["keyring_copy_foreign"]
    assert "another site key" in caplog.text


def test_a_copy_that_cannot_be_read_is_no_reason_to_make_a_new_one(made, copies):
    for path in copies:
        path.unlink()
        path.mkdir()
    ring = Keyring(SITE, copies)
    assert ring.there()
    for act in (ring.create, ring.ring):
        with pytest.raises(Corrupt, match="not readable"):
            act()
    assert [t.code for t in keyring.trouble(copies)] == ["keyring_lost"]
    copies[1].rmdir()
    copies[1].write_bytes(b"x")
    assert [c.state for c in keyring.look(copies, None)] == ["unreadable", "damaged"]


def test_a_keyring_is_made_once_by_whoever_is_first(made, copies):
    assert ids(Keyring(SITE, copies).create()) == [1, 2, 3]


def test_a_reader_sees_at_once_what_another_process_wrote(made, copies):
    reader = Keyring(SITE, copies)
    assert ids(reader.ring()) == [1, 2, 3]
    assert not reader.changed()
    made.update(minus(f"{2:016x}"))
    assert reader.changed()
    assert ids(reader.ring()) == [1, 3]


def test_a_writer_never_brings_back_what_another_destroyed(made, copies):
    stale = Keyring(SITE, copies)
    stale.ring()
    made.update(minus(f"{2:016x}"))
    assert ids(stale.update(plus(key(4)))) == [1, 3, 4]


def test_a_reader_that_meets_a_file_while_it_is_superseded_looks_again(made, copies, monkeypatch):
    real, turns = sheet.parse, []

    def parse(data):
        if len(turns) in (0, 2):  # not again for the reads of the writer itself
            turns.append("begun")
            made.update(plus(key(len(turns) + 6)))
            turns.append("done")
            data = bytes(len(data))  # what was open while it was superseded reads as zeros now
        return real(data)

    monkeypatch.setattr(keyring.sheet, "parse", parse)
    assert ids(Keyring(SITE, copies).ring()) == [1, 2, 3, 7, 9]
    assert keyring.trouble(copies, SITE) == []


# -- death at every step


def test_killed_at_every_step_of_a_new_key_no_key_is_lost_and_the_copies_are_equal_again(made, copies):
    before, n = opened(copies), 0

    def act():
        Keyring(SITE, copies).update(plus(key(9)))

    for _ in steps_of(act):
        n += 1
        states = keyring.look(copies, sheet.SiteKey(SITE))
        assert all(c.state == "good" for c in states), "a death left half a file"
        found = opened(copies)
        assert set(ids(before)) <= set(ids(found)), "a key was lost"
        assert copies[0].read_bytes() == copies[1].read_bytes()
        assert keyring.trouble(copies, SITE) == []
        Keyring(SITE, copies).update(minus(f"{9:016x}"))
    print(f"{n - 1} deaths")
    assert n > 30


def test_killed_at_every_step_of_a_destruction_the_key_is_gone_after_it_is_asked_for_again(made, copies):
    n = 0

    def act():
        Keyring(SITE, copies).update(minus(f"{9:016x}"))

    Keyring(SITE, copies).update(plus(key(9)))
    for _ in steps_of(act):
        n += 1
        assert set(ids(opened(copies))) - {9} == {1, 2, 3}
        act()
        for path in copies:
            alone = Keyring(SITE, (path, path)).ring()
            assert ids(alone) == [1, 2, 3]
            assert {p.name for p in path.parent.iterdir()} <= {"keyring", ".keyring.lock"}
        Keyring(SITE, copies).update(plus(key(9)))
    assert n > 30


def test_killed_at_every_step_of_the_first_keyring_the_next_start_makes_or_finds_it(tmp_path):
    n = 0
    copies = tmp_path / "site" / "keyring", tmp_path / "site" / "keys" / "keyring"

    def act():
        Keyring(SITE, copies).create()

    copies[0].parent.mkdir()
    for _ in steps_of(act):
        n += 1
        ring = Keyring(SITE, copies)
        assert ring.create() == ring.update(lambda r: r)
        assert keyring.trouble(copies, SITE) == []
        shutil.rmtree(copies[0].parent)
        copies[0].parent.mkdir()
    assert n > 20


def test_the_blocks_of_an_old_keyring_are_zero_when_the_next_one_is_there(made, copies):
    """A file system of its own is not needed: the old inode is held open."""
    held = [os.open(p, os.O_RDONLY) for p in copies]
    before = [os.pread(fd, 10_000, 0) for fd in held]
    made.update(minus(f"{1:016x}"))
    for fd, old in zip(held, before, strict=True):
        assert any(old)
        assert os.pread(fd, 10_000, 0) == bytes(len(old))
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    os.chown(site, 12345, 12346)
    ring = Keyring(SITE, (site / "keyring", site / "keys" / "keyring"))
    ring.create()
    ring.update(plus(key(1)))
    assert {(p.stat().st_uid, p.stat().st_gid) for p in site.rglob("*")} == {(12345, 12346)}
    assert len(list(site.rglob("*"))) == 4


def test_a_second_hard_link_is_somebodys_copy_and_is_left_alone(tmp_path):
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"one")
    os.link(path, link)
    supersede.write(path, b"two")
    assert (path.read_bytes(), link.read_bytes()) == (b"two", b"one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_without_hard_links_a_file_is_replaced_all_the_same(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "a"
    for content in (b"one", b"two"):
        held = os.open(path, os.O_RDONLY) if path.exists() else -1
        supersede.write(path, content)
        assert path.read_bytes() == content
    assert os.pread(held, 10, 0) == bytes(3)
    os.close(held)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_symbolic_link_is_followed_and_its_target_is_what_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a", tmp_path / "a"
    target.write_bytes(b"one")
    link.symlink_to(target)
    supersede.write(link, b"two")
    supersede.sweep(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"two"
    assert [p.name for p in target.parent.iterdir()] == ["a"]


def test_a_build_that_writes_in_place_is_caught(made, copies, monkeypatch):
    """The negative control of the deaths above."""

    def in_place(path, data):
        with open(path, "wb", buffering=0) as file:
            os.write(file.fileno(), data[:200])
            os.write(file.fileno(), data[200:])

    def act():
        monkeypatch.setattr(supersede, "write", in_place)
        Keyring(SITE, copies).update(plus(key(9)))

    halves = 0
    for _ in steps_of(act):
        halves += sum(c.state == "damaged" for c in keyring.look(copies, sheet.SiteKey(SITE)))
        Keyring(SITE, copies).update(minus(f"{9:016x}"))
    assert halves


# -- a disk that fails


@pytest.mark.parametrize(("code", "family", "word"), [
    (errno.ENOSPC, Unavailable, "disk_full"), (errno.EIO, Corrupt, "disk_failed"), (errno.EROFS, Unavailable, "disk_failed"),
])  # fmt: skip
def test_a_first_copy_that_cannot_be_written_is_an_error_and_changes_nothing(
    made, copies, monkeypatch, code, family, word
):
    real = os.fsync

    def fsync(fd):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(family) as e:
        made.update(plus(key(4)))
    assert e.value.code == word
    monkeypatch.setattr(os, "fsync", real)
    assert ids(opened(copies)) == [1, 2, 3]
    assert ids(made.update(plus(key(4)))) == [1, 2, 3, 4]
    assert keyring.trouble(copies, SITE) == []


def test_a_second_copy_that_cannot_be_written_is_said_once_and_the_first_goes_on(made, copies, monkeypatch, caplog):
    real = os.fsync

    def fsync(fd):
        if "medium" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with caplog.at_level(logging.WARNING):
        for n in (4, 5, 6):
            made.update(plus(key(n)))
    assert caplog.text.count("cannot be written") == len(caplog.records) == 1
    monkeypatch.setattr(os, "fsync", real)
    assert ids(opened(copies)) == [1, 2, 3, 4, 5, 6]
    assert keyring.trouble(copies, SITE) == []


def test_an_empty_ring_has_no_keys_and_names_none():
    assert Ring().of("gate", "2026-11-21") == []
    assert Ring().get("x") is None
