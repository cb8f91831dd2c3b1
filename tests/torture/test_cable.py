"""Short forms of `python -m tests.torture.cable`."""

import pytest

from tests.torture import cable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("victim", ["broker", "daemon"])
@pytest.mark.parametrize("kind", ["embedded", pytest.param("mosquitto", marks=pytest.mark.mosquitto)])
def test_whoever_is_killed_every_frame_arrives_once(kind, victim):
    assert cable.kills(2, 1, kind, victim)


@pytest.mark.mosquitto
def test_the_control_a_camera_that_trusts_the_puback_loses_frames():
    assert not cable.kills(3, 1, "mosquitto", "broker", forgetful=True)


def test_a_network_that_resets_stalls_crawls_and_lies_loses_nothing():
    assert cable.net(0.5, 1)
