"""The verdict: what makes it, in which order, and that it does not change while nothing does."""

import pytest

from edged import health
from edged.health import ClockWatch, Facts, Heard, judge, look
from edged.storage import alarms, cameras, gauges
from edged.storage.alarms import Alarm
from edged.storage.gaps import Missing
from edged.storage.gauges import Gauge
from edged.storage.store import Store
from tests.site import FakeClock

AT = 1_800_000_000.0
DAY = 86400.0


def heard(name="gate", online=True, last_seen=AT, last_frame=AT, first_seen=AT - DAY):
    return Heard(name, online, first_seen, last_seen, last_frame)


def running(**values):
    """The daemon's figures, ten seconds old."""
    return {name: Gauge(value, AT - 10) for name, value in ({"daemon_threads": 9.0} | values).items()}


def codes(facts):
    return [r.code for r in judge(facts).reasons]


def test_nothing_is_wrong_with_a_new_box_nor_with_one_at_work():
    assert judge(Facts(AT)).document() == {"verdict": "ok", "reasons": []}
    assert judge(Facts(AT, cameras=[heard()], gauges=running(beat_ts=AT - 12))).verdict == "ok"


@pytest.mark.parametrize(
    ("code", "facts"),
    [
        ("camera_offline", Facts(AT, cameras=[heard(), heard("yard", online=False)])),
        ("camera_revoked", Facts(AT, cameras=[heard(), heard("yard", online=False)], revoked={"yard": AT - 9})),
        ("camera_silent", Facts(AT, cameras=[heard(last_seen=AT - 400)])),
        ("camera_silent", Facts(AT, cameras=[heard(last_frame=AT - DAY - 1)])),
        ("frames_missing", Facts(AT, missing={"gate": Missing(3, AT - 100)})),
        ("daemon_down", Facts(AT, runs=False)),  # it never ran, too
        ("daemon_down", Facts(AT, gauges=running(), runs=False)),
        ("daemon_away", Facts(AT, gauges={"daemon_threads": Gauge(9.0, AT - 100)})),
        ("broker_away", Facts(AT, gauges=running(cable_down_ts=AT - 100))),
        ("broker_mute", Facts(AT, gauges=running(cable_silent=1))),
        ("beat_missed", Facts(AT, gauges=running(beat_ts=AT - 100))),
        ("queue_stuck", Facts(AT, gauges=running(queue_age_s=61))),
        ("full_soon", Facts(AT, gauges=running(full_in_days=0.5))),
        ("backup_none", Facts(AT, cameras=[heard(first_seen=AT - 8 * DAY)])),
        ("backup_old", Facts(AT, cameras=[heard()], gauges={"backup_ts": Gauge(AT - 8 * DAY, AT)})),
        *((code, Facts(AT, alarms=[Alarm(code, "said", AT)])) for code in (*alarms.CODES, "clock_wrong", "disk_full")),
    ],
)  # fmt: skip
def test_each_trouble_is_a_reason_with_a_hint(code, facts):
    found = judge(facts)
    (reason,) = found.reasons
    assert reason.code == code
    assert reason.hint
    assert found.verdict == health.KNOWN[code][0] != "ok"


def test_cameras_that_never_sent_a_picture_or_sent_one_today_are_not_silent():
    assert codes(Facts(AT, cameras=[heard(last_frame=None), heard("b", last_frame=AT - 3600)])) == []


def test_what_fails_stands_before_what_degrades():
    facts = Facts(
        AT, alarms=[Alarm("privacy_unmeasured", "x", AT), Alarm("disk_full", "y", AT), Alarm("privacy_leak", "z", AT)],
        cameras=[heard(online=False)],
    )  # fmt: skip
    assert codes(facts) == ["privacy_leak", "disk_full", "privacy_unmeasured", "camera_offline"]
    assert judge(facts).verdict == "failed"


def test_an_alarm_of_a_code_that_is_not_known_here_degrades():
    assert judge(Facts(AT, alarms=[Alarm("new", "something", AT)])).verdict == "degraded"


