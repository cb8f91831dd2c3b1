"""Calibrations: kept with their audit, the newest of a device found, sizes and names bounded."""

import pytest

from edged.errors import Refused
from edged.storage import audit, calibrations


def add(store, device="atom", body="{}", author="ann", runtime="openvino", camera=""):
    return calibrations.add(
        store, device, body, processor="E3940", runtime=runtime, author=author, camera=camera
    )  # fmt: skip


def test_each_arrival_and_each_retirement_is_on_record(store):
    kept = add(store)
    assert calibrations.get(store, kept.id) == kept
    calibrations.retire(store, kept.id, "bob")
    assert [(e.actor, e.act) for e in audit.rows(store)][:2] == [
        ("bob", "calibration.retire"),
        ("ann", "calibration.add"),
    ]
    assert calibrations.newest(store, "atom") is None
    assert calibrations.all(store) == []
    assert [c.id for c in calibrations.all(store, retired=True)] == [kept.id]


def test_the_newest_of_a_device_and_a_runtime(store, clock):
    first = add(store)
    clock.at += 5
    second = add(store, runtime="onnxruntime")
    add(store, "other")
    assert calibrations.newest(store, "atom") == second
    assert calibrations.newest(store, "atom", "openvino") == first
    assert calibrations.newest(store, "nowhere") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": ""}, "a name of 1 to 120"),
        ({"device": "a\x1bb"}, "printable"),
        ({"body": "x" * 70_000}, "too large"),
    ],
)
def test_what_is_too_long_or_has_no_name_is_refused(store, given, words):
    with pytest.raises(Refused, match=words):
        add(store, **given)
    assert calibrations.all(store) == []


def test_a_camera_has_its_limits_and_a_person_has_none(store, clock, monkeypatch):
    monkeypatch.setattr(calibrations, "MOST", 2)
    add(store, camera="gate")
    with pytest.raises(Refused, match="less than an hour ago"):
        add(store, camera="gate")
    add(store, camera="yard")
    clock.at += 2 * calibrations.EVERY_S
    add(store, camera="gate")
    clock.at += 2 * calibrations.EVERY_S
    with pytest.raises(Refused, match="has sent 2 calibrations"):
        add(store, camera="gate")
    for _ in range(3):
        add(store)


def test_no_such_calibration(store):
    with pytest.raises(Refused, match="no calibration 7"):
        calibrations.get(store, 7)
