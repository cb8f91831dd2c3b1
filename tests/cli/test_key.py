"""The verbs of the site key as a person meets them: what is on disk after them, and what is never shown."""

import json
import os
import re
import subprocess
import sys

import pytest

from edged.clock import SystemClock
from edged.site import only_daemon
from edged.storage import Store, audit, sitekey

DAY = "2026-11-21"
PASSPHRASE = "correct horse battery staple"


def run(*args, said="", env=None):
    command = [sys.executable, "-m", "edged", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, input=said, check=False,
        env={**os.environ, **{k: str(v) for k, v in (env or {}).items()}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def born(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key") / "site"
    run("init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", "--camera", "gate")
    with Store.open(folder, clock=SystemClock(), site_key=sitekey.read_key(folder / "keys" / "storage.key")) as store:
        store.seal.key_for(store, "gate", DAY)
    return folder


@pytest.fixture
def site(born, tmp_path):
    """A site of its own for each test."""
    import shutil

    folder = tmp_path / "site"
    shutil.copytree(born, folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace(str(born), str(folder)))
    return folder


@pytest.fixture
def edged(site):
    return lambda *args, said="", env=None: run("-c", site / "config.toml", *args, said=said, env=env)


def document(done, code=0):
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def secrets_of(site):
    key = sitekey.read_key(site / "keys" / "storage.key")
    return [key.hex(), sitekey.phrase(key), *re.findall(r"(?:\w+ ){4}", sitekey.phrase(key))]


def test_init_makes_the_key_twice_and_says_so_in_the_audit_log(site, edged):
    shown = document(edged("--json", "key", "show-fingerprint"))
    key = sitekey.read_key(site / "keys" / "storage.key")
    assert shown["fingerprint"] == sitekey.fingerprint(key)
    assert shown["files"] == [str(site / "keys" / "storage.key"), str(site / "keys" / "storage.key.copy")]
    assert shown["passphrase"] is False
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        (row,) = [r for r in audit.rows(store) if r.act == "key.created"]
    assert shown["fingerprint"] in row.detail


def test_check_finds_nothing_on_a_sound_site_and_names_what_is_damaged(site, edged):
    assert document(edged("--json", "key", "check")) == {"schema_version": 1, "findings": [], "data_keys": 1}
    (site / "keys" / "storage.key").write_text("x")
    (site / "keyring").write_bytes(b"x")
    found = document(edged("--json", "key", "check"), 3)["findings"]
    assert {f["code"] for f in found} == {"bad_key", "keyring_copy_damaged"}
    assert (site / "keyring").read_bytes() == b"x"  # it only looks
    (site / "keys" / "storage.key.copy").unlink()
    assert "bad_key" in {f["code"] for f in document(edged("--json", "key", "check"), 3)["findings"]}


def test_a_rotation_leaves_a_site_that_opens_with_the_new_key_only_and_shows_no_secret(site, edged):
    old = sitekey.read_key(site / "keys" / "storage.key")
    done = edged("-v", "key", "rotate", "--author", "anna")
    assert done.returncode == 0, done.stderr
    new = sitekey.read_key(site / "keys" / "storage.key")
    assert new != old
    assert sitekey.fingerprint(new) in done.stdout
    for said in (done.stdout, done.stderr):
        assert not any(secret in said for secret in (old.hex(), *secrets_of(site)))
    assert document(edged("--json", "key", "check"))["findings"] == []
    with Store.open(site, clock=SystemClock(), site_key=new) as store:
        assert (audit.rows(store)[0].act, audit.rows(store)[0].actor) == ("key.rotated", "anna")
        assert [k.camera for k in store.seal.keys(store)] == ["gate"]


def test_a_rotation_waits_until_the_daemon_is_stopped(site, edged):
    before = (site / "keys" / "storage.key").read_bytes()
    with only_daemon(site):
        done = edged("key", "rotate")
    assert (done.returncode, "another daemon runs" in done.stderr) == (75, True)
    assert (site / "keys" / "storage.key").read_bytes() == before


def test_a_credential_is_handed_over_and_finished(site, edged, tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir(mode=0o700)
    (site / "keys" / "storage.key").rename(credentials / "storage-key")
    (site / "keys" / "storage.key.copy").unlink()
    env = {"CREDENTIALS_DIRECTORY": credentials}
    assert document(edged("--json", "key", "check", env=env))["findings"] == []
    refused = edged("key", "rotate", env=env)
    assert (refused.returncode, "--to FILE" in refused.stderr) == (1, True)
    assert edged("key", "rotate", "--to", tmp_path / "new", "--finish", env=env).returncode == 2
    handed = document(edged("--json", "key", "rotate", "--to", tmp_path / "new", env=env))
    assert handed["state"] == "handed_over"
    codes = [f["code"] for f in document(edged("--json", "key", "check", env=env), 3)["findings"]]
    assert codes == ["rotation_unfinished"]
    (tmp_path / "new").replace(credentials / "storage-key")
    finished = document(edged("--json", "key", "rotate", "--finish", env=env))
    assert (finished["state"], finished["fingerprint"]) == ("finished", handed["fingerprint"])
    assert document(edged("--json", "key", "check", env=env))["findings"] == []
    assert {p.name for p in credentials.iterdir()} == {"storage-key"}


def test_the_words_are_shown_to_a_terminal_only_and_bring_a_lost_key_back(site, edged):
    for args in (("key", "phrase"), ("--json", "key", "phrase")):
        refused = edged(*args)
        assert (refused.returncode, refused.stdout, "nobody is there to ask" in refused.stderr) == (1, "", True)
    words = document(edged("--json", "key", "phrase", "--yes"))["words"]
    assert len(words.split()) == 24
    kept = edged("key", "recover", said=words + "\n")
    assert (kept.returncode, "nothing to recover" in kept.stderr) == (1, True)
    good = (site / "keys" / "storage.key").read_bytes()
    (site / "keys" / "storage.key").unlink()
    (site / "keys" / "storage.key.copy").write_bytes(b"damaged")
    other = sitekey.phrase(bytes(32))
    for wrong, code in ((other, 1), (words.replace(" ", " x", 1), 1), ("", 1), ("one two three", 1)):
        done = edged("key", "recover", said=wrong + "\n")
        assert done.returncode == code, done.stderr
        assert not (site / "keys" / "storage.key").exists()
    assert edged("key", "recover", said=words.upper() + "\n").returncode == 0
    assert (site / "keys" / "storage.key").read_bytes() == (site / "keys" / "storage.key.copy").read_bytes() == good
    assert (site / "keys" / "storage.key.copy.damaged").read_bytes() == b"damaged"
    assert document(edged("--json", "key", "check"))["findings"] == []
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        row = audit.rows(store)[0]
    assert row.act == "key.recovered"
    assert not any(secret in row.detail for secret in secrets_of(site))


def test_without_a_keyring_the_daemon_is_not_started_again_and_again(site, edged):
    for path in (site / "keyring", site / "keys" / "keyring"):
        path.write_bytes(b"damaged")
    done = edged("run")
    assert (done.returncode, "no copy of the keyring" in done.stderr, "Traceback" in done.stderr) == (78, True, False)


def test_the_words_put_a_wrong_key_file_aside(site, edged):
    words = document(edged("--json", "key", "phrase", "--yes"))["words"]
    place = sitekey.Place.of(site / "keys" / "storage.key")
    good = [f.read_bytes() for f in place.files]
    for file in place.files:
        file.unlink()
    sitekey.put_new(place, bytes(32))
    stands_in = place.path.read_bytes()
    assert edged("key", "recover", said=sitekey.phrase(bytes(32)) + "\n").returncode == 1
    assert place.path.read_bytes() == stands_in
    done = edged("key", "recover", said=words + "\n")
    assert done.returncode == 0, done.stderr
    assert [f.read_bytes() for f in place.files] == good
    assert [p.read_bytes() for p in site.glob("keys/storage.key*.wrong-*")] == [stands_in] * 2


def test_a_backup_where_no_folder_is_or_one_may_not_write_is_no_fault_of_the_configuration(edged, tmp_path):
    done = edged("key", "backup", tmp_path / "absent" / "x")
    assert (done.returncode, "absent" in done.stderr, "Traceback" in done.stderr) == (4, True, False)


def test_a_key_is_not_recovered_where_no_keyring_could_say_that_it_is_the_right_one(site, edged):
    words = document(edged("--json", "key", "phrase", "--yes"))["words"]
    for path in (site / "keyring", site / "keys" / "keyring", *site.glob("keys/storage.key*")):
        path.unlink()
    assert edged("key", "recover", said=words + "\n").returncode == 4
    assert not list(site.glob("keys/storage.key*"))


def test_with_a_passphrase_the_site_opens_by_prompt_or_file_and_not_without(site, edged, tmp_path):
    key = sitekey.read_key(site / "keys" / "storage.key")
    assert edged("key", "passphrase", said=f"{PASSPHRASE}\nsomething else\n").returncode == 1
    assert edged("key", "passphrase", said="short\nshort\n").returncode == 78
    assert sitekey.read_key(site / "keys" / "storage.key") == key
    done = edged("-v", "key", "passphrase", said=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    assert done.returncode == 0, done.stderr
    assert PASSPHRASE not in done.stdout + done.stderr
    on_disk = b"".join(p.read_bytes() for p in site.rglob("*") if p.is_file())
    assert key.hex().encode() not in on_disk
    assert PASSPHRASE.encode() not in on_disk
    wrong = edged("key", "show-fingerprint", said="not this one\n")
    assert (wrong.returncode, "not the passphrase" in wrong.stderr, "not this" in wrong.stderr) == (78, True, False)
    (tmp_path / "phrase").write_text(PASSPHRASE)
    env = {sitekey.PASSPHRASE_VARIABLE: tmp_path / "phrase"}
    assert document(edged("--json", "key", "check", env=env))["findings"] == []
    shown = document(edged("--json", "key", "show-fingerprint", said=PASSPHRASE + "\n"))
    assert (shown["passphrase"], shown["fingerprint"]) == (True, sitekey.fingerprint(key))
    assert edged("key", "rotate", said=PASSPHRASE + "\n").returncode == 0
    rotated = document(edged("--json", "key", "show-fingerprint", env=env))
    assert rotated["passphrase"] is True
    assert rotated["fingerprint"] != shown["fingerprint"]
    assert edged("key", "passphrase", "--remove", said=PASSPHRASE + "\n").returncode == 0
    assert document(edged("--json", "key", "show-fingerprint"))["passphrase"] is False
    with Store.open(site, clock=SystemClock(), site_key=None) as store:
        assert [r.act for r in audit.rows(store)][:3] == ["key.passphrase", "key.rotated", "key.passphrase"]


def test_a_backup_of_the_keyring_brings_a_lost_one_back_and_is_never_written_over(site, edged, tmp_path):
    done = edged("key", "backup", tmp_path / "saved")
    assert (done.returncode, "after an erasure" in done.stdout) == (0, True)
    assert (tmp_path / "saved").stat().st_mode & 0o777 == 0o600
    assert edged("key", "backup", tmp_path / "saved").returncode == 1
    for path in (site / "keyring", site / "keys" / "keyring"):
        path.unlink()
    lost = document(edged("--json", "key", "check"), 3)["findings"]
    assert [f["code"] for f in lost] == ["keyring_lost"]
    (tmp_path / "saved").replace(site / "keyring")
    with Store.open(site, clock=SystemClock(), site_key=sitekey.read_key(site / "keys" / "storage.key")) as store:
        assert [k.camera for k in store.seal.keys(store)] == ["gate"]
    assert document(edged("--json", "key", "check"))["findings"] == []


def test_a_damaged_key_file_is_mended_by_the_next_opening_and_doctor_tells_before(site, edged):
    good = (site / "keys" / "storage.key").read_bytes()
    (site / "keys" / "storage.key").write_bytes(good[:-5])
    told = document(edged("--json", "doctor"), 3)
    assert any("storage.key is damaged" in f["text"] for f in told["findings"])
    done = edged("key", "passphrase", said="short\nshort\n")  # any verb that opens the store with its key
    assert f"its copy {site / 'keys' / 'storage.key.copy'} is used" in done.stderr
    assert (site / "keys" / "storage.key").read_bytes() == good
