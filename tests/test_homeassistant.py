"""The site in Home Assistant: what is announced, what its `update` entity shows, and that nothing is left behind.

The rules below are those of Home Assistant 2026.2: DEVICE_DISCOVERY_SCHEMA and the schemas of its MQTT platforms, device
classes with their units, and the strict schema of an `update` entity's JSON, which is dropped whole for one odd key.
"""

import json
import re

import msgspec
import pytest

from edged import homeassistant
from edged.config import check
from edged.errors import Misconfigured
from edged.homeassistant import Announcer, Rules, config_topic, update_state
from edged.storage import alarms, cameras, deliveries, releases
from edged.wire import topics
from edged.wire.messages import CameraInfo
from tests.site import SITE, SimulatedSite, shots

COMMON = {"platform", "name", "unique_id", "entity_category", "availability", "availability_mode", "enabled_by_default",
          "icon", "json_attributes_topic", "json_attributes_template", "qos"}  # fmt: skip
READS = {"state_topic", "value_template", "device_class"}
PLATFORMS = {  # platform -> required keys, other keys, device classes
    "binary_sensor": ({"state_topic"}, READS | {"payload_on", "payload_off", "expire_after"}, {"connectivity", "problem"}),
    "sensor": (
        {"state_topic"},
        READS | {"unit_of_measurement", "state_class", "suggested_display_precision", "expire_after"},
        {"data_size", "timestamp"},
    ),
    "switch": ({"command_topic"}, READS | {"payload_on", "payload_off", "retain"}, {"switch", "outlet"}),
    "update": (set(), READS | {"display_precision", "title", "release_summary"}, {"firmware"}),
}  # fmt: skip
UNITS = {"data_size": {"B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB"}, "timestamp": {None}}
OBJECT = re.compile(r"[a-zA-Z0-9_-]+")  # one level of a discovery topic


def faults(document):
    """What Home Assistant would refuse or not understand in a device's discovery document."""
    found = []
    if not {"device", "origin", "components"} <= document.keys() <= {
        "device", "origin", "components", "availability", "availability_mode", "state_topic", "command_topic", "qos", "encoding",
    }:  # fmt: skip
        found.append(f"keys {sorted(document)}")
    device = document.get("device", {})
    if not device.get("identifiers") and not device.get("connections"):
        found.append("the device has no identifier")
    odd = device.keys() - {"identifiers", "connections", "manufacturer", "model", "model_id", "name", "hw_version",
                           "serial_number", "sw_version", "via_device", "suggested_area", "configuration_url"}  # fmt: skip
    found += [f"device {key}" for key in sorted(odd)]
    if not document.get("origin", {}).get("name"):
        found.append("the origin has no name")
    for key, entity in document.get("components", {}).items():
        needed, known, classes = PLATFORMS.get(entity.get("platform"), (None, set(), set()))
        if needed is None:
            found.append(f"{key}: platform {entity.get('platform')}")
            continue
        if not entity.get("unique_id"):
            found.append(f"{key}: no unique_id")
        found += [f"{key}: no {name}" for name in sorted(needed - entity.keys())]
        found += [f"{key}: {name}" for name in sorted(entity.keys() - needed - known - COMMON)]
        class_ = entity.get("device_class")
        if class_ is not None and class_ not in classes:
            found.append(f"{key}: device_class {class_}")
        if class_ in UNITS and entity.get("unit_of_measurement") not in UNITS[class_]:
            found.append(f"{key}: unit {entity.get('unit_of_measurement')} of {class_}")
        if entity.get("state_class", "measurement") != "measurement":
            found.append(f"{key}: state_class")
        if entity.get("entity_category", "diagnostic") not in ("diagnostic", "config"):
            found.append(f"{key}: entity_category")
        named = [v for k, v in entity.items() if k.endswith("_topic")]
        named += [a["topic"] for a in entity.get("availability", document.get("availability", []))]
        found += [
            f"{key}: topic {t}" for t in named if any(c in t for c in "+#\0") or not t.startswith(f"edged/1/{SITE}/")
        ]
    return found


