import pytest

from edged.storage import alarms, forecast, retention
from edged.storage.retention import Limits, Rules

GB = 10**9
DAY = 86400.0
NOW = 1_795_262_400.0
HOUR = int(NOW // 3600)


def test_the_rate_is_of_the_last_seven_days_or_of_all_there_is():
    assert forecast.per_day({}, NOW) == 0
    assert forecast.per_day({h: 10 for h in range(HOUR - 1000, HOUR + 1)}, NOW) == pytest.approx(240, rel=0.01)
    young = {HOUR - 1: 100, HOUR: 0}  # began an hour ago
    assert forecast.per_day(young, NOW) == pytest.approx(2400)
    assert forecast.per_day({HOUR: 50}, NOW + 60) == pytest.approx(1200)  # of the first minute: as of an hour
    assert forecast.per_day({HOUR + 90000: 10**9}, NOW) == 0  # a clock that was ahead
    quiet = {HOUR - 24 * 30: 5, HOUR: 168}
    assert forecast.per_day(quiet, NOW + 1800) == pytest.approx(24, rel=0.01)


@pytest.mark.parametrize(
    ("used", "limit", "rate", "days", "disk", "expected"),
    [
        (10 * GB, 40 * GB, 2 * GB, 30, None, (15, "size", "full in 15 days")),
        (39 * GB, 40 * GB, 2 * GB, 30, None, (0.5, "size", "full in 12 hours")),
        (40 * GB, 40 * GB, 2 * GB, 30, None, (0, "size", "full: the oldest goes for the newest")),
        (10 * GB, 40 * GB, GB, 30, None, (None, "age", "not before age takes as much as comes in")),
        (10 * GB, 40 * GB, 0, 30, None, (None, "nothing", "nothing comes in")),
        (10 * GB, 0, GB, 30, None, (None, "age", "not before age takes as much as comes in")),
        (10 * GB, 40 * GB, 2 * GB, 30, 4 * GB, (2, "disk", "full in 2 days (the disk, not the limit)")),
        (10 * GB, 0, 2 * GB, 30, 20 * GB, (10, "disk", "full in 10 days (the disk, not the limit)")),
        (10 * GB, 40 * GB, 2 * GB, 30, 300 * GB, (15, "size", "full in 15 days")),
        (10 * GB, 0, 0, 30, None, (None, "nothing", "nothing comes in")),
    ],
)
def test_what_limits_first_is_said(used, limit, rate, days, disk, expected):
    found = forecast.full("gate", used, limit, rate, days * DAY, disk)
    assert (found.days, found.first, found.told) == expected


def test_each_camera_has_its_own_forecast_by_its_own_limit(store, add, clock):
    for n in range(4):
        add(store, n, camera="gate")
        add(store, n, camera="yard")
        clock.at += 6 * 3600
    used = retention.used(store)["yard"]
    rules = Rules(40 * GB, 30 * DAY, cameras={"yard": Limits(max_bytes=2 * used)})
    together, gate, yard = forecast.of(store, rules, clock.now())
    assert (together.camera, together.used) == ("", 2 * used)
    assert (gate.limit, gate.days) == (0, None)
    assert yard.days == pytest.approx(1, rel=0.1)
    assert together.per_day == pytest.approx(gate.per_day + yard.per_day)


def test_in_the_first_hour_it_is_too_early_to_say_and_a_full_disk_is_no_round_trip(store, add, clock):
    add(store, 1)
    rules = Rules(40 * GB, 30 * DAY)
    assert [(f.per_day, f.told) for f in forecast.of(store, rules, clock.now() + 60)] == [
        (None, "too early to say")
    ] * 2
    assert forecast.of(store, rules, clock.now() + 2 * 3600)[0].per_day > 0
    alarms.sound(store, alarms.DISK_FULL, "no room")
    assert forecast.of(store, rules, clock.now())[0].told == "nothing can be stored: the disk is full"
