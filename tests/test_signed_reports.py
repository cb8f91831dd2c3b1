"""The box offers and judges rollouts on what cameras have signed, and on nothing else that is said in their name."""

import json
import time

import msgspec
import pytest
from click.testing import CliRunner

from edged import health
from edged.admit import Limits
from edged.cli import main
from edged.publish import fleet
from edged.publish.rules import DEFAULTS
from edged.storage import alarms, audit, cameras, counters, deliveries, releases
from edged.web.app import create_app
from edged.wire import messages, topics
from edged.wire.messages import CameraInfo, Reported
from edged.wire.signature import Signer
from tests.site import SITE
from tests.test_flood import House


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path / "site", Limits())
    made.keys = tmp_path / "site" / "keys"
    cameras.set_online(made.store, "gate", True)
    releases.add(
        made.store, number=1, name="vehicle", candidate=None, sha256="a" * 64, size=9, target="vehicle/1.onnx",
        classes=["a", "b"], state="waiting",
    )  # fmt: skip
    fleet.start(made.store, 1, DEFAULTS, "Ada")
    made.step(3)
    assert status(made) == "QUEUED"
    yield made
    made.close()


def status(house):
    [row] = deliveries.of(house.store, 1)
    return row.status


def report(status, number=1):
    return messages.encode(Reported("vehicle", number, "a" * 64, "release-1", status))


def say(house, payload, *, camera="gate", key="gate", signed=None, topic=None, leaf="model/reported"):
    """Say it as `camera`, signed by `key` over `signed` (else what is said) on `topic` (else where it is said)."""
    to = topics.cam(SITE, camera, leaf)
    properties = {}
    if key:
        signer = Signer(*((house.keys / f"cam-{key}{end}").read_bytes() for end in (".pem", ".key")))
        properties = signer.properties(topic or to, payload if signed is None else signed)
    house.links[camera].publish(to, payload, properties=properties, retain=True)
    house.step(3)


def test_a_signed_report_counts_and_says_that_it_was_signed(house):
    say(house, report("SUCCEEDED"))
    [row] = deliveries.of(house.store, 1)
    assert (row.status, row.signed) == ("SUCCEEDED", True)
    assert cameras.get(house.store, "gate").reported.sha256 == "a" * 64
    assert not alarms.stands(house.store, alarms.UNSIGNED)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"key": ""}, "unsigned"),
        ({"signed": b"something else"}, "forged"),
        ({"key": "yard"}, "foreign"),
        ({"topic": topics.cam(SITE, "yard", "model/reported")}, "forged"),
        ({"topic": topics.cam(SITE, "gate", "model/want")}, "forged"),
    ],
)
def test_what_the_camera_did_not_sign_counts_for_nothing_and_an_alarm_says_so(house, how, code):
    say(house, report("SUCCEEDED"), **how)
    assert status(house) == "QUEUED"
    assert cameras.get(house.store, "gate").reported is None
    house.step(3)
    assert counters.get(house.store, f"refused:report_{code}") == 1
    [alarm] = alarms.standing(house.store)
    assert alarm.code == alarms.UNSIGNED
    assert alarm.text.endswith("it counts for no rollout")
    judged = health.judge(health.look(house.store, house.clock.now(), daemon=True))
    assert "reports_unsigned" in {r.code for r in judged.reasons}
    say(house, report("IN_PROGRESS"))
    assert status(house) == "IN_PROGRESS"
    assert not alarms.stands(house.store, alarms.UNSIGNED)


def test_a_report_of_one_camera_said_again_by_another_is_foreign(house):
    to = topics.cam(SITE, "gate", "model/reported")
    own = Signer(*((house.keys / f"cam-gate{end}").read_bytes() for end in (".pem", ".key")))
    taken = own.properties(to, report("SUCCEEDED"))
    house.links["yard"].publish(topics.cam(SITE, "yard", "model/reported"), report("SUCCEEDED"), properties=taken)
    house.step(3)
    assert counters.get(house.store, "refused:report_foreign") == 1


def info(takes):
    return messages.encode(CameraInfo("b", "1.0", "generic", (), 1, takes=takes))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"key": ""}, "unsigned"),
        ({"signed": info("vehicle")}, "forged"),
        ({"key": "yard"}, "foreign"),
        ({"topic": topics.cam(SITE, "gate", "model/reported")}, "forged"),
    ],
)
def test_nobody_else_can_have_a_camera_left_out_of_a_rollout_by_what_it_would_be(house, how, code):
    say(house, info("vehicle"), leaf="info")
    say(house, info("plates"), leaf="info", **how)
    house.clock.sleep(1)
    house.step(3)
    assert status(house) == "QUEUED"
    assert cameras.get(house.store, "gate").info.takes == "vehicle"
    assert counters.get(house.store, f"refused:info_{code}") == 1
    [alarm] = alarms.standing(house.store)
    assert (alarm.code, alarm.text.endswith(": it counts for no rollout")) == (alarms.UNSIGNED, True)
    assert "the info of gate" in alarm.text
    say(house, report("IN_PROGRESS"))
    assert alarms.stands(house.store, alarms.UNSIGNED), "a report that verifies says nothing of the info"
    say(house, info("vehicle"), leaf="info")
    assert not alarms.stands(house.store, alarms.UNSIGNED)


