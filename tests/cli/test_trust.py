"""`edged trust` as an operator meets it: sticks, a machine without a site, and one sentence per mistake."""

import json
import os
import subprocess
import sys

import pytest

from edged.clock import SystemClock
from edged.storage import Store, audit


def edged(*args, cwd=None, **more):
    return subprocess.run(
        [sys.executable, "-m", "edged", *map(str, args)], capture_output=True, text=True, timeout=60, cwd=cwd, check=False,
        **more,
    )  # fmt: skip


def init(folder, *more, **how):
    return edged("--json", "init", "--data-dir", folder, "--site", "plant-a", "--classes", "free,busy", *more, **how)


@pytest.fixture(scope="module")
def sticks(tmp_path_factory):
    """Three sticks and a site whose root keys, two of three, are on them and nowhere else."""
    folder = tmp_path_factory.mktemp("sticks")
    for n in range(1, 4):
        (folder / f"s{n}").mkdir()
    dirs = [a for n in range(1, 4) for a in ("--root-dir", folder / f"s{n}")]
    made = init(folder / "site", "--root-keys", 3, "--root-threshold", 2, *dirs)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["root_keys"] == [str(folder / f"s{n}" / f"root-{n}.key") for n in range(1, 4)]
    return folder


def test_init_on_sticks_leaves_no_root_key_and_two_of_three_release_a_model_and_carry_a_rotation_through(
    sticks, tmp_path
):
    """The whole way: init, release, rotate, sign on a machine that has no site, take, release."""
    from pathlib import Path

    from edged import config, site
    from edged.clock import SystemClock

    folder = sticks / "site"
    at = ("-c", folder / "config.toml")
    assert not list(folder.rglob("root*.key"))
    repo = site.open_repository(config.load(folder / "config.toml"), SystemClock())
    repo.add_target("m/1.onnx", b"model", {"release": 1})
    before = (folder / "keys" / "tuf" / "targets.key").read_bytes()

    rotated = edged(*at, "--json", "trust", "rotate", "targets", "snapshot", "timestamp", cwd=tmp_path)
    said = json.loads(rotated.stdout)
    assert (said["in_force"], said["version"], Path(said["file"]).name) == (False, 2, "2.root.json")
    assert "0 of 2 signatures" in said["missing"][0]
    early = edged(*at, "trust", "take", tmp_path / "2.root.json")
    assert (early.returncode, "0 of 2" in early.stderr) == (1, True)
    assert "edged trust sign" in early.stderr
    one = edged("trust", "sign", "2.root.json", "--key", sticks / "s1" / "root-1.key", "--yes", cwd=tmp_path)
    assert "1 of 2 signatures" in one.stdout
    assert "targets: with new key" in one.stderr  # what is signed is shown
    two = edged("trust", "sign", "2.root.json", "--key", sticks / "s3" / "root-3.key", "--yes", cwd=tmp_path)
    assert "edged trust take" in two.stdout
    taken = edged(*at, "--json", "trust", "take", tmp_path / "2.root.json")
    assert json.loads(taken.stdout)["rotated"] == ["targets", "snapshot", "timestamp"]
    again = edged(*at, "trust", "take", tmp_path / "2.root.json")
    assert again.returncode == 0, again.stderr

    assert (folder / "keys" / "tuf" / "targets.key").read_bytes() != before
    repo.add_target("m/2.onnx", b"model 2", {"release": 2})
    assert set(repo.targets()) == {"m/1.onnx", "m/2.onnx"}
    shown = edged(*at, "--json", "trust", "show")
    document = json.loads(shown.stdout)
    assert (shown.returncode, document["warnings"], document["roles"]["root"]["threshold"]) == (0, [], 2)


