"""A site is made whole or not at all, and never beside what another key has sealed."""

import shutil

import pytest

from edged import config as configs
from edged import site
from edged.clock import SystemClock
from edged.errors import Misconfigured
from edged.publish.keyfiles import NewRoot
from edged.storage import Store, sitekey

NEW = site.NewSite("plant-a", ("a", "b"), ("gate",))
CLOCK = SystemClock()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "site"


def entries(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("left", ["edged.db", "keyring", "segments/00000001.seg", "keys/keyring"])
def test_beside_a_store_without_its_key_no_new_one_is_made(folder, left):
    (folder / left).parent.mkdir(parents=True)
    (folder / left).write_bytes(b"what somebody sealed")
    before = entries(folder)
    with pytest.raises(Misconfigured, match="without its key") as e:
        site.create(folder, NEW, CLOCK)
    assert "edged key recover" in e.value.hint
    assert entries(folder) == before


@pytest.mark.parametrize("at", ["probe", "make_ca", "open", "init", "issue_camera"])
@pytest.mark.parametrize("was_there", [False, True])
def test_an_init_that_fails_leaves_nothing_behind(folder, at, was_there, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    from edged.broker import identity
    from edged.publish import trust

    if was_there:
        folder.mkdir()
        (folder / "lost+found").mkdir()
    with monkeypatch.context() as m:
        where = {
            "probe": site.disk_place,
            "make_ca": identity,
            "open": Store,
            "init": trust.Repository,
            "issue_camera": site,
        }
        m.setattr(where[at], at, full)
        with pytest.raises(OSError, match="No space"):
            site.create(folder, NEW, CLOCK)
    assert (entries(folder) if was_there else folder.exists()) == (["lost+found"] if was_there else False)
    assert site.create(folder, NEW, CLOCK).exists()


def test_an_init_that_fails_leaves_no_root_key_on_the_sticks(folder, tmp_path, monkeypatch):
    sticks = [tmp_path / "a", tmp_path / "b"]
    for stick in sticks:
        stick.mkdir()
    new = site.NewSite("plant-a", ("a", "b"), ("gate",), root=NewRoot.of(2, 2, sticks, "a passphrase"))
    assert "a passphrase" not in repr(new)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(site, "issue_camera", full)
        with pytest.raises(OSError, match="No space"):
            site.create(folder, new, CLOCK)
    assert [list(stick.iterdir()) for stick in sticks] == [[], []]
    assert site.create(folder, new, CLOCK).exists()
    assert [[p.name for p in stick.iterdir()] for stick in sticks] == [["root-1.key"], ["root-2.key"]]
    assert not list(folder.rglob("root*.key"))


@pytest.mark.parametrize("name", ["keys", "tuf/1.root.json", "models/x"])
def test_what_else_is_there_is_neither_used_nor_removed(folder, name):
    (folder / name).mkdir(parents=True)
    before = entries(folder)
    with pytest.raises(Misconfigured, match="is there already"):
        site.create(folder, NEW, CLOCK)
    assert entries(folder) == before


def test_an_init_that_was_killed_begins_anew(folder, tmp_path):
    elsewhere = site.NewSite("plant-a", ("a", "b"), ("gate",), key_dir=tmp_path / "stick")
    whole = site.create(folder, elsewhere, CLOCK)
    assert configs.load(whole).storage.key_file == str(tmp_path / "stick" / "storage.key")
    assert not (folder / "keys" / "storage.key").exists()
    whole.rename(folder / site.UNFINISHED)
    shutil.rmtree(folder / "tuf")
    assert site.create(folder, elsewhere, CLOCK) == whole
    assert not (folder / site.UNFINISHED).exists()
    with site.open_store(configs.load(whole), key=True) as store:
        assert store.has_key


def test_a_key_that_is_there_is_neither_used_nor_replaced(folder, tmp_path):
    sitekey.make_key(tmp_path / "storage.key")
    before = (tmp_path / "storage.key").read_bytes()
    with pytest.raises(Misconfigured, match="is there already"):
        site.create(folder, site.NewSite("plant-a", ("a", "b"), (), key_dir=tmp_path), CLOCK)
    assert (tmp_path / "storage.key").read_bytes() == before
    assert not folder.exists()


def test_a_key_beside_the_pictures_is_told_apart(folder, tmp_path):
    beside = configs.load(site.create(folder, NEW, CLOCK))
    apart = site.NewSite("plant-a", ("a", "b"), (), key_dir=tmp_path / "stick")
    assert site.key_is_with_the_pictures(beside)
    other = configs.load(site.create(tmp_path / "other", apart, CLOCK))
    assert not site.key_is_with_the_pictures(other)
    shutil.copy(tmp_path / "stick" / "storage.key", other.keys_dir / "storage.key.copy")
    assert site.key_is_with_the_pictures(other)  # a copy that was left behind