def test_the_control_what_the_camera_itself_says_leaves_it_out(house):
    say(house, info("plates"), leaf="info")
    house.clock.sleep(1)
    house.step(3)
    assert status(house) == "CANCELED"
    [row] = deliveries.of(house.store, 1)
    assert "it takes models called plates" in row.detail
    assert not alarms.stands(house.store, alarms.UNSIGNED)


def test_a_camera_of_which_only_forged_words_came_has_not_said_what_it_is(house):
    say(house, info("plates"), leaf="info", key="")
    assert cameras.get(house.store, "gate").info is None
    assert status(house) == "QUEUED"


def test_where_no_signatures_are_asked_for_what_is_said_counts_as_before(tmp_path):
    made = House(tmp_path / "site", Limits(), rollout={"signed_receipts": False})
    made.say("gate", "info", info("plates"))
    made.step(3)
    assert cameras.get(made.store, "gate").info.takes == "plates"
    assert not alarms.stands(made.store, alarms.UNSIGNED)
    made.close()


def test_a_halt_is_told_as_an_event_once(house):
    watcher = house.broker.link("watcher")
    watcher.subscribe(topics.server(SITE, "+", "event"))
    say(house, report("FAILED", 0))
    house.clock.sleep(1)
    house.step(5)
    told = []
    while (message := watcher.receive(0)) is not None:
        told.append(json.loads(message.payload))
    [event] = told
    assert (event["type"], event["id"]) == ("rollout_failed", "release-1")
    assert event["text"] == "release 1: canary gate: FAILED"
    assert msgspec.json.encode(event)


def test_a_stolen_camera_that_was_revoked_says_nothing_that_counts_and_its_successor_does(house):
    config = house.keys.parent / "config.toml"
    say(house, report("IN_PROGRESS"))
    stolen = {end: (house.keys / f"cam-gate{end}").read_bytes() for end in (".pem", ".key")}
    asked = CliRunner().invoke(main, ["-c", str(config), "camera", "revoke", "gate"])
    assert (asked.exit_code, "--yes does it" in asked.stderr) == (1, True)
    done = CliRunner().invoke(
        main, ["-c", str(config), "camera", "revoke", "gate", "--new", "--yes", "--author", "ada"]
    )
    assert done.exit_code == 0, done.output
    assert "is revoked" in done.stdout
    assert ("ada", "camera.revoked", "gate") in {(r.actor, r.act, r.subject) for r in audit.rows(house.store)}
    assert not cameras.get(house.store, "gate").online
    new = {end: (house.keys / f"cam-gate{end}").read_bytes() for end in (".pem", ".key")}
    assert new != stolen
    for end, data in stolen.items():
        (house.keys / f"cam-thief{end}").write_bytes(data)
    say(house, report("SUCCEEDED"), key="thief")
    assert (status(house), counters.get(house.store, "refused:report_revoked")) == ("IN_PROGRESS", 1)
    assert alarms.stands(house.store, alarms.UNSIGNED)
    say(house, report("SUCCEEDED"))
    assert status(house) == "SUCCEEDED"


def revoke(house, *options):
    config = house.keys.parent / "config.toml"
    done = CliRunner().invoke(main, ["-c", str(config), *options, "camera", "revoke", "gate", "--yes"])
    assert done.exit_code == 0, done.output
    house.clock.sleep(1)
    house.step(3)
    return done.stdout


def receipt_of(house, n):
    """What the camera hears of its frame, once it hears."""
    house.send("gate", n)
    for _ in range(2000):
        house.step()
        if heard := house.heard("gate"):
            [receipt] = heard
            return receipt
        time.sleep(0.005)
    raise AssertionError("no receipt came")


def stored(house):
    return house.store.value("select count(*) from frame where camera = 'gate'")


