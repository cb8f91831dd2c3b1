"""What a camera says of its own speed, as the box takes it: kept for its device, refused in words, never at length."""

import math

import msgspec
import pytest

from edged.admit import Limits
from edged.engine import probe
from edged.errors import Refused
from edged.retrain import calibrated, latency
from edged.storage import audit, calibrations, counters
from edged.wire import messages
from edged.wire.messages import CameraInfo, Probed, Timed
from tests.test_flood import House

ATOM = "Intel(R) Atom(TM) Processor E3940 @ 1.60GHz"


def probed(processor=ATOM, **more) -> Probed:
    """Times as a processor of 4 thousand million multiply-adds and bytes a second would need."""
    timed = tuple(
        Timed(name, 0.01 + sum(c.macs / 4e6 + c.bytes / 4e6 for c in asked), 0.1)
        for name, asked in probe.costs().items()
    )
    given = Probed(probe.SUITE, processor, "x86_64", 4, "openvino", "2026.3.1", ("sse4_2",), {}, 3.0, timed)
    return msgspec.structs.replace(given, **more)


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path / "site", Limits())
    yield made
    made.close()


def hear(house, payload, camera="gate"):
    house.say(camera, "probe", payload)
    house.step(2)


def test_a_cameras_probe_becomes_the_calibration_of_its_device(house):
    payload = messages.encode(probed())
    assert len(payload) < 16_384
    hear(house, payload)
    kept = calibrations.newest(house.store, "atom-x5-e3940")
    assert (kept.camera, kept.author, kept.processor, kept.runtime) == ("gate", "camera gate", ATOM, "openvino")
    entry = audit.rows(house.store)[0]
    assert (entry.actor, entry.act) == ("camera gate", "calibration.add")
    found = latency.decode(calibrated.known(house.store, "atom-x5-e3940"))
    assert found.author == "camera gate"
    assert all(math.isfinite(v) and v < 0.2 for v in found.error.values())


@pytest.mark.parametrize(
    ("hardware", "device"), [("kamera-7", "kamera-7"), ("generic", "camera-gate"), ("", "camera-gate")]
)
def test_an_unknown_processor_is_kept_under_what_the_camera_is_called(house, hardware, device):
    house.say_signed("gate", "info", messages.encode(CameraInfo("b", "1", hardware, (), 1)))
    hear(house, messages.encode(probed("Imaginary 9000")))
    assert calibrations.all(house.store)[0].device == device


HOSTILE = [
    b"{}", b"[" * 60_000, b"\xff\xfe", b"null", b'{"suite": 1}', b"x" * 100_000,
    messages.encode(probed(suite=2)),
    messages.encode(probed(probes=(Timed("conv3 16x112 float32", 1.0, 0.0),))),
    messages.encode(probed(probes=(Timed("no such probe", 1.0, 0.0),) * 50)),
    messages.encode(probed("a\x1b[31m")),
    messages.encode(probed("x" * 121)),
    messages.encode(probed(scaling=1e9)),
    messages.encode(probed(cores=0)),
    messages.encode(probed(probes=(Timed("conv3 16x112 float32", -1.0, 0.0),))),
]  # fmt: skip


@pytest.mark.parametrize("payload", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_content_is_refused_and_nothing_is_kept(house, payload):
    hear(house, payload)
    assert calibrations.all(house.store, retired=True) == []
    house.box._write_totals()
    assert sum(n for name, n in counters.all(house.store).items() if name.startswith("refused:")) == 1


def test_a_camera_that_sends_over_and_over_costs_two_fits_in_twenty_minutes(house, monkeypatch):
    fits = []
    monkeypatch.setattr(calibrated, "receive", lambda store, camera, payload, hw: fits.append(camera) or _refuse())
    for _ in range(50):
        house.say("flood", "probe", b"{}")
    house.step(10)
    assert fits == ["flood"] * 2


def _refuse():
    raise Refused("unfit")


def test_a_second_one_within_the_hour_is_refused_and_an_hour_later_taken(house):
    hear(house, messages.encode(probed()))
    house.clock.sleep(calibrations.EVERY_S / 2)
    hear(house, messages.encode(probed()))
    assert len(calibrations.all(house.store)) == 1
    house.clock.sleep(calibrations.EVERY_S)
    hear(house, messages.encode(probed()))
    assert len(calibrations.all(house.store)) == 2


def test_a_runs_own_claim_does_not_count_before_what_a_person_brought(house):
    brought = calibrated.keep(house.store, "atom-x5-e3940", probed(), author="ann")
    house.clock.sleep(10)
    hear(house, messages.encode(probed()))
    assert calibrations.newest(house.store, "atom-x5-e3940") == brought
    calibrations.retire(house.store, brought.id, "ann")
    assert calibrations.newest(house.store, "atom-x5-e3940").camera == "gate"
    with pytest.raises(Refused, match="retired before"):
        calibrations.retire(house.store, brought.id, "ann")
    assert audit.verify(house.store)