def odd_state(state):
    """What an `update` entity would drop its JSON for."""
    kinds = {"installed_version": str, "latest_version": str, "title": str, "release_summary": str, "in_progress": bool}
    found = [k for k in state if k not in {*kinds, "update_percentage"}]
    found += [k for k, kind in kinds.items() if not isinstance(state.get(k), kind)]
    percent = state.get("update_percentage")
    found += ["update_percentage"] if percent is not None and not 0 <= percent <= 100 else []
    return found + (["release_summary"] if len(state["release_summary"]) > 255 else [])


@pytest.fixture
def site(tmp_path):
    made = SimulatedSite(
        tmp_path / "site", {"gate": shots(60, 1_800_000_000.0)},
        camera=[{"id": "gate", "name": "The gate"}], homeassistant={"discovery": True},
    )  # fmt: skip
    yield made
    made.close()


def retained(site):
    """What Home Assistant finds when it comes: its discovery topics and all that they point at."""
    return {topic: m.payload for topic, m in site.broker.retained.items()}


def announced(site):
    return {t: json.loads(p) for t, p in retained(site).items() if t.startswith("homeassistant/")}


def state_of(site, camera="gate"):
    return json.loads(retained(site)[topics.cam(SITE, camera, "model/update")])


def test_the_documents_are_as_home_assistant_wants_them(site):
    site.turn(8)
    found = announced(site)
    assert sorted(found) == [
        f"homeassistant/device/edged_{SITE}_{thing}/config" for thing in ("gate", "server_edge-1")
    ]  # fmt: skip
    assert {t: faults(d) for t, d in found.items()} == {t: [] for t in found}
    for topic in found:
        prefix, component, object_id, leaf = topic.split("/")
        assert (prefix, component, leaf) == ("homeassistant", "device", "config")
        assert OBJECT.fullmatch(object_id)
    camera, box = (found[topic] for topic in sorted(found))
    ids = [e["unique_id"] for d in found.values() for e in d["components"].values()]
    assert len(ids) == len(set(ids)) == 10
    assert sorted(camera["components"]) == ["capture", "connection", "drift", "fps", "model", "problem"]
    assert sorted(box["components"]) == ["cycle", "disk", "health", "queue"]
    assert (camera["device"]["name"], camera["device"]["via_device"]) == ("The gate", *box["device"]["identifiers"])
    assert camera["components"]["capture"]["command_topic"] == topics.cam(SITE, "gate", "capture/set")
    # every entity's availability is a retained topic that says online or offline
    for entity in (*camera["components"].values(), *box["components"].values()):
        for way in entity.get("availability", camera["availability"]):
            assert retained(site)[way["topic"]] in (b"online", b"offline")


def test_the_rules_of_this_test_do_refuse():
    good = homeassistant.server_document(SITE, "edge-1")
    assert not faults(good)
    disk = good["components"]["disk"]
    wrong = [
        {k: v for k, v in good.items() if k != "origin"},
        good | {"device": {"name": "nameless"}},
        good | {"components": {"disk": {k: v for k, v in disk.items() if k != "unique_id"}}},
        good | {"components": {"disk": disk | {"unit_of_measurement": "pieces"}}},
        good | {"components": {"disk": disk | {"state_topic": f"edged/1/{SITE}/cam/#"}}},
        good | {"components": {"disk": disk | {"command_topic": "x"}}},
        good | {"components": {"disk": disk | {"platform": "fridge"}}},
    ]
    assert all(faults(d) for d in wrong), [i for i, d in enumerate(wrong) if not faults(d)]