def test_a_verdict_stays_the_same_to_the_byte_while_time_passes():
    """It is retained at the broker: one that names ages would be published all day."""

    def told(at):
        gauged = {n: Gauge(g.value, at - 10) for n, g in running(cable_down_ts=AT - 100, full_in_days=1.2).items()}
        return judge(Facts(at, cameras=[heard(online=False)], missing={"a": Missing(2, AT - 90)}, gauges=gauged))

    assert [r.code for r in told(AT).reasons] == [r.code for r in told(AT + 30).reasons]
    assert [(r.text, r.code) for r in told(AT).reasons] == [(r.text, r.code) for r in told(AT + 30).reasons]


def test_the_daemon_does_not_say_of_itself_that_it_is_away():
    stale = {"daemon_threads": Gauge(9.0, AT - 10 * DAY)}
    assert codes(Facts(AT, gauges=stale)) == ["daemon_away"]
    assert codes(Facts(AT, gauges=stale, daemon=True)) == []


def test_many_cameras_are_one_reason():
    facts = Facts(AT, cameras=[heard(f"cam-{i:02}", online=False) for i in range(30)])
    (reason,) = judge(facts).reasons
    assert reason.text == "cam-00, cam-01, cam-02, cam-03, cam-04 and 25 more are offline"


def test_facts_come_from_rows(tmp_path):
    clock = FakeClock()
    with Store.open(tmp_path / "site", clock=clock, site_key=bytes(range(32))) as store:
        assert judge(look(store, clock.now())).verdict == "ok"
        cameras.set_online(store, "gate", True)
        cameras.set_online(store, "gate", False)
        alarms.sound(store, "disk_full", "the disk is full")
        gauges.put(store, {"daemon_threads": 9.0})
        clock.sleep(100)
        assert codes(look(store, clock.now())) == ["disk_full", "daemon_away", "camera_offline"]


def test_a_clock_that_is_set_by_days_is_told_for_a_day_and_by_hours_is_not():
    watch = ClockWatch(AT, 1000.0)
    assert watch.step(AT + 60, 1060.0) == ("", "")
    assert watch.step(AT + 7200, 1060.0) == ("", "")
    code, text = watch.step(AT + 3650 * DAY, 1061.0)
    assert (code, text) == ("clock_stepped", "the clock was set forward by 3650 days")
    assert watch.step(AT + 3650 * DAY + 3600, 4661.0) == (code, text)
    assert watch.step(AT + 3651 * DAY + 1, 1062.0 + DAY) == ("", "")


def test_a_step_that_is_undone_is_told_no_more():
    watch = ClockWatch(AT, 1000.0)
    assert watch.step(AT - 30 * DAY, 1001.0)[0] == "clock_stepped"
    assert watch.step(AT + 2, 1002.0) == ("", "")


def test_a_clock_that_says_1970_is_wrong_until_it_is_set():
    watch = ClockWatch(100.0, 50.0)
    assert watch.step(101.0, 51.0) == ("clock_wrong", "the clock says 1970-01-01, which is long ago")
    assert watch.step(AT, 60.0)[0] == "clock_stepped"


def test_a_clock_that_went_back_while_the_box_was_off_is_told():
    watch = ClockWatch(AT, 5.0, newest=AT + 30 * DAY)
    assert watch.step(AT + 1, 6.0) == (
        "clock_stepped",
        "the clock says 2027-01-15, at the last run it said 2027-02-14",
    )
    assert ClockWatch(AT, 5.0, newest=AT - 30 * DAY).step(AT + 1, 6.0) == ("", "")


def test_what_is_retained_has_code_text_since_and_hint():
    said = judge(Facts(AT, alarms=[Alarm("disk_full", "the disk is full", 60.0)])).encode()
    assert said == (
        b'{"verdict":"failed","reasons":[{"code":"disk_full","text":"the disk is full",'
        b'"since":"1970-01-01T00:01:00.000Z","hint":"free space on the disk; the text says which limit it is"}]}'
    )
