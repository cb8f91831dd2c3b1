"""Home Assistant at the site's brokers, under the house rules: it sees states, switches captures, and never sees a picture."""

from __future__ import annotations

import json

import pytest

from edged.clock import SystemClock
from edged.errors import Unavailable
from edged.homeassistant import Announcer, Rules
from edged.storage import cameras
from edged.storage.store import Store
from edged.wire.messages import CameraInfo

WAIT, BRIEF = 10, 0.3
LOOKS = (  # what Home Assistant itself subscribes to
    "homeassistant/+/+/config", "homeassistant/+/+/+/config", "homeassistant/device/+/config",
    "homeassistant/device/+/+/config",
)  # fmt: skip
OWN = "edged/1/site/cam/alice"


def settled(link):
    """Wait until the broker has answered everything this link said."""
    for _ in range(int(WAIT / 0.02)):
        if not link.backlog() and not link._subscribing:
            return
        SystemClock().sleep(0.02)
    pytest.fail("the broker did not answer")


def hears(link, *filters):
    for wanted in filters:
        link.subscribe(wanted)
    settled(link)


def says(link, topic, payload=b"x", retain=False):
    """mosquitto 2.0.11 hangs up after each publish it refuses, so perhaps again."""
    while True:
        assert link.wait_connected(WAIT)
        try:
            link.publish(topic, payload, retain=retain)
        except Unavailable:
            continue
        return settled(link)


def gathered(link, wanted):
    """Payloads of the wanted topics, until there is one of each."""
    found = {}
    while found.keys() < set(wanted) and (message := link.receive(WAIT)) is not None:
        if message.topic in wanted:
            found[message.topic] = message.payload
    return found


def test_home_assistant_finds_the_camera_follows_its_update_and_throws_its_switch(ruled, tmp_path):
    box, alice, home = ruled.link("server"), ruled.link("alice"), ruled.link("homeassistant")
    configs = {f"homeassistant/device/edged_site_{c}/config" for c in ("alice", "server_edge-1")}
    with Store.open(tmp_path / "store", clock=SystemClock(), site_key=bytes(32)) as store:
        cameras.set_info(store, "alice", CameraInfo("b", "1", "generic", (), 1))
        Announcer(box, store, "site", "edge-1", Rules(True), store.clock).step()
        settled(box)
        hears(home, *LOOKS)
        found = gathered(home, configs)
        assert found.keys() == configs
        entities = json.loads(found["homeassistant/device/edged_site_alice/config"])["components"]
        says(alice, f"{OWN}/state", b"online", True)
        says(alice, f"{OWN}/capture/state", b"ON", True)
        states = {e["state_topic"] for e in entities.values()} - {f"{OWN}/stats", f"{OWN}/drift"}
        hears(home, *states)
        said = gathered(home, states)
        assert said.keys() == states
        assert json.loads(said[f"{OWN}/model/update"])["installed_version"] == "0"
        hears(alice, f"{OWN}/capture/set")
        says(home, "homeassistant/status", b"online")
        says(home, entities["capture"]["command_topic"], b"OFF")
        assert alice.receive(WAIT).payload == b"OFF"
        # switched off, it is taken back
        while home.receive(BRIEF) is not None:
            pass
        Announcer(box, store, "site", "edge-1", Rules(False), store.clock).step()
        assert gathered(home, configs) == dict.fromkeys(configs, b"")


def test_it_sees_no_picture_and_orders_nothing_but_the_switch(ruled):
    box, alice, home = ruled.link("server"), ruled.link("alice"), ruled.link("homeassistant")
    leaves = ("frame", "roi", "receipt", "model/reported", "model/desired", "enabled/state")
    hears(home, *(f"edged/1/site/cam/+/{leaf}" for leaf in leaves), "edged/1/site/#", "homeassistant/device/+/config")
    hears(alice, *(f"{OWN}/{leaf}" for leaf in ("capture/set", "model/desired", "enabled/set")))
    hears(box, f"{OWN}/frame", f"{OWN}/state")
    says(alice, f"{OWN}/frame", b"a face")
    assert box.receive(WAIT).payload == b"a face"
    for leaf in ("model/desired", "enabled/set", "state", "frame"):
        says(home, f"{OWN}/{leaf}", b"forged")
    for link in (alice, home):
        says(link, "homeassistant/device/edged_site_alice/config", b"forged", True)
    assert [link.receive(BRIEF) for link in (home, alice, box)] == [None, None, None]
