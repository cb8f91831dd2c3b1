"""Light cameras over mutual TLS: all get a release, late ones and those whose cable was cut too, and nothing twice.

The long form (1,000 cameras, both brokers) is `python -m bench.fleet --only crowd`.
"""

import pytest

from bench import fleet
from bench.fleets.place import HARDWARE, Place
from bench.fleets.throng import Throng
from edged.clock import stopwatch
from edged.storage import alarms, deliveries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CAMERAS = 12


@pytest.mark.parametrize("broker", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_everybody_gets_a_release_whoever_came_late_or_was_cut_off(broker):
    (told,) = fleet.crowd(broker, CAMERAS, 100, [fleet.Step("all", trouble=frozenset({fleet.LATE, fleet.CUT}))])[
        "releases"
    ]
    assert told["complete"] == CAMERAS, told
    assert told["box"] == {"SUCCEEDED": CAMERAS}, told
    assert (told["late"], told["cut_off"]) == (1, 1), told
    assert 0 < told["bytes_a_camera"] <= told["file_bytes"], told  # nothing was kept twice
    # the canary's, the step's, what the late one and the cut one ask for once more: never a copy for each camera
    assert told["copies_published"] < CAMERAS / 2, told


def test_the_control_a_crowd_for_other_hardware_takes_nothing(tmp_path, monkeypatch):
    names = ["c-1", "c-2"]
    with Place(tmp_path, names, rollout={"wait_s": 0.1, "timeout_s": 60}) as place, Throng(place) as throng:
        assert throng.connect(names) == 2
        monkeypatch.setattr("bench.fleets.place.HARDWARE", f"not-{HARDWARE}")
        number = place.publish(fleet.padded(1, 50))
        end = stopwatch() + 60
        while not place.do(lambda: alarms.stands(place.store, alarms.FITS_NOBODY)):
            assert stopwatch() < end
            place.clock.sleep(0.1)
        assert place.do(lambda: deliveries.of(place.store, number)) == []
        assert throng.complete(number, 1, 1) == []
        assert place.counter("bytes:chunks_out") == 0
