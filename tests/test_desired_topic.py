"""What each camera should run, retained on the cable: said again only when it must be."""

import pytest

from edged.errors import Unavailable
from edged.publish import fleet
from edged.storage import cameras, deliveries, releases
from edged.wire import messages, topics
from edged.wire.messages import Desired
from tests.site import SITE, SimulatedSite

TOPIC = topics.cam(SITE, "gate", "model/desired")


@pytest.fixture
def site(tmp_path):
    """A camera that runs release 1, and was told so."""
    made = SimulatedSite(tmp_path / "site", {}, camera=[{"id": "gate"}])
    cameras.set_online(made.store, "gate", True)
    releases.add(
        made.store, number=1, name="light", candidate=None, sha256="a" * 64, size=9, target="light/1.onnx",
        classes=("dark", "bright"), state="complete",
    )  # fmt: skip
    deliveries.upsert(made.store, 1, "gate", "SUCCEEDED", offered=1.0)
    made.turn(2)
    yield made
    made.close()


def said(site):
    return [m for _, m in site.broker.log if m.topic == TOPIC]


def test_it_is_said_once_and_rows_that_stay_are_not_read_again(site, monkeypatch):
    reads, standing = [], fleet.standing
    monkeypatch.setattr(fleet, "standing", lambda store: reads.append(1) or standing(store))
    assert messages.decode(site.broker.retained[TOPIC].payload, Desired).version == 1
    site.turn(20, seconds=0.6)  # 12 s
    assert len(said(site)) == 1
    assert 0 < len(reads) <= 3


def test_a_broker_that_forgot_is_told_again(site):
    site.broker.stop()
    assert TOPIC not in site.broker.retained
    site.broker.start()
    site.turn(1)
    assert messages.decode(site.broker.retained[TOPIC].payload, Desired).version == 1
    assert len(said(site)) == 2


def test_a_cable_that_fails_in_the_middle_leaves_nobody_untold(site, monkeypatch):
    deliveries.upsert(site.store, 1, "gate", "CANCELED")
    publish, failed = site.link.publish, []

    def once(topic, payload, **more):
        if topic == TOPIC and not failed:
            failed.append(payload)
            raise Unavailable("no cable")
        return publish(topic, payload, **more)

    monkeypatch.setattr(site.link, "publish", once)
    site.turn(1)
    assert failed == [b""]
    site.turn(1)
    assert TOPIC not in site.broker.retained
