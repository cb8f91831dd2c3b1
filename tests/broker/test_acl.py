"""The rules themselves, and mosquitto's copy of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.broker.acl import CAMERA_READS, CAMERA_WRITES, Acl
from edged.broker.mosquitto import render_acl, render_conf
from edged.errors import Refused
from edged.wire import topics
from edged.wire.link import Tls

RULES = Acl("site")


def test_a_camera_retains_only_small_state_and_never_pixels():
    state, frame = topics.cam("site", "gate", "state"), topics.cam("site", "gate", "frame")
    assert RULES.may_publish("gate", state, size=4096, retain=True)
    assert not RULES.may_publish("gate", state, size=4097, retain=True)
    assert RULES.may_publish("gate", state, size=4097, retain=False)
    assert not RULES.may_publish("gate", frame, size=10, retain=True)
    assert RULES.may_publish("gate", frame, size=2_000_000, retain=False)


@pytest.mark.parametrize("identity", ["+", "#", "gate/", "", "a/b", "..", "$SYS"])
def test_a_name_that_is_no_level_opens_nothing_else(identity):
    assert not RULES.may_publish(identity, topics.cam("site", "gate", "frame"), size=1, retain=False)
    assert not RULES.may_subscribe(identity, topics.cam("site", "gate", "receipt"))


def test_the_server_keeps_to_its_site():
    assert RULES.may_publish("server", topics.model("site", "meta/root.json"), size=1, retain=True)
    assert not RULES.may_publish("server", topics.model("other", "meta/root.json"), size=1, retain=True)
    assert RULES.may_subscribe("server", "edged/1/site/cam/+/frame")
    assert not RULES.may_subscribe("server", "#")
    assert not RULES.may_subscribe("server", "$SYS/#")


def test_mosquittos_rules_name_every_leaf_and_nothing_by_client_id():
    text = render_acl("site")
    for leaf in CAMERA_WRITES:
        assert f"pattern write edged/1/site/cam/%u/{leaf}\n" in text
    for leaf in CAMERA_READS:
        assert f"pattern read edged/1/site/cam/%u/{leaf}\n" in text
    assert "%c" not in text
    assert text.count("readwrite") == 1
    with pytest.raises(Refused):
        render_acl("#")


def test_mosquittos_configuration_lets_nobody_in_without_a_certificate():
    text = render_conf(
        host="0.0.0.0", port=8883, tls=Tls("ca", "cert", "key"), acl_file=Path("/etc/acl"), data_dir=Path("/var/lib/m")
    )
    options = dict(
        line.split(" ", 1) for line in text.splitlines() if not line.startswith("#") and "log_type" not in line
    )
    assert options["require_certificate"] == options["use_username_as_clientid"] == "true"
    assert options["allow_anonymous"] == "false"
    assert options["max_packet_size"] == str(2 * 1024 * 1024 + 64 * 1024)
