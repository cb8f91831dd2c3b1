"""Routing, sessions and what expires, with a clock that stands still and outlets that are lists."""

from __future__ import annotations

import mqtt5
import pytest
from mqtt5 import ConnectPacket, PublishPacket, QoS, SubscribePacket, TopicFilter, Will

from edged.broker.acl import Acl, OpenDoor
from edged.broker.hub import Denied, Hub, Limits


class Box:
    """An outlet: what was sent, decoded."""

    def __init__(self):
        self.sent, self.open, self.ended = [], True, None

    def send(self, packet):
        self.sent.append(mqtt5.read(memoryview(b"".join(packet)))[0])

    def ready(self):
        return self.open

    def end(self, reason):
        self.ended = reason

    def payloads(self):
        return [packet.payload for packet in self.sent]


@pytest.fixture
def hub(clock):
    return Hub(OpenDoor(), clock, Limits(session_bytes=4000, total_bytes=6000, retained=2))


def join(hub, name, *filters, **connect):
    connect = {"clean_start": False, **connect}
    box = Box()
    session, _ = hub.open(ConnectPacket(name, **connect), name, name, box)
    if filters:
        answers, wanted = hub.subscribe(session, SubscribePacket(1, [TopicFilter(f) for f in filters]))
        assert all(int(answer) < 0x80 for answer in answers)
        hub.send_retained(session, wanted)
    hub.flush(session)
    return session, box


def say(hub, session, topic, payload=b"x", qos=1, **more):
    packet = PublishPacket(topic, b"", qos=QoS(qos), packet_id=1 if qos else None, **more)
    return hub.publish(session, packet, payload)


def test_the_publisher_learns_that_nobody_is_subscribed(hub):
    alice, _ = join(hub, "alice")
    assert say(hub, alice, "t") == mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS
    join(hub, "bob", "t")
    assert say(hub, alice, "t") == mqtt5.PubAckReasonCode.SUCCESS


def test_overlapping_filters_bring_one_copy_at_the_higher_qos(hub):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob")
    filters = [TopicFilter("t/#", max_qos=QoS.AT_MOST_ONCE), TopicFilter("t/+", max_qos=QoS.EXACTLY_ONCE)]
    answers, _ = hub.subscribe(bob, SubscribePacket(1, filters))
    assert [int(a) for a in answers] == [0, 1]  # QoS 2 is granted as 1
    say(hub, alice, "t/x")
    assert [(p.payload, int(p.qos)) for p in box.sent] == [(b"x", 1)]


def test_unacknowledged_messages_come_again_marked_before_anything_newer(hub):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob", "t", session_expiry_interval=60)
    for i in range(3):
        say(hub, alice, "t", b"%d" % i)
    hub.acknowledge(bob, box.sent[1].packet_id)
    hub.lost(bob, box, graceful=False)
    say(hub, alice, "t", b"3")
    bob, again = join(hub, "bob", session_expiry_interval=60)
    assert [(p.payload, p.duplicate) for p in again.sent] == [(b"0", True), (b"2", True), (b"3", False)]
    assert again.sent[0].packet_id == box.sent[0].packet_id


def test_no_more_than_the_receive_maximum_is_unacknowledged(hub):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob", "t", receive_max=2, session_expiry_interval=60)
    for i in range(5):
        say(hub, alice, "t", b"%d" % i)
    assert box.payloads() == [b"0", b"1"]
    hub.acknowledge(bob, box.sent[0].packet_id)
    hub.acknowledge(bob, box.sent[0].packet_id)  # twice: counts once
    assert box.payloads() == [b"0", b"1", b"2"]
    hub.lost(bob, box, graceful=False)
    _, again = join(hub, "bob", receive_max=1, session_expiry_interval=60)
    assert again.payloads() == [b"1"]


def test_what_waits_is_bounded_per_session_and_in_all_and_the_publisher_is_told(hub):
    alice, _ = join(hub, "alice")
    for name in ("bob", "carol"):
        session, box = join(hub, name, f"t/{name}", session_expiry_interval=60)
        hub.lost(session, box, graceful=True)
    codes = [int(say(hub, alice, "t/bob", bytes(700))) for _ in range(5)]
    assert codes == [0, 0, 0, 0, 0x97]
    codes = [int(say(hub, alice, "t/carol", bytes(700))) for _ in range(5)]
    assert codes == [0, 0, 0x97, 0x97, 0x97]  # carol has room, the house has not
    bob, box = join(hub, "bob", session_expiry_interval=60)
    for packet in list(box.sent):
        hub.acknowledge(bob, packet.packet_id)
    assert bob.bytes == 0
    assert int(say(hub, alice, "t/carol", bytes(700))) == 0
    assert hub.counts["dropped"] == 4


