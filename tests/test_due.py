"""When a cycle is due, and what is waited for: a table of rows, rules and moments."""

from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import due
from edged.due import Drifting, Due, Facts, Rules, decide, within

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0
BERLIN = ZoneInfo("Europe/Berlin")
RULES = Rules(new_labels=300)
DRIFT = (Drifting("yard", NOON - HOUR, "confidence"),)


def at(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def test_nothing_is_due_without_labels_and_what_is_missing_is_said():
    assert decide(Facts(new=12), RULES, NOON) == Due(waits="waits for 288 more human labels (12 of 300)")


def test_enough_labels_are_a_reason():
    assert decide(Facts(new=300), RULES, NOON).why == "300 new human labels"


def test_asked_for_comes_before_everything_that_holds_back():
    facts = Facts(asked=("ann",), failures=3, ended=NOON - 1, started=NOON - 2)
    assert decide(facts, replace(RULES, hours="22:00-05:00"), NOON, UTC).why == "asked for by ann"


def test_an_interrupted_cycle_goes_on_at_any_hour():
    assert decide(Facts(running=True), replace(RULES, hours="22:00-05:00"), NOON, UTC).why == "interrupted before"


def test_a_cycle_that_is_at_work_is_not_due_and_who_waits_behind_it_is_said():
    found = decide(Facts(running=True, at_work="cycle 3: train", asked=("bob",)), Rules(), 0.0)
    assert (found.why, found.waits) == ("", "")
    assert found.told == "a cycle runs: cycle 3: train; then the one asked for by bob"


def test_quiet_hours_hold_back_and_say_so():
    rules, facts = replace(RULES, hours="22:00-05:00"), Facts(new=312, since_last=312)
    assert decide(facts, rules, NOON, UTC).waits == "waits for 22:00: 312 new human labels"
    assert decide(facts, rules, at("2026-11-21T22:00"), UTC).why == "312 new human labels"


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("22:00-05:00", ("22:00", "23:59", "00:00", "04:59"), ("05:00", "12:00", "21:59")),
        ("01:30-04:00", ("01:30", "03:59"), ("01:29", "04:00", "23:00")),
        ("00:00-00:00", ("00:00", "12:34"), ()),
        ("", ("12:00",), ()),
    ],
)
def test_windows_by_day_and_over_midnight(hours, inside, outside):
    assert [t for t in (*inside, *outside) if within(hours, at(f"2026-11-21T{t}"), UTC)] == list(inside)


@pytest.mark.parametrize(
    ("night", "hours", "minutes"),
    [
        ("2026-03-28", "22:00-05:00", 360),  # the clock is put forward: an hour is missing
        ("2026-10-24", "22:00-05:00", 480),  # put back: an hour comes twice
        ("2026-03-28", "02:00-03:00", 0),  # there is no such hour that night; the next one has it
        ("2026-10-24", "02:00-03:00", 120),
        ("2026-06-01", "22:00-05:00", 420),
    ],
)
def test_the_hours_are_those_on_the_wall_when_the_clocks_change(night, hours, minutes):
    noon = at(f"{night}T12:00", BERLIN)
    assert sum(within(hours, noon + 60 * i, BERLIN) for i in range(24 * 60)) == minutes


def test_drift_is_a_reason_once_per_alarm():
    assert decide(Facts(drifting=DRIFT), RULES, NOON).why == "drift at yard"
    tried = Facts(drifting=DRIFT, started=NOON - 60, ended=NOON - 30)
    assert decide(tried, RULES, NOON).waits == (
        "waits for 75 more human labels (0 of 75); drift at yard was tried on already"
    )
    again = replace(tried, drifting=(*DRIFT, Drifting("gate", NOON - 1)))
    assert decide(again, RULES, NOON).why == "drift at gate"
    assert decide(Facts(drifting=DRIFT), replace(RULES, on_drift=False), NOON).waits.startswith("waits for 300 more")


def test_drift_does_not_begin_a_cycle_on_labels_that_none_can_train_on():
    lacking = "no labelled crop in the train split shows: busy"
    tried = Facts(drifting=DRIFT, against=lacking, started=NOON - 2 * HOUR, ended=NOON - 2 * HOUR)
    assert decide(tried, RULES, NOON) == Due(waits=f"waits for a new label: {lacking}; drift at yard")
    assert decide(replace(tried, against=""), RULES, NOON).why == "drift at yard"  # the control
    assert decide(replace(tried, new=1, since_last=1), RULES, NOON).why == "drift at yard, 1 new human label"
    assert decide(replace(tried, asked=("ann",)), RULES, NOON).why == "asked for by ann"


