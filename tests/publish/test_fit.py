"""Whom a release is not offered is whom it would be refused by: the box's answer beside the camera's own."""

import itertools
from types import SimpleNamespace

import pytest

from agent import offer
from edged.errors import Refused
from edged.publish import fit
from edged.wire.messages import CameraInfo, Desired

CLASSES = ("a", "b")


def camera_refuses(info, row):
    """Whether the camera would, by its own check of what is signed."""
    custom = offer.Custom(
        7, row.name, row.classes, 32, row.hardware, row.min_agent, 16384, ("0" * 64,), {}, (), None,
    )  # fmt: skip
    answer = SimpleNamespace(logits=((0.0,) * len(row.classes),), px=32)
    desired = Desired("release-7", row.name, 7, f"{row.name}/7.onnx", "0" * 64)
    try:
        offer.check(
            offer.Offer(custom, "0" * 64, row.size, answer), desired, running=None, hardware=info.hw, agent=info.agent,
            max_bytes=info.most_bytes or offer.MAX_MODEL_BYTES, name=info.takes, classes=info.classes,
        )  # fmt: skip
    except Refused:
        return True
    return False


def test_the_box_and_the_camera_say_the_same_of_every_pair():
    found = []
    for hw, agent, takes, classes, most in itertools.product(
        ("atom", "generic", ""), ("0.9", "0.10", "1.0rc1", "dev"), ("", "street", "plates"),
        ((), ("a", "b"), ("b", "a"), ("a",), ("a", "c")), (0, 9, 10),
    ):  # fmt: skip
        info = CameraInfo("b", agent, hw, (), 1, takes=takes, classes=classes, most_bytes=most)
        for hardware, least in itertools.product((("generic",), ("atom", "generic"), ("x86",)), ("", "0.10", "1.0.0")):
            row = SimpleNamespace(name="street", classes=CLASSES, size=10, hardware=hardware, min_agent=least)
            found.append((bool(fit.why_not(row, info)), camera_refuses(info, row)))
    assert all(box == camera for box, camera in found)
    assert 0 < sum(box for box, _ in found) < len(found) == 4860


@pytest.mark.parametrize(("hardware", "why"), [(("generic",), fit.SILENT), ((), "")])
def test_a_camera_that_said_nothing_is_waited_for_where_the_release_says_for_whom_it_is(hardware, why):
    row = SimpleNamespace(name="street", classes=CLASSES, size=10, hardware=hardware, min_agent="")
    assert fit.why_not(row, None) == why
