"""Damage to the catalogue of an idle box is found, a sound one in use is left alone."""

import os
import threading

import pytest

from edged.errors import Corrupt
from edged.storage import alarms, counters
from edged.storage.patrol import Patrol


def test_a_sound_catalogue_that_is_being_written_is_left_alone(store):
    patrol, stop = Patrol(store.path), threading.Event()

    def write():
        while not stop.is_set():
            counters.bump_all(store, {"frames_in": 1})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(patrol.step() for _ in range(5))
    finally:
        stop.set()
        writer.join()


def test_tables_are_looked_at_in_turn_when_time_is_short(store):
    patrol = Patrol(store.path, budget_s=0.0)
    assert patrol.step() == 0
    patrol._budget_s = 30.0
    assert patrol.step() == len(store.rows("select 1 from sqlite_schema where type = 'table'"))


@pytest.mark.parametrize("at", [0, 1, 2, 5, -1])
def test_a_page_that_was_overwritten_ends_the_daemon(store, at):
    alarms.sound(store, "disk_full", "x")
    store.value("pragma wal_checkpoint(truncate)")
    pages = sorted(r[0] for r in store.rows("select rootpage from sqlite_schema where type = 'table' and rootpage > 1"))
    page = 1 if at == 0 else pages[at]
    with store.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    heard = []
    Patrol(store.path).forever(threading.Event(), heard.append, every_s=0.0)
    assert isinstance(heard[0], Corrupt)
