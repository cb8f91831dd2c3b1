"""What the box says of drift on the cable: a retained word for each camera, an event when it begins and ends."""

import msgspec
import pytest

from edged.storage import drifts
from edged.storage.drifts import Evaluation
from edged.wire import topics
from edged.wire.messages import DriftState
from tests.site import SITE, SimulatedSite


@pytest.fixture
def site(tmp_path):
    made = SimulatedSite(tmp_path / "site", {}, camera=[{"id": "gate"}])
    yield made
    made.close()


def look(score, alarm, p=1e-5):
    return Evaluation("gate", "confidence", "m" * 64, 500, score, p, alarm, "gate: answers differ")


def test_drift_is_retained_and_events_tell_its_ends(site):
    def retained():
        reader = site.broker.link("reader")
        reader.subscribe(topics.cam(SITE, "gate", "drift"))
        return msgspec.json.decode(reader.receive(0).payload, type=DriftState)

    events = site.broker.link("listener")
    events.subscribe(topics.server(SITE, "edge-1", "event"))
    drifts.add(site.store, [look(0.3, False, 0.4)])
    site.turn(3)
    assert retained() == DriftState(0.3, 0.4, None)
    assert events.receive(0) is None
    drifts.add(site.store, [look(1.73149, True)])
    since = drifts.standing(site.store)[0].since
    site.turn(3)
    assert retained() == DriftState(1.731, 1e-5, since)
    event = msgspec.json.decode(events.receive(0).payload)
    assert (event["type"], event["id"], event["on"], event["text"]) == ("drift", "gate", True, "gate: answers differ")
    site.turn(3)
    assert events.receive(0) is None
    drifts.add(site.store, [look(0.2, False)])
    site.turn(3)
    assert retained().since is None
    assert msgspec.json.decode(events.receive(0).payload)["on"] is False