def test_frames_of_a_camera_that_was_revoked_are_refused_on_an_open_connection_and_its_successors_are_stored(house):
    assert receipt_of(house, 1).status == "stored"
    revoke(house)
    refused = receipt_of(house, 2)
    assert (refused.status, refused.detail) == ("refused", "the certificate of gate is revoked")
    house.clock.sleep(1)
    house.step(3)
    assert (stored(house), counters.get(house.store, "refused:revoked")) == (1, 1)
    issued = CliRunner().invoke(main, ["-c", str(house.keys.parent / "config.toml"), "camera", "add", "gate"])
    assert issued.exit_code == 0, issued.output
    house.clock.sleep(1)
    house.step(3)
    assert receipt_of(house, 3).status == "stored"


def test_what_a_revoked_camera_says_without_signing_counts_no_more_on_an_open_connection(house):
    def says(fps):
        known = messages.encode(messages.CameraStats(house.clock.now(), fps, 9.0, {}, 1, 0, 0))
        house.say("gate", "stats", known)
        house.say("gate", "model/want", b"?")
        house.say("gate", "probe", b"?")
        house.step(3)
        return cameras.get(house.store, "gate").stats.fps, counters.get(house.store, "refused:revoked")

    assert says(7.0) == (7.0, 0)
    revoke(house)
    house.say("gate", "state", b"online")
    assert says(9.0) == (7.0, 3)
    house.say("gate", "state", b"offline")
    house.step(3)
    assert not cameras.get(house.store, "gate").online


def test_a_camera_with_a_new_certificate_that_the_box_has_no_copy_of_is_known_by_what_it_signs(house):
    revoke(house)
    CliRunner().invoke(main, ["-c", str(house.keys.parent / "config.toml"), "camera", "add", "gate"])
    for end in (".pem", ".key"):
        (house.keys / f"cam-gate{end}").rename(house.keys / f"successor{end}")
        (house.keys / f"cam-successor{end}").symlink_to(house.keys / f"successor{end}")
    house.clock.sleep(1)
    house.step(3)
    assert receipt_of(house, 1).status == "refused"
    say(house, info("vehicle"), leaf="info", key="successor")
    assert receipt_of(house, 2).status == "stored"


def test_that_a_camera_was_revoked_is_said_where_it_is_looked_for(house):
    for end in (".pem", ".key"):
        (house.keys / f"cam-thief{end}").write_bytes((house.keys / f"cam-gate{end}").read_bytes())
    told = json.loads(revoke(house, "--json"))
    assert told["already"] is False
    assert told["mosquitto"] == (
        f"install -m 640 -g mosquitto {house.keys / 'ca.crl'} /etc/mosquitto/edged/ && systemctl restart mosquitto"
    )
    assert "is revoked already, since " in revoke(house)
    acts = [r.act for r in audit.rows(house.store) if r.subject == "gate"]
    assert acts.count("camera.revoked") == 1
    reasons = {r.code: r for r in health.judge(health.look(house.store, house.clock.now(), daemon=True)).reasons}
    assert reasons["camera_revoked"].text == "the certificate of gate is revoked"
    assert reasons["camera_revoked"].since > 0
    assert "camera_offline" not in reasons
    config = str(house.keys.parent / "config.toml")
    status = CliRunner().invoke(main, ["-c", config, "status"]).output
    assert "certificate revoked 2" in status
    assert "power, network" not in status
    page = create_app(
        house.store, site=SITE, classes=("a", "b"), names={"gate": "gate"}, gate={"max_loss": 0.02}, clock=house.clock,
        secret="of the test", hosts=("localhost",),
    ).test_client().get("/").text  # fmt: skip
    assert "Its certificate is revoked" in page
    assert "been away" not in page
    say(house, info("vehicle"), leaf="info", key="thief")
    house.clock.sleep(1)
    house.step(3)
    assert counters.get(house.store, "refused:info_revoked") == 1
    assert not alarms.stands(house.store, alarms.UNSIGNED), "it is said already, and was wanted"
    config = str(house.keys.parent / "config.toml")
    listed = CliRunner().invoke(main, ["-c", config, "camera", "list"]).stdout
    assert "certificate revoked 20" in next(line for line in listed.splitlines() if line.startswith("gate "))
    told = json.loads(CliRunner().invoke(main, ["-c", config, "--json", "camera", "list"]).stdout)
    assert {c["id"]: bool(c["revoked"]) for c in told["cameras"]}["gate"]
    added = CliRunner().invoke(main, ["-c", config, "camera", "add", "gate"]).stdout
    assert added.endswith("then remove the key here;\nstart edged-agent there anew\n")


def test_a_list_that_does_not_read_lets_nobody_in_again_and_does_not_end_the_daemon(house):
    revoke(house)
    (house.keys / "ca.crl").write_bytes(b"nonsense")
    house.clock.sleep(1)
    house.step(3)
    assert receipt_of(house, 1).status == "refused"
    assert house.box.failure is None