@pytest.mark.parametrize(
    ("more", "code", "word"),
    [
        (("--root-keys", 2, "--root-threshold", 3), 2, "3 of 2"),
        (("--root-keys", 3, "--root-dir", "."), 0, ""),
        (("--root-keys", 3, "--root-dir", ".", "--root-dir", "."), 2, "not to 2"),
        (("--root-dir", "no-stick"), 4, "is the stick mounted"),
    ],
)
def test_root_keys_that_cannot_be_are_said_before_anything_is_made(tmp_path, more, code, word):
    done = init(tmp_path / "site", *more, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert word in done.stderr
    assert (tmp_path / "site").exists() == (code == 0)


def test_a_root_key_on_the_stick_is_never_overwritten(sticks, tmp_path):
    before = (sticks / "s1" / "root-1.key").read_bytes()
    dirs = [a for n in range(1, 4) for a in ("--root-dir", sticks / f"s{n}")]
    again = init(tmp_path / "other", "--root-keys", 3, *dirs)
    assert again.returncode == 78
    assert "is there already" in again.stderr
    assert (sticks / "s1" / "root-1.key").read_bytes() == before
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One command, no questions."""
    folder = tmp_path_factory.mktemp("small") / "site"
    assert init(folder).returncode == 0
    return folder


def test_a_small_site_renews_its_root_with_one_command(small, tmp_path):
    at = ("-c", small / "config.toml")
    shown = edged(*at, "trust", "show")
    assert shown.returncode == 0
    assert "root.key lies on this box" in shown.stdout
    assert "no spare" in shown.stdout
    done = edged(*at, "--json", "trust", "renew", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["in_force"]) == (0, True)
    assert list(tmp_path.iterdir()) == []
    rotated = edged(*at, "trust", "rotate", "timestamp", cwd=tmp_path)
    assert "new keys for timestamp" in rotated.stdout
    with Store.open(small, clock=SystemClock(), site_key=None, readonly=True) as store:
        noted = [(r.act, r.subject) for r in audit.rows(store) if r.act.startswith("trust")]
    assert noted == [("trust.root", "3"), ("trust.root", "2")]
    doctor = json.loads(edged(*at, "--json", "doctor").stdout)
    assert any("root 3: 1 of 1 keys" in f["text"] for f in doctor["findings"])


def test_a_spare_root_key_with_a_passphrase_is_added_and_the_first_one_dropped(small, tmp_path):
    at = ("-c", small / "config.toml")
    made = edged("--json", "trust", "new-key", tmp_path / "spare.key", "--passphrase", input="long words\nlong words\n")
    spare = json.loads(made.stdout)["id"]
    assert edged(*at, "trust", "renew", "--add-root", tmp_path / "spare.pub").returncode == 0
    first = next(
        k for k in json.loads(edged(*at, "--json", "trust", "show").stdout)["roles"]["root"]["keys"] if k != spare
    )
    key = ("--key", tmp_path / "spare.key")
    wrong = edged(*at, "trust", "renew", "--drop-root", first, *key, input="other words\n")
    assert (wrong.returncode, "does not open" in wrong.stderr) == (1, True)
    assert "long words" not in wrong.stderr + wrong.stdout
    done = edged(*at, "trust", "renew", "--drop-root", first[:12], *key, input="long words\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(edged(*at, "--json", "trust", "show").stdout)["roles"]["root"]["keys"] == [spare]


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (("trust", "sign", "nothing.json", "--key", "k"), 4, "cannot read nothing.json"),
        (("-c", "config.toml", "trust", "take", "/nowhere/2.root.json"), 4, "cannot read /nowhere/2.root.json"),
        (("-c", "config.toml", "trust", "renew", "--add-root", "/nowhere/r.pub"), 4, "cannot read /nowhere/r.pub"),
        (("-c", "config.toml", "trust", "renew", "--key", "/nowhere/r.key"), 4, "cannot read /nowhere/r.key"),
        (("-c", "config.toml", "trust", "renew", "--key", "config.toml"), 1, "a private key: it is no PEM file\n"),
        (("trust", "sign", "config.toml", "--key", "k"), 1, "is not a root file"),
        (("trust", "sign", "tuf/timestamp.json", "--key", "k"), 1, "is a timestamp"),
        (("trust", "sign", "tuf/1.root.json", "--key", "k"), 1, "nobody is there to ask"),
        (("trust", "sign", "tuf/1.root.json", "--key", "k", "--yes"), 4, "cannot read k"),
        (("trust", "sign", "tuf/1.root.json", "--key", "config.toml", "--yes"), 1, "it is no PEM file\n"),
        (("trust", "sign", "tuf/1.root.json", "--key", "keys/ca.pem", "--yes"), 1, "is not a private key: "),
        (("trust", "sign", "tuf/1.root.json", "--key", "keys/tuf/targets.key", "--yes"), 1, "would not count"),
        (("-c", "config.toml", "trust", "renew", "--threshold", "5"), 1, "5 of"),
        (("-c", "config.toml", "trust", "renew", "--drop-root", "ffffffffffff"), 1, "names 0 root keys"),
        (("-c", "config.toml", "trust", "renew", "--add-root", "keys/tuf/targets.key"), 1, "not to come here"),
        (("-c", "config.toml", "trust", "rotate", "root"), 2, "root"),
        (("-c", "config.toml", "trust", "take"), 2, "FILES"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(small, args, code, word):
    before = {p.name: p.read_bytes() for p in [*(small / "tuf").iterdir(), *(small / "keys" / "tuf").iterdir()]}
    done = edged(*args, cwd=small)
    assert (done.returncode, word in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert {p.name: p.read_bytes() for p in [*(small / "tuf").iterdir(), *(small / "keys" / "tuf").iterdir()]} == before


def test_a_rotation_that_is_not_to_be_leaves_no_key(sticks, tmp_path):
    at = ("-c", sticks / "site" / "config.toml")
    edged(*at, "trust", "rotate", "snapshot", cwd=tmp_path)
    assert (sticks / "site" / "keys" / "tuf" / "snapshot.next.key").exists()
    shown = edged(*at, "trust", "show")
    assert "waits for the root that names it" in shown.stdout
    assert "destroyed" in edged(*at, "trust", "cancel").stdout
    assert not (sticks / "site" / "keys" / "tuf" / "snapshot.next.key").exists()


def test_a_missing_key_and_an_open_one_are_exit_code_3(small, tmp_path):
    import shutil

    shutil.copytree(small, tmp_path / "copy")
    (tmp_path / "copy" / "keys" / "tuf" / "snapshot.key").unlink()
    (tmp_path / "copy" / "keys" / "tuf" / "targets.key").chmod(0o644)
    places = ("--tuf", tmp_path / "copy" / "tuf", "--keys", tmp_path / "copy" / "keys" / "tuf")
    shown = edged("--json", "trust", "show", *places)
    assert shown.returncode == 3
    assert {w["code"] for w in json.loads(shown.stdout)["warnings"] if w["bad"]} == {"key_missing", "key_open"}


@pytest.mark.parametrize("typed", [b"", b"\n\n", b"secret\n"])
def test_a_key_that_was_to_be_wrapped_is_never_written_open(tmp_path, typed):
    command = [sys.executable, "-m", "edged", "trust", "new-key", "new.key", "--passphrase"]
    done = subprocess.run(
        command, input=typed, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert done.returncode == 1, done.stderr
    assert not (tmp_path / "new.key").exists()