def test_a_cycle_that_was_asked_for_too_early_takes_nothing_off_the_count():
    lacking = "too few labelled crops to train on: 12 of at least 40"
    early = Facts(new=12, against=lacking, started=NOON - 2 * HOUR, ended=NOON - 2 * HOUR)
    assert decide(early, RULES, NOON).waits == "waits for 288 more human labels (12 of 300)"
    assert decide(replace(early, new=299, since_last=287), RULES, NOON).waits.startswith("waits for 1 more")
    assert decide(replace(early, new=300, since_last=288), RULES, NOON).why == "300 new human labels"


def test_labels_that_were_enough_but_let_no_cycle_begin_wait_for_a_few_more():
    lacking = "no labelled crop in the train split shows: busy"
    tried = Facts(new=300, against=lacking, started=NOON - 2 * HOUR, ended=NOON - 2 * HOUR)
    assert decide(tried, RULES, NOON).waits == f"waits for 75 more human labels than the last cycle had: {lacking}"
    assert decide(replace(tried, new=374, since_last=74), RULES, NOON).waits.startswith("waits for 1 more")
    assert decide(replace(tried, new=375, since_last=75), RULES, NOON).why == "375 new human labels"
    hourly = replace(RULES, every_s=HOUR)
    assert "waits for 75 more" in decide(tried, hourly, NOON).waits
    assert decide(replace(tried, new=301, since_last=1), hourly, NOON).why.startswith("1 h since the last cycle")


def test_while_drift_stands_fewer_labels_are_enough():
    tried = Facts(drifting=DRIFT, started=NOON - 60, ended=NOON - 30, new=75, since_last=75)
    assert decide(tried, RULES, NOON).why == "75 new human labels and drift at yard"
    assert due.enough(tried, Rules(new_labels=10)) == 10
    assert due.enough(tried, Rules(new_labels=40)) == due.FEWEST


def test_hours_need_a_new_label():
    rules, last = replace(RULES, every_s=24 * HOUR), Facts(started=NOON - 25 * HOUR, ended=NOON - 25 * HOUR)
    assert decide(last, rules, NOON).waits == "waits for 300 more human labels (0 of 300)"
    assert decide(replace(last, new=1), rules, NOON).why == "24 h since the last cycle, 1 new human label"
    assert not decide(replace(last, new=1, started=NOON - HOUR), rules, NOON).why


def test_after_a_failure_the_same_labels_wait_longer_and_longer_and_then_for_a_new_one():
    facts = Facts(new=300, started=NOON - 60, ended=NOON, failures=1)
    waited = []
    for failures in range(1, due.MOST_FAILURES):
        failed = replace(facts, failures=failures)
        hours = 2 ** (failures - 1)
        assert (
            "since the last cycle failed: 300 new human labels" in decide(failed, RULES, NOON + hours * HOUR - 1).waits
        )
        assert decide(failed, RULES, NOON + hours * HOUR).why == "300 new human labels"
        waited.append(hours)
    assert waited == [1, 2, 4, 8]
    given_up = replace(facts, failures=due.MOST_FAILURES)
    assert decide(given_up, RULES, NOON + 1000 * HOUR).waits == (
        "waits for a new label: the last 5 cycles failed (300 new human labels)"
    )
    assert decide(replace(given_up, since_last=1), RULES, NOON + 1000 * HOUR).why == "300 new human labels"


def test_a_clock_that_was_set_back_holds_nothing_up():
    far = NOON + 365 * 24 * HOUR
    assert decide(Facts(new=300, started=far, ended=far, failures=2), RULES, NOON).why == "300 new human labels"
    assert decide(Facts(new=1, started=far, ended=far), replace(RULES, every_s=HOUR), NOON).why.startswith("1 h since")


@given(
    st.builds(
        Facts, running=st.booleans(), asked=st.lists(st.text(min_size=1), max_size=2), new=st.integers(0, 400),
        since_last=st.integers(0, 400), started=st.floats(0, 2 * NOON), ended=st.floats(0, 2 * NOON),
        failures=st.integers(0, 60), drifting=st.lists(st.builds(Drifting, camera=st.text(max_size=3), since=st.floats(0, NOON))),
    ),
    st.builds(
        Rules, new_labels=st.integers(1, 400), on_drift=st.booleans(), every_s=st.floats(0, 1e6),
        hours=st.sampled_from(["", "22:00-05:00", "05:00-22:00", "00:00-00:00"]),
    ),
)  # fmt: skip
def test_there_is_a_reason_or_something_is_waited_for(facts, rules):
    found = decide(facts, rules, NOON, UTC)
    assert bool(found.why) != bool(found.waits)
    if facts.asked or facts.running:
        assert found.why
