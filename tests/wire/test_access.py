"""Who gets in and who may say and hear what, on the embedded broker and on mosquitto with the files edged writes."""

from __future__ import annotations

import socket
import ssl

import mqtt5
import pytest

from edged.broker import identity
from edged.broker.acl import CAMERA_READS, CAMERA_WRITES
from edged.clock import SystemClock
from edged.errors import Misconfigured, Unavailable
from edged.wire.link import Endpoint, Tls, Will
from edged.wire.paho import PahoLink
from edged.wire.tls import client_context

WAIT = 10
BRIEF = 0.4
CONNACK = b"\x20"
OWN = "edged/1/site/cam/alice"
OTHER = "edged/1/site/cam/bob"
FOREIGN = [
    *(f"{OTHER}/{leaf}" for leaf in (*CAMERA_WRITES, *CAMERA_READS)),
    *(f"{OWN}/{leaf}" for leaf in CAMERA_READS),
    "edged/1/site/server/edge-1/state",
    "edged/1/site/model/meta/timestamp.json",
    "edged/1/site/model/chunk/" + 64 * "0",
    "edged/1/site/cam/alice",
    "edged/1/site/cam/alice/frame/x",
    "edged/1/site/cam/alicea/frame",
    "edged/1/other/cam/alice/frame",
    "edged/2/site/cam/alice/frame",
    "anything",
    "/edged/1/site/cam/alice/frame",
]


def settled(link):
    """Wait until the broker has answered everything this link said."""
    for _ in range(int(WAIT / 0.02)):
        if not link.backlog() and not link._subscribing:
            return
        SystemClock().sleep(0.02)
    pytest.fail("the broker did not answer")


def hears(link, topic_filters):
    for topic_filter in topic_filters:
        link.subscribe(topic_filter)
    settled(link)


def says(link, topic):
    """Publish and wait for the answer. mosquitto 2.0.11 hangs up after each publish it refuses, so perhaps again."""
    while True:
        assert link.wait_connected(WAIT)
        try:
            link.publish(topic, b"x")
        except Unavailable:
            continue
        return settled(link)


def received(link, until=None):
    """Topics in order, up to `until` (kept out) or until nothing comes."""
    topics = []
    while (message := link.receive(WAIT if until else BRIEF)) is not None and message.topic != until:
        topics.append(message.topic)
    return topics


def test_a_camera_may_write_its_own_topics_and_not_one_more(ruled):
    server, alice = ruled.link("server"), ruled.link("alice")
    hears(server, ["edged/1/site/#"])
    for leaf in CAMERA_WRITES:
        alice.publish(f"{OWN}/{leaf}", b"mine")
    settled(alice)
    assert alice.counts().get("refused_publishes", 0) == 0
    for n, topic in enumerate(FOREIGN, 1):
        says(alice, topic)
        assert alice.counts()["refused_publishes"] == n, topic
    got = received(server)
    assert got == [f"{OWN}/{leaf}" for leaf in CAMERA_WRITES]


def test_spoofed_messages_reach_nobody(ruled):
    server, alice = ruled.link("server"), ruled.link("alice")
    hears(server, ["edged/1/site/#"])
    for topic in FOREIGN:
        says(alice, topic)
    says(alice, f"{OWN}/state")
    assert received(server, until=f"{OWN}/state") == []


@pytest.mark.parametrize(
    "greedy",
    ["#", "edged/#", "+/+/+/+/+/+", "edged/1/site/cam/#", "edged/1/site/cam/+/receipt", f"{OTHER}/#", f"{OWN}/#"],
)
def test_a_greedy_subscription_hears_nothing_foreign(ruled, greedy):
    server, alice, bob = ruled.link("server"), ruled.link("alice"), ruled.link("bob")
    hears(alice, [greedy])
    for leaf in (*CAMERA_WRITES, *CAMERA_READS):
        server.publish(f"{OTHER}/{leaf}", b"bob's", retain=leaf == "state")
    for leaf in CAMERA_WRITES:
        bob.publish(f"{OTHER}/{leaf}", b"bob's")
    server.publish("edged/1/site/server/edge-1/state", b"online")
    settled(server)
    settled(bob)
    assert received(alice) == []
    hears(alice, [greedy])  # and nothing retained either
    assert received(alice) == []


def test_shared_and_system_subscriptions_hear_nothing_foreign(ruled):
    alice, bob = ruled.link("alice"), ruled.link("bob")
    hears(alice, ["$share/g/edged/1/site/cam/+/roi", "$share/g/#", "$SYS/#", "$CONTROL/#"])
    bob.publish(f"{OTHER}/roi", b"bob's")
    settled(bob)
    assert received(alice) == []


def test_a_camera_hears_its_own_commands_and_the_models(ruled):
    server, alice = ruled.link("server"), ruled.link("alice")
    hears(alice, [*(f"{OWN}/{leaf}" for leaf in CAMERA_READS), "edged/1/site/model/#"])
    wanted = [
        *(f"{OWN}/{leaf}" for leaf in CAMERA_READS),
        "edged/1/site/model/meta/timestamp.json",
        "edged/1/site/model/chunk/" + 64 * "0",
    ]
    for topic in wanted:
        server.publish(topic, b"x")
    assert received(alice) == wanted
    assert alice.counts().get("refused_subscriptions", 0) == 0


