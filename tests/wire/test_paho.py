"""PahoLink against a broker that is played by hand: what no honest broker does."""

from __future__ import annotations

import socket
import time

import mqtt5
import pytest

from edged.clock import stopwatch
from edged.errors import Misconfigured, Refused
from edged.wire import paho
from edged.wire.link import Endpoint
from edged.wire.paho import RECEIVE_MAXIMUM, PahoLink

WAIT = 10
QUICK = (0.01, 0.05)


class Actor:
    """One connection at a time, accepted and answered by the test."""

    def __init__(self):
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(WAIT)
        self.port = self.listening.getsockname()[1]
        self.talking, self.buffer = None, b""

    def accept(self, **connack):
        self.hang_up()
        self.talking, _ = self.listening.accept()
        self.talking.settimeout(WAIT)
        self.buffer = b""
        asked = self.read()
        assert isinstance(asked, mqtt5.ConnectPacket)
        self.talking.sendall(mqtt5.ConnAckPacket(**connack).write())
        return asked

    def read(self):
        while True:
            try:
                packet, size = mqtt5.read(memoryview(self.buffer))
            except IndexError:
                self.buffer += self.talking.recv(1 << 20)
                continue
            self.buffer = self.buffer[size:]
            return packet

    def say(self, *packets):
        self.talking.sendall(b"".join(p if isinstance(p, bytes) else p.write() for p in packets))

    def hang_up(self):
        if self.talking is not None:
            self.talking.close()

    def close(self):
        self.hang_up()
        self.listening.close()


@pytest.fixture
def actor():
    playing = Actor()
    yield playing
    playing.close()


@pytest.fixture
def link(actor):
    made = PahoLink(Endpoint("127.0.0.1", actor.port, "gate"), reconnect_s=QUICK)
    yield made
    actor.close()
    made.close()


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff\xff\xff\xff\xff\xff",
        b"\x40\x03\x00\x01\x02",  # a PUBACK with a reason code that does not exist
        b"\x90\x04\x00\x01\x00\x55",  # a SUBACK likewise
        b"\xe0\x01\x03",  # a DISCONNECT likewise
        b"\x30\x00",  # a PUBLISH of nothing
        b"\x30\x04\x00\x02\xff\xfe",  # a topic that is no UTF-8
        b"\x30\x05\x00\x01a\x01\x77",  # an unknown property
        b"\x20\x03\x00\x00\x00",  # a second CONNACK
        b"\x90\x00",
        b"\x40\x00",
    ],
)
def test_the_link_survives_whatever_the_broker_says(actor, link, rubbish):
    actor.accept()
    assert link.wait_connected(WAIT)
    actor.say(rubbish)
    actor.accept()  # hangs up, or has been hung up on
    actor.say(mqtt5.PublishPacket("t", b"still alive"))
    while (message := link.receive(WAIT)) is not None and message.topic != "t":
        pass
    assert message is not None
    assert message.payload == b"still alive"


def test_the_network_thread_outlives_a_bug(actor, link, monkeypatch):
    actor.accept()
    assert link.wait_connected(WAIT)

    def broken(_timeout):
        monkeypatch.undo()
        raise RuntimeError("a bug in paho")

    monkeypatch.setattr(link._client, "loop", broken)
    actor.say(mqtt5.PingRespPacket())  # wakes the loop
    actor.accept()
    actor.say(mqtt5.PublishPacket("t", b"still alive"))
    assert link.receive(WAIT).payload == b"still alive"
    assert link.counts() == {"failures": 1}


def test_a_refused_publish_and_a_refused_subscription_are_counted(actor, link):
    actor.accept()
    assert link.wait_connected(WAIT)
    link.publish("a", b"x")
    link.publish("b", b"x")
    link.subscribe("c")
    first, second, asked = actor.read(), actor.read(), actor.read()
    actor.say(
        mqtt5.PubAckPacket(first.packet_id, reason_code=mqtt5.PubAckReasonCode.NOT_AUTHORIZED),
        mqtt5.PubAckPacket(second.packet_id, reason_code=mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS),
        mqtt5.SubAckPacket(asked.packet_id, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED]),
        mqtt5.PublishPacket("t", b"after"),
    )
    assert link.receive(WAIT).payload == b"after"
    assert link.counts() in (
        {"refused_publishes": 1, "unmatched": 1, "refused_subscriptions": 1},
        {"refused_publishes": 1, "unmatched": 1},  # the last count is written a moment after the packet id is known
    )


def test_a_refused_connection_says_why(actor, link):
    actor.accept(reason_code=mqtt5.ConnAckReasonCode.BANNED, reason_str="go away")
    assert not link.wait_connected(0.5)
    assert "go away" in link.disconnect_reason


def test_a_message_is_acknowledged_when_it_is_taken_and_not_before(actor, link):
    assert actor.accept().receive_max == RECEIVE_MAXIMUM
    actor.say(*(mqtt5.PublishPacket("t", b"%d" % i, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=i) for i in (1, 2)))
    actor.talking.settimeout(0.3)
    with pytest.raises(TimeoutError):
        actor.read()
    actor.talking.settimeout(WAIT)
    assert link.receive(WAIT).payload == b"1"
    assert actor.read().packet_id == 1
    actor.accept()
    assert link.wait_connected(WAIT)
    assert link.receive(WAIT).payload == b"2"  # of the old connection: its packet id means nothing now
    actor.say(mqtt5.PublishPacket("t", b"3", qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=9))
    assert link.receive(WAIT).payload == b"3"
    assert actor.read().packet_id == 9


def test_what_was_not_acknowledged_is_sent_again_after_the_cut(actor, link):
    actor.accept()
    assert link.wait_connected(WAIT)
    link.publish("t", b"x")
    assert not actor.read().duplicate
    actor.accept()
    again = actor.read()
    assert (again.topic, again.payload, again.duplicate) == ("t", b"x", True)


