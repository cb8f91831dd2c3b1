"""Rows of releases, deliveries and blocked hashes; a store of the version before keeps what it had."""

import sqlite3
from contextlib import closing
from importlib import resources

import pytest

from edged.errors import Refused
from edged.storage import audit, blocked, cameras, check, deliveries, releases, schema
from edged.wire.messages import Health


def release(store, number, **more):
    return releases.add(
        store, number=number, name="vehicle", candidate=None, sha256=f"{number:064x}", size=9,
        target=f"vehicle/{number}.onnx", classes=["a", "b"], **more,
    )  # fmt: skip


@pytest.fixture
def of_version_6(data_dir):
    """A store as version 6 left it: a complete release, a rolling one, one that was halted, a delivery of each."""
    data_dir.mkdir(mode=0o700)
    with closing(sqlite3.connect(data_dir / "edged.db", isolation_level=None)) as conn:
        for file in list(schema.STEPS.values())[:6]:
            conn.executescript(resources.files("edged.storage").joinpath(file).read_text())
        conn.execute('create table "_sqlite_migrations" (migration_set text, name text, applied_at text)')
        conn.executemany(
            'insert into "_sqlite_migrations" values (?, ?, ?)',
            [("edged", name, "") for name in list(schema.STEPS)[:6]],
        )
        conn.execute("insert into camera (id, first_seen, last_seen) values ('gate', 1, 1)")
        for number, state, digit in ((1, "complete", "a"), (2, "halted", "b"), (3, "halted", "a"), (4, "rolling", "c")):
            conn.execute(
                "insert into release (number, name, sha256, size, target, classes, state, created, ended, detail)"
                " values (?, 'vehicle', ?, 9, ?, '[\"a\"]', ?, 5.0, 6.0, 'why')",
                (number, digit * 64, f"vehicle/{number}.onnx", state),
            )
            conn.execute("insert into delivery values (?, 'gate', 'SUCCEEDED', 1, 'd', 7.0, 8.0)", (number,))
        conn.execute("pragma user_version = 6")
    return data_dir


def test_a_store_of_version_6_keeps_its_releases_and_deliveries_and_blocks_what_was_halted(of_version_6, open_store):
    store = open_store()
    assert store.value("pragma user_version") == schema.VERSION
    assert [(r.number, r.state, r.kind, r.rules) for r in releases.all(store)] == [
        (1, "complete", "student", {}), (2, "halted", "student", {}), (3, "halted", "student", {}),
        (4, "rolling", "student", {}),
    ]  # fmt: skip
    assert [(d.release, d.camera, d.status, d.offered, d.updated) for d in deliveries.all(store)] == [
        (n, "gate", "SUCCEEDED", 7.0, 8.0) for n in (1, 2, 3, 4)
    ]
    # the bytes of 3 are those of 1, which every camera took
    assert [(b.sha256[0], b.release, b.reason) for b in blocked.all(store)] == [("b", 2, "why")]
    with pytest.raises(sqlite3.IntegrityError):  # the rows still point to each other
        store.execute("delete from release where number = 1")
    assert {f.code for f in check.run(store)} == {"model_lost"}  # there never were files
    releases.set_state(store, 4, "paused", "by Ada", "Ada")
    assert releases.get(store, 4).actor == "Ada"


def test_a_release_is_of_a_kind_and_only_students_are_listed_unless_asked(store):
    release(store, 1)
    release(store, 2, kind="teacher", state="complete", actor="Ada")
    assert [r.number for r in releases.all(store)] == [1]
    assert [r.number for r in releases.all(store, "teacher")] == [2]
    assert [r.number for r in releases.all(store, None)] == [1, 2]
    assert (releases.latest(store).number, releases.latest(store, "teacher").number) == (1, 2)
    assert releases.next_number(store) == 3


def test_the_rules_of_a_rollout_are_kept_with_when_it_started(store, clock):
    release(store, 1, state="waiting")
    assert (releases.get(store, 1).rules, releases.get(store, 1).started) == ({}, None)
    releases.set_rules(store, 1, {"canary": 2})
    row = releases.get(store, 1)
    assert (row.rules, row.started) == ({"canary": 2}, clock.now())


def test_a_delivery_keeps_what_was_said_of_it(store):
    release(store, 1)
    cameras.seen(store, "gate")
    health = Health(20, 4.0, 8.0, 0.5, 0.25, 40)
    deliveries.upsert(store, 1, "gate", "QUEUED", canary=True)
    deliveries.upsert(store, 1, "gate", "SUCCEEDED", health=health, unwell="half as fast", signed=True)
    deliveries.upsert(store, 1, "gate", "SUCCEEDED", health=health, unwell="half as fast")
    [row] = deliveries.of(store, 1)
    assert (row.canary, row.health, row.unwell, row.signed) == (True, health, "half as fast", True)


def test_a_blocked_hash_is_found_by_its_beginning_and_unblocked_by_name(store):
    blocked.add(store, "ab" * 32, release=2, reason="canary gate: FAILED", author="edged")
    blocked.add(store, "ab" * 32, release=3, reason="again", author="edged")
    assert [(b.release, b.reason) for b in blocked.all(store)] == [(2, "canary gate: FAILED")]
    assert blocked.find(store, "ababab").sha256 == "ab" * 32
    for word in ("", "ab", "cdcdcdcd"):
        with pytest.raises(Refused, match="blocked"):
            blocked.find(store, word)
    blocked.remove(store, "ab" * 32, "Ada")
    assert blocked.get(store, "ab" * 32) is None
    assert [(r.act, r.actor) for r in audit.rows(store)] == [("model.unblock", "Ada"), ("model.block", "edged")]
    with pytest.raises(Refused):
        blocked.remove(store, "ab" * 32, "Ada")


def test_a_release_keeps_whom_it_was_signed_for(store):
    release(store, 1, hardware=("atom", "generic"), min_agent="1.2")
    release(store, 2)
    assert [(r.hardware, r.min_agent) for r in releases.all(store)] == [(("atom", "generic"), "1.2"), ((), "")]
