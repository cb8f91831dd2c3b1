"""A store of version 3, with a plain file for each picture, goes on as one of segments."""

import hashlib
import json
import secrets
import shutil
import sqlite3
from importlib import resources

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edged.storage import check, frames, objects, recover, samples

from .conftest import NOON, noise

FRAMES = 7


def aad(*words):
    return json.dumps(words, separators=(",", ":")).encode()


@pytest.fixture
def old(data_dir, site_key):
    """What version 3 left: seven frames with two crops each, one orphan, one temporary; the pictures by object id."""
    (data_dir / "objects").mkdir(parents=True)
    (data_dir / "models").mkdir()
    db = sqlite3.connect(data_dir / "edged.db", isolation_level=None)
    for name in ("schema.sql", "schema-2.sql", "schema-3.sql"):
        db.executescript(resources.files("edged.storage").joinpath(name).read_text())
    db.executescript(
        "create table _sqlite_migrations (id integer primary key, migration_set text, name text, applied_at text);"
        "insert into _sqlite_migrations (migration_set, name, applied_at) values ('edged', '0001_first', ''),"
        " ('edged', '0002_masks', ''), ('edged', '0003_planted', '')"
    )
    data_key, nonce = AESGCM.generate_key(256), secrets.token_bytes(12)
    mark = hashlib.sha256(b"edged site key\0" + site_key).digest()[:8]
    wrapped = (
        mark + nonce + AESGCM(site_key).encrypt(nonce, data_key, aad("edged data key 1", "k1", "gate", "2026-11-21"))
    )
    db.execute("insert into data_key values ('k1', 'gate', '2026-11-21', ?, ?, null)", (wrapped, NOON))
    db.execute("insert into camera (id, first_seen, last_seen) values ('gate', 1, 1)")
    kept = {}

    def keep(kind, content):
        object_id, nonce = secrets.token_hex(16), secrets.token_bytes(12)
        sealed = (
            b"EDO1"
            + nonce
            + AESGCM(data_key).encrypt(nonce, content, aad("edged object 1", object_id, "gate", kind, "k1"))
        )
        folder = data_dir / "objects" / object_id[:2]
        folder.mkdir(exist_ok=True)
        (folder / object_id).write_bytes(sealed)
        row = (object_id, kind, "gate", "k1", len(sealed), hashlib.sha256(sealed).hexdigest(), NOON)
        db.execute("insert into object values (?, ?, ?, ?, ?, ?, ?)", row)
        kept[object_id] = content
        return object_id

    for n in range(FRAMES):
        picture = keep("frame", noise(f"picture {n}"))
        db.execute(
            "insert into frame values (?, 'gate', 'frame', ?, ?, 'boot', 1.5, ?, 640, 480, '', 'stored', '', ?, ?)",
            (f"boot-{n}", noise(f"{n}", 32).hex(), n, NOON, picture, '{"regions":{"face":1},"ms":{}}'),
        )
        for i in range(2):
            crop = keep("crop", noise(f"crop {n} {i}", 300))
            db.execute(
                "insert into sample values (?, 'gate', ?, 1.5, ?, 1, 2, 3, 4, '', 'car', 0.5, 0.25, ?)",
                (f"gate:boot-{n}:{i}", f"boot-{n}", NOON, crop),
            )
    db.execute("pragma user_version = 3")
    db.close()
    (data_dir / "objects" / "00").mkdir(exist_ok=True)
    (data_dir / "objects" / "00" / ".tmp-1").write_bytes(b"half")
    return kept


def test_every_picture_is_in_a_segment_and_the_folder_is_gone(old, open_store, add, data_dir):
    with open_store() as store:
        assert recover.run(store).moved == 3 * FRAMES
        assert {i: objects.read(store, i) for i in old} == old
        assert not (data_dir / "objects").exists()
        assert check.run(store) == []
        add(store, 100)
        rows = [tuple(r) for r in store.rows("select * from sample order by id")]
    for name in ("edged.db", "edged.db-wal", "edged.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    with open_store() as store:  # and the segments explain them
        recover.rebuild(store)
        assert [tuple(r) for r in store.rows("select * from sample order by id")] == rows
        assert frames.count(store) == FRAMES + 1


def test_one_that_is_damaged_stays_and_is_named(old, open_store, data_dir):
    bad = next(iter(old))
    path = data_dir / "objects" / bad[:2] / bad
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with open_store() as store:
        assert recover.run(store).moved == 3 * FRAMES - 1
        assert [f.subject for f in check.run(store)] == [bad]
        assert path.exists()
        assert recover.run(store).moved == 0


@pytest.mark.parametrize("at", range(1, 12, 2))
def test_a_start_that_dies_goes_on_the_next_time(old, open_store, data_dir, monkeypatch, at):
    import pathlib

    steps = 0
    real = pathlib.Path.unlink

    def unlink(self, **options):
        nonlocal steps
        steps += 1
        if steps == at:
            raise KeyboardInterrupt
        real(self, **options)

    with monkeypatch.context() as m:
        m.setattr(pathlib.Path, "unlink", unlink)
        with open_store() as store, pytest.raises(KeyboardInterrupt):
            recover.run(store)
    with open_store() as store:
        recover.run(store)
        assert {i: objects.read(store, i) for i in old} == old
        assert samples.crop(store, "gate:boot-0:1") == noise("crop 0 1", 300)
        assert check.run(store) == []
        assert not (data_dir / "objects").exists()
    shutil.rmtree(data_dir)