def test_the_probe_gets_in_and_may_do_nothing(ruled):
    server, probe = ruled.link("server"), ruled.link("probe")
    hears(server, ["edged/1/site/#"])
    hears(probe, ["edged/1/site/cam/probe/receipt"])
    probe.publish("edged/1/site/server/edge-1/state", b"x")
    settled(probe)
    assert probe.counts()["refused_publishes"] == 1
    assert received(server) == []


def test_asking_for_another_cameras_client_id_does_not_throw_it_out(ruled):
    server, alice = ruled.link("server"), ruled.link("alice", Will(f"{OWN}/state", b"offline"))
    hears(server, [f"{OWN}/state"])
    end = Endpoint("127.0.0.1", ruled.port, "alice", identity.paths(ruled.keys, "bob"))
    impostor = PahoLink(end, reconnect_s=(0.05, 0.2))
    ruled.links.append(impostor)
    assert impostor.wait_connected(WAIT)
    impostor.publish(f"{OWN}/state", b"spoofed")
    settled(impostor)
    assert impostor.counts()["refused_publishes"] == 1
    assert received(server) == []
    assert alice.connected()
    assert alice.connects() == 1


def test_a_will_on_another_cameras_topic_is_never_spoken(ruled):
    server = ruled.link("server")
    hears(server, ["edged/1/site/#"])
    end = Endpoint("127.0.0.1", ruled.port, "alice", identity.paths(ruled.keys, "alice"))
    link = PahoLink(end, Will(f"{OTHER}/state", b"offline"), reconnect_s=(0.05, 0.2))
    ruled.links.append(link)
    if link.wait_connected(1):  # mosquitto lets it in and withholds the will; the embedded broker does not let it in
        ruled.vanish(link)
    else:
        assert "Not authorized" in link.disconnect_reason
    assert received(server) == []


@pytest.fixture(scope="module")
def foreign_keys(tmp_path_factory):
    """Keys of another site, whose CA nobody here trusts."""
    directory = tmp_path_factory.mktemp("foreign") / "keys"
    identity.make_ca(directory, "site", 0.0 + SystemClock().now())
    identity.issue(directory, "alice", server=False, now=SystemClock().now())
    return directory


def test_a_certificate_of_another_ca_does_not_get_in_and_the_link_says_why(ruled, foreign_keys, caplog):
    mixed = Tls(
        identity.paths(ruled.keys, "alice").ca,
        identity.paths(foreign_keys, "alice").cert,
        identity.paths(foreign_keys, "alice").key,
    )
    link = PahoLink(Endpoint("127.0.0.1", ruled.port, "alice", mixed))
    ruled.links.append(link)
    assert not link.wait_connected(3)
    assert "does the broker trust our certificate? it may have been revoked" in link.disconnect_reason
    said = [r.getMessage() for r in caplog.records if "hung up without an answer" in r.getMessage()]
    assert len(said) == 1, "once, however often it is tried"
    assert said[0].endswith("; trying again")


def test_a_broker_of_another_ca_is_not_trusted(ruled, foreign_keys):
    mixed = Tls(
        identity.paths(foreign_keys, "alice").ca,
        identity.paths(ruled.keys, "alice").cert,
        identity.paths(ruled.keys, "alice").key,
    )
    link = PahoLink(Endpoint("127.0.0.1", ruled.port, "alice", mixed))
    ruled.links.append(link)
    assert not link.wait_connected(1)
    assert "certificate is not trusted" in link.disconnect_reason


def test_neither_plain_text_nor_a_missing_certificate_gets_in(ruled):
    plain = PahoLink(Endpoint("127.0.0.1", ruled.port, "alice"))
    ruled.links.append(plain)
    assert not plain.wait_connected(1)
    without = ssl.create_default_context(cafile=identity.paths(ruled.keys, "alice").ca)
    assert greeting(ruled.port, without) == b""
    assert greeting(ruled.port, client_context(identity.paths(ruled.keys, "alice")))[:1] == CONNACK


def test_no_tls_older_than_1_2_is_spoken(ruled):
    context = client_context(identity.paths(ruled.keys, "alice"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert greeting(ruled.port, context)[:1] == CONNACK
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert greeting(ruled.port, context) == b""


def greeting(port, context):
    """What the broker answers to a CONNECT; nothing if it does not let this TLS client in."""
    try:
        raw = socket.create_connection(("127.0.0.1", port), 5)
        with raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as secured:
            secured.sendall(mqtt5.ConnectPacket("alice", clean_start=True).write())
            return secured.recv(1000)
    except OSError:
        return b""


def test_a_tls_file_that_does_not_load_is_the_operators_fault(tmp_path):
    with pytest.raises(Misconfigured, match=r"CA .*none\.pem"):
        PahoLink(Endpoint("127.0.0.1", 1, "alice", Tls(str(tmp_path / "none.pem"), "", "")))