def test_accounts_are_even_when_everybody_has_left(hub, clock):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob", "t", session_expiry_interval=60)
    for _ in range(3):
        say(hub, alice, "t", bytes(300))
    hub.lost(bob, box, graceful=False)
    say(hub, alice, "t", bytes(300))
    clock.time += 61
    hub.sweep()
    assert "bob" not in hub.sessions
    assert hub._waiting_bytes == 0
    assert not hub._subscriptions


def test_a_slow_reader_gets_qos_1_later_and_qos_0_never(hub):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob", "t")
    box.open = False
    say(hub, alice, "t", b"zero", qos=0)
    say(hub, alice, "t", b"one")
    box.open = True
    hub.flush(bob)
    assert box.payloads() == [b"one"]


def test_expiry_counts_down_while_waiting_and_then_takes_the_message(hub, clock):
    alice, _ = join(hub, "alice")
    bob, box = join(hub, "bob", "t", session_expiry_interval=600)
    hub.lost(bob, box, graceful=True)
    for seconds in (10, 100):
        say(hub, alice, "t", b"%d" % seconds, message_expiry_interval=seconds)
    clock.time += 30
    _, again = join(hub, "bob", session_expiry_interval=600)
    assert [(p.payload, p.message_expiry_interval) for p in again.sent] == [(b"100", 70)]


def test_the_longest_expiry_is_not_longer_for_a_clock_with_a_fraction(hub, clock):
    alice, _ = join(hub, "alice")
    _, box = join(hub, "bob", "t")
    for i in range(1000):
        clock.time = 100_000.0 + i / 997
        say(hub, alice, "t", message_expiry_interval=2**32 - 1, qos=0)
    assert {packet.message_expiry_interval for packet in box.sent} == {2**32 - 1}


def test_a_retained_message_expires_and_retained_topics_are_bounded(hub, clock):
    alice, _ = join(hub, "alice")
    say(hub, alice, "a", retain=True, message_expiry_interval=5)
    say(hub, alice, "b", retain=True)
    assert say(hub, alice, "c", retain=True) == mqtt5.PubAckReasonCode.QUOTA_EXCEEDED
    clock.time += 6
    _, box = join(hub, "bob", "#")
    assert [(p.topic, p.retain) for p in box.sent] == [("b", True)]
    hub.sweep()
    say(hub, alice, "c", retain=True)
    assert set(hub.retained) == {"b", "c"}


def test_a_delayed_will_is_not_sent_if_the_client_is_back_in_time(hub, clock):
    _, watcher = join(hub, "watcher", "state")
    will = Will("state", payload=b"offline", will_delay_interval=10)
    for away, said in ((5, []), (11, [b"offline"])):
        alice, box = join(hub, "alice", will=will, session_expiry_interval=60)
        hub.lost(alice, box, graceful=False)
        clock.time += away
        hub.sweep()
        assert watcher.payloads() == said


def test_a_second_connection_throws_the_first_out_and_its_will_is_sent(hub):
    _, watcher = join(hub, "watcher", "state")
    _, first = join(hub, "alice", will=Will("state", payload=b"offline"))
    second_session, second = join(hub, "alice")
    assert first.ended == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    assert watcher.payloads() == [b"offline"]
    hub.lost(second_session, first, graceful=False)  # the first socket closes later: that is no loss of the second
    assert hub.sessions["alice"].outlet is second


def test_no_local_and_retain_as_published_are_kept(hub):
    alice, box = join(hub, "alice")
    wanted = [TopicFilter("t", no_local=True), TopicFilter("u", retain_as_published=False)]
    hub.subscribe(alice, SubscribePacket(1, wanted))
    say(hub, alice, "t")
    say(hub, alice, "u", retain=True)
    assert [(p.topic, p.retain) for p in box.sent] == [("u", False)]


def test_a_message_larger_than_the_client_takes_is_left_out_for_it_alone(hub):
    alice, _ = join(hub, "alice")
    _, small = join(hub, "small", "t", max_packet_size=100)
    _, large = join(hub, "large", "t")
    say(hub, alice, "t", bytes(200))
    say(hub, alice, "t", b"after")
    assert small.payloads() == [b"after"]
    assert large.payloads() == [bytes(200), b"after"]


def test_shared_and_malformed_subscriptions_are_refused_with_their_own_codes(hub):
    alice, _ = join(hub, "alice")
    answers, _ = hub.subscribe(alice, SubscribePacket(1, [TopicFilter("$share/g/t"), TopicFilter("/".join("a" * 100))]))
    assert [int(a) for a in answers] == [0x9E, 0x8F]


def test_a_forbidden_will_keeps_the_client_out(clock):
    hub = Hub(Acl("site"), clock)
    with pytest.raises(Denied):
        join(hub, "alice", will=Will("edged/1/site/cam/bob/state", payload=b"offline"))
    assert hub.counts["refused_publish"] == 1
    assert "alice" not in hub.sessions