def test_nothing_is_published_when_it_is_off(tmp_path):
    off = SimulatedSite(tmp_path / "site", {"gate": shots(4, 1_800_000_000.0)}, camera=[{"id": "gate"}])
    off.turn(12)
    assert [t for _, m in off.broker.log if not (t := m.topic).startswith("edged/")] == []
    assert not [t for t in retained(off) if t.endswith(("/summary", "/problem", "/model/update"))]
    assert not (off.folder / homeassistant.TOLD).exists()
    off.close()


def test_a_rollout_is_to_be_seen_from_the_first_word_to_the_last(site):
    site.until(lambda: len(site.answered) >= 60, 400)
    site.label_all()
    site.turn(4)
    nothing = {"installed_version": "0", "latest_version": "0", "title": "model", "release_summary": "no release yet"}
    assert state_of(site) == nothing | {"in_progress": False, "update_percentage": None}
    assert site.loop.run_once("labels") == "released"
    before = len(site.broker.log)
    site.until(lambda: state_of(site)["installed_version"] == "1", 400)
    topic = topics.cam(SITE, "gate", "model/update")
    seen = [json.loads(m.payload) for _, m in site.broker.log[before:] if m.topic == topic]
    assert not [fault for state in seen for fault in odd_state(state)]
    assert seen[0]["latest_version"] == "1"
    last = state_of(site)
    assert (last["title"], last["installed_version"], last["latest_version"]) == ("light", "1", "1")
    assert (last["in_progress"], last["update_percentage"]) == (False, None)


def test_progress_is_told_in_steps_and_a_state_never_twice(site):
    site.turn(8)
    number = releases.add(
        site.store, number=7, name="light", candidate=None, sha256="a" * 64, size=61_000, target="light/7.onnx", classes=()
    )  # fmt: skip
    before = len(site.broker.log)
    for percent in range(100):
        deliveries.upsert(
            site.store, number, "gate", "IN_PROGRESS", progress=percent / 100, detail=f"{percent} of 100 chunks"
        )
        site.clock.sleep(homeassistant.EVERY_S / 2)
        site.box._home.step()
    topic = topics.cam(SITE, "gate", "model/update")
    seen = [json.loads(m.payload) for _, m in site.broker.log[before:] if m.topic == topic]
    assert not [fault for state in seen for fault in odd_state(state)]
    assert [s["update_percentage"] for s in seen] == list(range(0, 100, homeassistant.STEP))
    assert all(s["in_progress"] and s["release_summary"] == "release 7, 61 kB: IN_PROGRESS" for s in seen)


def test_a_camera_that_refuses_a_release_has_a_problem_and_says_why(site):
    site.turn(8)
    number = releases.add(
        site.store, number=7, name="light", candidate=None, sha256="a" * 64, size=61_000, target="light/7.onnx", classes=()
    )  # fmt: skip
    deliveries.upsert(site.store, number, "gate", "REJECTED", detail="unknown hardware " + "x" * 400)
    site.clock.sleep(homeassistant.EVERY_S)
    site.box._home.step()
    said, problem = state_of(site), json.loads(retained(site)[topics.cam(SITE, "gate", "problem")])
    assert not odd_state(said)
    assert said["release_summary"].startswith("release 7, 61 kB: REJECTED: unknown hardware")
    assert (said["installed_version"], said["latest_version"], said["in_progress"]) == ("0", "7", False)
    assert problem["problem"] == "ON"
    assert len(problem["text"]) <= 255
    releases.set_state(site.store, number, "halted", "1 of 1 failed")
    site.clock.sleep(homeassistant.EVERY_S)
    site.box._home.step()
    said = state_of(site)
    assert (said["latest_version"], said["release_summary"]) == ("0", "release 7 was halted: 1 of 1 failed")
    assert not odd_state(said)


