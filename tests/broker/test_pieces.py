"""Packets as they come off the wire: in pieces of any size, through a buffer that others write into as well."""

from __future__ import annotations

import asyncio

import mqtt5
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import ConnectPacket, PublishPacket, QoS, SubscribePacket, TopicFilter

from edged.broker.acl import OpenDoor
from edged.broker.codec import decode, length_bytes, packet_size
from edged.broker.connection import Connection
from edged.broker.parcel import wrap
from edged.broker.server import Broker

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Cc"]), max_size=20)


@st.composite
def messages(draw):
    qos = draw(st.integers(0, 1))
    size = draw(st.sampled_from([0, 1, 100, 127, 128, 20_000, 70_000, 200_000, 400_000]))
    return PublishPacket(
        "t/" + draw(st.sampled_from("abc")),
        bytes([draw(st.integers(0, 255))]) * size,
        qos=QoS(qos),
        retain=draw(st.booleans()),
        packet_id=draw(st.integers(1, 65535)) if qos else None,
        message_expiry_interval=draw(st.none() | st.integers(1, 2**32 - 1)),
        payload_format_indicator=draw(st.integers(0, 1)),
        content_type=draw(st.none() | texts),
        response_topic=draw(st.none() | st.just("r")),
        correlation_data=draw(st.none() | st.binary(max_size=20)),
        user_properties=draw(st.lists(st.tuples(texts, texts), max_size=64)),
    )


@settings(max_examples=100, deadline=None, database=None)
@given(messages())
def test_a_message_leaves_the_broker_as_it_came(message):
    packet, payload = decode(memoryview(message.write()))
    parcel = wrap(packet, payload, "origin", 1000.0)
    sent = b"".join(parcel.packet(1000.0, int(message.qos), message.retain, message.packet_id, False))
    assert mqtt5.read(memoryview(sent)) == (message, len(sent))


@given(st.integers(0, 268_435_455))
def test_a_length_is_written_as_it_is_read(n):
    assert packet_size(bytearray(b"0" + length_bytes(n)), 0, 5) == 1 + len(length_bytes(n)) + n


class Wire(asyncio.Transport):
    """What was written to it, and nothing behind it."""

    def __init__(self):
        super().__init__()
        self.sent = b""

    def write(self, data):
        self.sent += bytes(data)

    def get_extra_info(self, name, default=None):
        return {"subject": ((("commonName", "gate"),),)} if name == "peercert" else default

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return False

    def close(self):
        pass


class Ear:
    def __init__(self):
        self.heard = []

    def send(self, packet):
        self.heard.append(packet)

    def ready(self):
        return True

    def end(self, reason):
        raise AssertionError(reason)


@settings(max_examples=50, deadline=None, database=None)
@given(st.lists(messages(), max_size=8), st.data())
def test_in_whatever_pieces_messages_come_none_is_changed_by_what_comes_after(said, data):
    broker = Broker(OpenDoor())
    ear = Ear()
    session, _ = broker.hub.open(ConnectPacket("ear", receive_max=32), "ear", "ear", ear)
    broker.hub.subscribe(session, SubscribePacket(1, [TopicFilter("t/#")]))
    wire, connection = Wire(), Connection(broker)
    connection.connection_made(wire)
    stream = b"".join((ConnectPacket("gate").write(), *(one.write() for one in said), mqtt5.PingReqPacket().write()))
    at = 0
    while at < len(stream):
        room = connection.get_buffer(-1)
        n = min(len(room), len(stream) - at, data.draw(st.sampled_from([1, 2, 3, 100, 16384, 65536, 1 << 20])))
        room[:n] = stream[at : at + n]
        connection.buffer_updated(n)
        at += n
        broker.inbox[:] = bytes(len(broker.inbox))  # another connection's turn
    assert wire.sent.endswith(mqtt5.PingRespPacket().write())
    heard = [mqtt5.read(memoryview(b"".join(packet)))[0] for packet in ear.heard]
    assert [(one.topic, one.payload, one.user_properties) for one in heard] == [
        (one.topic, one.payload, one.user_properties) for one in said
    ]
    assert connection._partial is None
