"""Whether rows of rollouts have changed: whoever changes them, and nothing else that this process writes."""

import sqlite3
import subprocess
import sys
from contextlib import suppress

import pytest

from edged.storage import blocked, cameras, counters, deliveries, releases, requests
from edged.storage.stirred import Stirred
from edged.storage.store import Store
from edged.wire.messages import CameraInfo, CameraStats, Reported

RUNS, NEXT = "a" * 64, "b" * 64


@pytest.fixture
def stirred(store):
    for camera in ("gate", "yard"):
        cameras.set_online(store, camera, True)
    releases.add(store, number=1, name="m", candidate=None, sha256=RUNS, size=9, target="m/1.onnx", classes=("a",))
    deliveries.upsert(store, 1, "gate", "IN_PROGRESS", offered=5.0)
    cameras.set_reported(store, "gate", reported(0.1))
    cameras.set_info(store, "gate", CameraInfo("b", "1.0", "generic", (), 1))
    blocked.add(store, NEXT, release=1, reason="it was bad", author="Ada")
    made = Stirred(store)
    made.look()
    return made


def reported(progress, sha256=RUNS):
    return Reported("m", 1, sha256, "release-1", "IN_PROGRESS", progress)


CHANGES = {
    "a camera goes away": lambda s: cameras.set_online(s, "gate", False),
    "a new camera": lambda s: cameras.seen(s, "door"),
    "a camera runs something else": lambda s: cameras.set_reported(s, "gate", reported(0.1, NEXT)),
    "a camera's first word": lambda s: cameras.set_reported(s, "yard", reported(0.1)),
    "a camera's first greeting": lambda s: cameras.set_info(s, "yard", CameraInfo("b", "1.0", "generic", (), 1)),
    "other hardware": lambda s: cameras.set_info(s, "gate", CameraInfo("b", "1.0", "atom", (), 1)),
    "another agent": lambda s: cameras.set_info(s, "gate", CameraInfo("b", "1.1", "generic", (), 1)),
    "other classes": lambda s: cameras.set_info(s, "gate", CameraInfo("b", "1.0", "generic", (), 1, classes=("a",))),
    "a camera is removed": lambda s: s.execute("delete from camera where id = 'yard'"),
    "a word that is no JSON": lambda s: s.execute("update camera set reported = 'x' where id = 'gate'"),
    "an offer": lambda s: deliveries.upsert(s, 1, "yard", "QUEUED", offered=6.0),
    "a delivery that ends": lambda s: deliveries.upsert(s, 1, "gate", "SUCCEEDED"),
    "one that is unwell": lambda s: deliveries.upsert(s, 1, "gate", "IN_PROGRESS", unwell="slow"),
    "a delivery that is forgotten": lambda s: s.execute("delete from delivery"),
    "a release": lambda s: releases.add(
        s, number=2, name="m", candidate=None, sha256=NEXT, size=9, target="m/2.onnx", classes=("a",)
    ),
    "its state": lambda s: releases.set_state(s, 1, "paused", actor="Ada"),
    "its rules": lambda s: releases.set_rules(s, 1, {"wait_s": 1}),
    "a block": lambda s: blocked.add(s, "c" * 64, release=1, reason="bad", author="Ada"),
    "a block taken back": lambda s: blocked.remove(s, NEXT, "Ada"),
    "a request": lambda s: requests.add(s, "rollback", {"to": 1}, "Ada"),
}  # fmt: skip
NO_CHANGES = {
    "a frame": lambda s: cameras.seen(s, "gate", 1e10, stored=True),
    "the same state": lambda s: cameras.set_online(s, "gate", True),
    "progress of a download": lambda s: cameras.set_reported(s, "gate", reported(0.5)),
    "progress in its row": lambda s: deliveries.upsert(s, 1, "gate", "IN_PROGRESS", progress=0.5),
    "figures": lambda s: cameras.set_stats(s, "gate", CameraStats(1.0, 8.0, 9.0, {}, 1, 2, 3)),
    "a greeting": lambda s: cameras.set_info(s, "gate", CameraInfo("c", "1.0", "generic", (), 1, RUNS, "m", 1, 2.5, 9)),
    "a counter": lambda s: counters.bump(s, "frames_in"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_once(stirred, store, what):
    before = stirred.look()
    CHANGES[what](store)
    after = stirred.look()
    assert after != before
    assert stirred.look() == after


@pytest.mark.parametrize("what", NO_CHANGES)
def test_the_control_what_cameras_say_all_the_time_is_none(stirred, store, what):
    before = stirred.look()
    NO_CHANGES[what](store)
    assert stirred.look() == before


def test_a_change_by_another_process_is_seen(stirred, store):
    before = stirred.look()
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    command = [sys.executable, "-c", code, str(store.path), "update release set state = 'paused'"]
    subprocess.run(command, check=True, timeout=60)
    after = stirred.look()
    assert after != before
    assert stirred.look() == after


def test_a_new_connection_counts_as_a_change_and_goes_on_counting(stirred, store):
    before = stirred.look()
    store.reopen()
    opened = stirred.look()
    assert opened != before
    releases.set_state(store, 1, "paused")
    assert stirred.look() != opened


@pytest.mark.parametrize("at", ["create temp table", "insert into temp", "create temp trigger"])
def test_a_disk_that_fails_while_counting_begins_leaves_no_trigger_without_its_table(stirred, store, monkeypatch, at):
    store.reopen()
    run = Store._run

    def failing(self, sql, params=()):
        done = run(self, sql, params)
        if sql.startswith(at):
            self._suspect = True  # as after a sync that failed in another thread: the next one gets a new connection
        return done

    monkeypatch.setattr(Store, "_run", failing)
    stirred.look()
    monkeypatch.undo()
    before = stirred.look()
    releases.set_state(store, 1, "paused")
    assert stirred.look() != before


def test_what_was_rolled_back_leaves_nothing_uncounted(stirred, store):
    before = stirred.look()
    with suppress(RuntimeError), store.transaction():
        releases.set_state(store, 1, "paused")
        raise RuntimeError
    releases.set_state(store, 1, "paused")
    assert stirred.look() != before


def test_the_catalogue_holds_nothing_of_it(stirred, store):
    with sqlite3.connect(store.path) as other:
        assert other.execute("select count(*) from sqlite_master where name like 'stirred%'").fetchone()[0] == 0
    other.close()