def test_whom_the_release_does_not_fit_is_told_why_and_not_to_wait(site):
    site.turn(4)
    camera = cameras.get(site.store, "gate")
    unlike = msgspec.structs.replace(camera.info, hw="pi-zero", model_version=0)
    row = releases.ReleaseRow(8, "light", None, "a" * 64, 1000, "light/8.onnx", (), "rolling", 0.0, None, "",
                              hardware=("generic",))  # fmt: skip
    state = update_state(type(camera)(**{**vars(camera), "info": unlike}), row, None)
    assert state["release_summary"] == "release 8, 1 kB: left out: it is pi-zero, the release is for generic"
    assert not odd_state(state)


def test_a_release_that_was_halted_is_no_update_for_who_runs_it(site):
    site.turn(4)
    camera = cameras.get(site.store, "gate")
    running = msgspec.structs.replace(camera.info, model_name="light", model_version=9)
    newest = releases.ReleaseRow(8, "light", None, "a" * 64, 1, "light/8.onnx", (), "complete", 0.0, None, "")
    state = update_state(type(camera)(**{**vars(camera), "info": running}), newest, None)
    assert (state["installed_version"], state["latest_version"], state["in_progress"]) == ("9", "9", False)


def test_each_camera_has_its_own_problem_and_the_switch_turns_it_off(site):
    site.turn(6)
    cameras.set_info(site.store, "far", CameraInfo("b", "1", "generic", (), 1))
    cameras.set_online(site.store, "far", False)
    alarms.sound(site.store, alarms.DISK_FULL, "no room")  # the box's, and no camera's
    site.turn(6)
    far, gate = (json.loads(retained(site)[topics.cam(SITE, c, "problem")]) for c in ("far", "gate"))
    assert (far["problem"], far["text"], gate["problem"]) == ("ON", "far is offline", "OFF")
    home = site.broker.link("homeassistant")
    home.publish(topics.cam(SITE, "gate", "capture/set"), b"OFF")
    site.turn(3)
    assert retained(site)[topics.cam(SITE, "gate", "capture/state")] == b"OFF"


def test_switched_off_or_another_prefix_or_a_camera_gone_leaves_nothing(site):
    cameras.set_info(site.store, "far", CameraInfo("b", "1", "generic", (), 1))
    site.turn(8)
    mine = {t for t in retained(site) if t.startswith("homeassistant/")}
    others = "homeassistant/device/somebody_else/config"
    site.broker.link("zigbee").publish(others, b"{}", retain=True)
    site.kill_box()
    site.config = check(
        {**msgspec.to_builtins(site.config), "homeassistant": {"discovery": True, "discovery_prefix": "ha"}}
    )
    site.open_box()
    site.turn(8)
    moved = {t for t in retained(site) if t.startswith("ha/")}
    assert len(moved) == len(mine) == 3
    assert not mine & retained(site).keys()
    site.store.execute("delete from camera where id = 'far'")
    site.box._home = Announcer(site.link, site.store, SITE, "edge-1", Rules(True, "ha"), site.clock)
    site.box._home.step()
    assert sorted(t for t in retained(site) if t.startswith("ha/")) == [
        config_topic("ha", SITE, c) for c in ("gate", "server_edge-1")
    ]
    site.kill_box()
    site.config = check({**msgspec.to_builtins(site.config), "homeassistant": {"discovery": False}})
    site.open_box()
    site.turn(8)
    assert {t for t in retained(site) if not t.startswith("edged/")} == {others}
    assert not [t for t in retained(site) if t.endswith(("/summary", "/problem", "/model/update"))]


def test_a_broker_that_forgot_is_told_again(site):
    site.turn(8)
    before = announced(site)
    site.broker.stop()
    site.turn(2)
    site.broker.start()
    site.turn(4)
    assert announced(site) == before


@pytest.mark.parametrize("prefix", ["", "a//b", "#", "home+", "x" * 64, "a\n"])
def test_a_prefix_that_is_no_topic_is_refused(prefix):
    raw = {"server": {"site": SITE}, "task": {"classes": ["a", "b"]}, "homeassistant": {"discovery_prefix": prefix}}
    with pytest.raises(Misconfigured, match=r"levels|length"):
        check(raw)
