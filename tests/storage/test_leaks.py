"""What was planted and what of it was hidden."""

import pytest

from edged.privacy.sizes import SIZES
from edged.storage import alarms, audit, counters, leaks
from edged.storage.leaks import Observed


def face(hidden=True, size="large", easy=False):
    return Observed("face", size, 80.0, easy, 1.0 if hidden else 0.2, hidden)


def test_before_anything_was_planted_nothing_is_claimed(store):
    known = leaks.measure(store)
    assert (known.last, known.unjudged, known.alarms) == (None, {}, ())
    assert {(r.kind, r.size) for r in known.recalls} == {(k, s) for k in SIZES for s in SIZES[k]}
    assert {(r.n, r.share, r.lower, r.upper) for r in known.recalls} == {(0, None, 0.0, 1.0)}


def test_recall_stands_on_the_newest_of_each_kind_and_size(store):
    for hidden in (False, False, True, True, True, True, False):
        leaks.add(store, 1, [face(hidden), face(size="small")])
    found = {(r.kind, r.size): r for r in leaks.recalls(store)}
    assert leaks.newest(store, "face", "large", limit=5) == [False, True, True, True, True]
    assert (found["face", "small"].hidden, found["face", "small"].n) == (7, 7)
    assert found["face", "large"].share == pytest.approx(4 / 7)
    assert found["face", "large"].lower < 4 / 7 < found["face", "large"].upper


def test_a_picture_that_came_to_nothing_counts_apart(store, clock):
    leaks.add(store, 1, [face()])
    clock.sleep(5)
    leaks.add_unjudged(store, 2, "timeout")
    known = leaks.measure(store)
    assert known.unjudged == {"timeout": 1}
    assert {r.n for r in known.recalls if (r.kind, r.size) == ("face", "large")} == {1}
    assert known.last == clock.now() - 5
    assert leaks.last(store).seed == 2
    assert leaks.last(store, judged=True).seed == 1
    assert counters.all(store) == {
        "planted:face:large": 1, "planted_hidden:face:large": 1, "planted_unjudged:timeout": 1,
    }  # fmt: skip


def test_the_table_is_bounded_and_the_counters_go_on(store, monkeypatch):
    monkeypatch.setattr(leaks, "KEPT", 10)
    for seed in range(30):
        leaks.add(store, seed, [face()])
    assert store.value("select count(*) from planted") == 10
    assert leaks.last(store).seed == 29
    assert counters.get(store, "planted:face:large") == 30


def test_only_what_came_later_counts_after_an_alarm_was_cleared(store, clock):
    leaks.add(store, 1, [face(False, easy=True)])
    alarms.sound(store, "privacy_leak", "a face leaked")
    clock.sleep(1)
    alarms.clear(store, "privacy_leak")
    clock.sleep(1)
    leaks.add(store, 2, [face(True, easy=True)])
    after = alarms.last_cleared(store, "privacy_leak")
    assert leaks.newest(store, "face", "large", after) == [True]
    assert leaks.newest_easy(store, "face", after) == [True]
    assert leaks.newest_easy(store, "face") == [True, False]


def test_an_alarm_stands_once_since_its_beginning_and_both_its_ends_are_audited(store, clock):
    began = clock.now()
    assert alarms.sound(store, "privacy_leak", "one")
    clock.sleep(60)
    assert not alarms.sound(store, "privacy_leak", "two")
    assert alarms.standing(store) == [alarms.Alarm("privacy_leak", "two", began)]
    assert alarms.clear(store, "privacy_leak")
    assert not alarms.clear(store, "privacy_leak")
    assert alarms.standing(store) == []
    assert alarms.last_cleared(store, "privacy_leak") == clock.now()
    assert [(e.act, e.subject) for e in audit.rows(store)] == [
        ("alarm.cleared", "privacy_leak"), ("alarm.raised", "privacy_leak"),
    ]  # fmt: skip
    assert alarms.sound(store, "privacy_leak", "again")