def test_what_a_smaller_broker_could_not_take_is_not_sent_to_it_for_ever(actor, link):
    actor.accept()
    assert link.wait_connected(WAIT)
    link.publish("t", bytes(5000))
    actor.read()
    actor.accept(max_packet_size=1000)
    assert link.wait_connected(WAIT)
    while link.connects() < 2:
        link.receive(0.01)
    with pytest.raises(Refused):
        link.publish("t", bytes(5000))
    link.publish("t", b"small")
    assert actor.read().payload == b"small"
    assert link.counts()["dropped"] == 1


def test_a_broker_without_retained_messages_is_not_asked_for_them(actor, link):
    actor.accept(retain_available=False)
    assert link.wait_connected(WAIT)
    with pytest.raises(Refused):
        link.publish("t", b"x", retain=True)


def test_expiry_and_session_are_asked_for(actor):
    link = PahoLink(Endpoint("127.0.0.1", actor.port, "gate", session_expiry_s=60), reconnect_s=QUICK)
    asked = actor.accept()
    assert (asked.client_id, asked.session_expiry_interval, asked.clean_start) == ("gate", 60, False)
    assert link.wait_connected(WAIT)
    link.publish("t", b"x", expiry_s=5, properties={"k": "v"})
    got = actor.read()
    assert (got.message_expiry_interval, got.user_properties) == (5, [("k", "v")])
    link.close()


def test_an_address_that_is_none_is_the_operators_fault():
    for host, port in (("", 1883), ("h", 0), ("h", 65536)):
        with pytest.raises(Misconfigured):
            PahoLink(Endpoint(host, port, "gate"))


def test_a_host_that_does_not_exist_is_a_reason_and_no_crash():
    link = PahoLink(Endpoint("a..b", 1883, "gate"), reconnect_s=QUICK)
    assert not link.wait_connected(0.3)
    assert link.disconnect_reason not in ("", "not connected yet")
    link.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_network_thread_that_ended_is_not_alive_whatever_the_link_says(actor, link, monkeypatch):
    actor.accept()
    assert link.wait_connected(WAIT)
    assert link.alive()

    def ends(_timeout):
        raise SystemExit

    monkeypatch.setattr(link, "_hang_up", lambda: None)  # nor does it say that it is down
    monkeypatch.setattr(link._client, "loop", ends)
    actor.say(mqtt5.PingRespPacket())
    link._thread.join(WAIT)
    assert link.connected()
    assert not link.alive()


def test_a_network_thread_that_hangs_is_not_alive_for_long(actor, link, monkeypatch):
    actor.accept()
    assert link.wait_connected(WAIT)
    monkeypatch.setattr(paho, "STUCK_S", -1.0)
    actor.say(mqtt5.PingRespPacket())
    while link.alive():
        link.receive(0.01)


def test_a_link_that_waits_for_a_broker_lives_and_can_be_hurried():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    link = PahoLink(Endpoint("127.0.0.1", port, "gate"), reconnect_s=(3600.0, 3600.0))
    assert not link.wait_connected(0.3)
    assert link.alive()
    with socket.create_server(("127.0.0.1", port)) as broker:
        broker.settimeout(WAIT)
        link.renew()
        broker.accept()[0].close()
    link.close()


def wait_for(true):
    deadline = stopwatch() + WAIT
    while not true():
        assert stopwatch() < deadline, "it never came true"
        time.sleep(0.005)


def published(packet_id, payload):
    return mqtt5.PublishPacket("t", payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=packet_id)


def test_what_nobody_takes_is_bounded_in_bytes_whatever_happens_to_the_connection(actor, link, monkeypatch):
    monkeypatch.setattr(paho, "WAITING_BYTES", 1000)
    for _ in range(4):  # the same four each time, since none was acknowledged
        actor.accept()
        assert link.wait_connected(WAIT)
        actor.say(*(published(i, b"%d" % i * 200) for i in range(1, 5)))
        actor.say(mqtt5.PingRespPacket())
        wait_for(lambda: [m.connection for m in link._inbox].count(link.connects()) == 4)
        assert link._inbox.bytes == sum(len(m.message.payload) for m in link._inbox) <= 1000
    taken = [link.receive(WAIT).payload[:1] for _ in range(len(link._inbox))]
    assert taken[-4:] == [b"1", b"2", b"3", b"4"], "of the connection that is up nothing is lost"
    assert [actor.read().packet_id for _ in range(4)] == [1, 2, 3, 4]
    assert link.counts()["dropped"] == 16 - len(taken)


def test_a_broker_that_sends_more_than_it_may_keeps_what_finds_no_room(actor, link, monkeypatch):
    monkeypatch.setattr(paho, "WAITING_BYTES", 1000)
    actor.accept()
    assert link.wait_connected(WAIT)
    actor.say(*(published(i, b"x" * 400) for i in range(1, 6)))
    wait_for(lambda: link.counts().get("dropped") == 3)
    assert [len(link.receive(WAIT).payload) for _ in range(2)] == [400, 400]
    assert [actor.read().packet_id for _ in range(2)] == [1, 2]
    actor.talking.settimeout(0.3)
    with pytest.raises(TimeoutError):  # the three are not acknowledged, so they come again
        actor.read()


def test_the_backlog_is_what_the_broker_has_not_acknowledged(actor, link):
    actor.accept()
    assert link.wait_connected(WAIT)
    link.publish("t", b"x" * 1000)
    asked = actor.read()
    assert 1000 < link.backlog() < 1100
    actor.say(mqtt5.PubAckPacket(packet_id=asked.packet_id))
    wait_for(lambda: link.backlog() == 0)
