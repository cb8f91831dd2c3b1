"""The verbs of the store as an operator meets them: real processes, exit codes, JSON, nothing done without a yes."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys

import pytest

from edged.clock import SystemClock
from edged.config import load
from edged.site import mend_store, only_daemon, open_store
from edged.storage import alarms, audit, copies, gauges, labels, requests


def edged(*args):
    return subprocess.run(
        [sys.executable, "-m", "edged", *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("db") / "site"
    done = edged("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    assert done.returncode == 0, done.stderr
    with open_store(load(folder / "config.toml"), key=True) as store:
        requests.add(store, "cycle", {}, "anna")
        store.seal.note_start(store)
        store.seal.key_for(store, "gate", "2026-11-21")
        audit.append(store, "anna", "looked", "around")
    return folder


@pytest.fixture
def site(made, tmp_path):
    """A copy of the site at the place that its configuration names."""
    whole = tmp_path / "whole"
    shutil.copytree(made, whole)
    yield made
    shutil.rmtree(made)
    shutil.copytree(whole, made)


@pytest.fixture
def run(site):
    def run_(*args):
        done = edged("--json", "-c", site / "config.toml", *args)
        return done.returncode, json.loads(done.stdout or done.stderr)

    return run_


def spoil(site):
    raw = bytearray((site / "edged.db").read_bytes())
    raw[:4096] = bytes(4096)
    (site / "edged.db").write_bytes(raw)


def test_check_says_that_all_is_well_and_what_it_looked_at(run, site):
    code, document = run("check")
    assert (code, document["ok"], document["findings"]) == (0, True, [])
    assert set(document["counted"]) == {"segment", "object", "frame", "sample", "label"}
    assert run("db", "check", "--fast")[1]["fast"] is True


def test_check_exits_3_with_codes_when_something_is_broken(run, site):
    (site / "keys" / "keyring").unlink()
    code, document = run("check")
    assert code == 3
    assert [f["code"] for f in document["findings"]] == ["keyring_copy_missing"]
    assert run("check", "--fast")[0] == 0  # the keys are only looked at with the site key


def test_a_backup_is_made_listed_verified_and_restored(run, site, tmp_path):
    dest = tmp_path / "stick"
    code, made = run("db", "backup", dest)
    assert (code, made["keys"]) == (0, False)
    assert [b["name"] for b in run("db", "backup", "--list", dest)[1]["backups"]] == [made["backup"]]
    assert run("db", "backup", "--verify", dest)[:1] == (0,)
    with open_store(load(site / "config.toml"), readonly=True) as store:
        assert gauges.all(store)["backup_ts"].value > 0
        assert audit.rows(store, 1)[0].act == "backup"
    code, refused = run("db", "restore", dest)
    assert (code, refused["error"]["code"]) == (1, "store_exists")
    code, done = run("db", "restore", dest, "--yes")
    assert (code, done["ok"], done["findings"]) == (0, True, [])
    assert "replaced-" in done["aside"]
    assert run("check")[0] == 0


def test_a_damaged_backup_exits_3_and_is_not_restored(run, site, tmp_path):
    dest = tmp_path / "stick"
    _, made = run("db", "backup", dest)
    path = dest / made["backup"] / "edged.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    code, document = run("db", "backup", "--verify", dest)
    assert (code, document["findings"][0]["code"]) == (3, "backup_damaged")
    code, document = run("db", "restore", dest, "--yes")
    assert (code, document["error"]["code"]) == (1, "backup_damaged")
    assert run("check")[0] == 0
    assert run("db", "restore", tmp_path / "nothing")[0] == 4


def test_onto_a_bare_box_with_the_keys_brought_back(run, site, tmp_path):
    dest = tmp_path / "stick"
    run("db", "backup", dest)
    for path in site.iterdir():
        if path.name not in ("keys", "keyring"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = edged("--json", "db", "restore", dest, "--data-dir", site)
    assert done.returncode == 0, done.stderr
    assert (site / "config.toml").exists()
    assert (site / "tuf" / "1.root.json").exists()
    assert run("check")[0] == 0


def test_a_site_restored_elsewhere_works_there_and_not_on_the_one_it_was_copied_from(run, site, tmp_path):
    config = site / "config.toml"
    config.write_text(config.read_text() + f'\n[storage]\nkeyring_copy = "{site}/keys/second"  # as it was\n')
    dest, other = tmp_path / "stick", tmp_path / "other"
    run("db", "backup", dest)
    other.mkdir()
    shutil.copytree(site / "keys", other / "keys")
    shutil.copy(site / "keyring", other / "keyring")
    done = edged("--json", "db", "restore", dest, "--data-dir", other)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moved_from"] == str(site)
    found = load(other / "config.toml")
    assert (found.data_dir, found.storage.keyring_copy) == (other, f"{other}/keys/second")
    assert str(site) not in (other / "config.toml").read_text()
    assert "# as it was" in (other / "config.toml").read_text()
    assert config.read_text().count(str(site)) == 2


def test_restore_and_rebuild_wait_for_no_running_daemon(run, site, tmp_path):
    dest = tmp_path / "stick"
    run("db", "backup", dest)
    with only_daemon(site):
        assert run("db", "restore", dest, "--yes")[0] == 75
        assert run("db", "rebuild", "--yes")[0] == 75
        assert run("db", "backup", tmp_path / "other")[0] == 0


def test_a_damaged_catalogue_is_said_by_every_verb_and_rebuilt_by_one(run, site):
    with open_store(load(site / "config.toml")) as store:
        copies.make(store.data_dir, SystemClock())
    spoil(site)
    code, document = run("status")
    assert (code, document["error"]["code"]) == (1, "corrupt")
    code, document = run("db", "rebuild")
    assert code == 0, document
    assert "damaged" in document["why"]
    code, document = run("check")
    assert (code, document["findings"]) == (0, [])
    text = edged("-c", site / "config.toml", "status").stdout
    assert "the catalogue was made anew" in text
    assert run("check", "--clear")[0] == 0
    assert "the catalogue was made anew" not in edged("-c", site / "config.toml", "status").stdout


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_a_check_of_a_catalogue_that_does_not_open_exits_3_and_says_what_makes_it_anew(run, site, what):
    (site / "segments" / "00000001.seg").write_bytes(bytes(4096))
    if what == "damaged":
        spoil(site)
    else:
        (site / "edged.db").unlink()
    code, document = run("check")
    assert (code, document["error"]["code"]) == (3, "corrupt")
    assert "edged db rebuild" in document["error"]["hint"]
    assert "restore" not in document["error"]["hint"]
    assert run("db", "rebuild")[0] == 0
    code, document = run("check", "--fast")
    assert (code, document["ok"]) == (0, True)
    assert "the catalogue was made anew" in document["catalogue_rebuilt"]
    assert "but an alarm stands" in edged("-c", site / "config.toml", "check", "--fast").stdout


@pytest.mark.parametrize("keep", ["0", "-1"])
def test_to_keep_no_backup_is_a_bad_argument(run, tmp_path, keep):
    assert run("db", "backup", tmp_path / "stick", "--keep", keep)[0] == 2


def test_a_sound_catalogue_is_rebuilt_only_on_demand(run):
    code, document = run("db", "rebuild")
    assert (code, document["error"]["code"]) == (1, "nothing_wrong")
    code, document = run("db", "rebuild", "--yes")
    assert (code, document["why"], document["lost"]) == (0, "asked for", {})


def test_migrate_says_versions_and_does_nothing_twice(run):
    code, document = run("db", "migrate")
    assert (code, document["changed"], document["before"] == document["now"]) == (0, False, True)


def test_the_daemons_first_step_mends_what_is_damaged(site):
    config = load(site / "config.toml")
    spoil(site)
    rebuilt = mend_store(config, SystemClock())
    assert rebuilt.rows["audit"] >= 1
    with open_store(config, key=True) as store:
        assert audit.verify(store) > 0
        assert alarms.stands(store, alarms.CATALOGUE_REBUILT)
        assert labels.effective(store) == []
    assert mend_store(config, SystemClock()) is None


def test_systemd_is_told_that_a_start_takes_longer_while_the_catalogue_is_made_anew(site, tmp_path, monkeypatch):
    from edged.daemon import mending

    spoil(site)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert mend_store(load(site / "config.toml"), SystemClock(), mending) is not None
        assert b"EXTEND_TIMEOUT_USEC=600000000" in systemd.recv(1000)
