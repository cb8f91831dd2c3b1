"""What we read of a PUBLISH is what the codec wrote, and what is none is refused."""

from __future__ import annotations

import struct

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mqtt5 import PublishPacket, QoS
from paho.mqtt import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.wire.publication import take_apart

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def body(packet: bytes) -> bytes:
    """Behind the fixed header."""
    start = 2
    while packet[start - 1] & 0x80:
        start += 1
    return packet[start:]


@settings(max_examples=300, deadline=None, database=None)
@given(
    topic=TEXT.filter(lambda t: t and not set(t) & set("+#")), payload=st.binary(max_size=300), qos=st.sampled_from([0, 1]),
    pairs=st.lists(st.tuples(TEXT, TEXT), max_size=8), expiry=st.none() | st.integers(0, 2**32 - 1),
    content=st.none() | TEXT, response=st.none() | st.just("answer"), correlation=st.none() | st.binary(max_size=20),
    indicator=st.sampled_from([0, 1]), ids=st.lists(st.integers(1, 2**28 - 1), max_size=1),
)  # fmt: skip
def test_a_publication_is_read_as_it_was_written(
    topic, payload, qos, pairs, expiry, content, response, correlation, indicator, ids
):
    written = PublishPacket(
        topic, payload, qos=QoS(qos), packet_id=7 if qos else None, user_properties=pairs, message_expiry_interval=expiry,
        content_type=content, response_topic=response, correlation_data=correlation,
        payload_format_indicator=indicator, subscription_ids=ids,
    ).write()  # fmt: skip
    found = take_apart(qos, body(written))
    assert found == (topic.encode(), 7 if qos else 0, tuple(pairs), payload)


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=60), st.sampled_from([0, 1]))
def test_garbage_is_read_as_paho_reads_it_or_refused(data, qos):
    try:
        found = take_apart(qos, data)
    except (ValueError, IndexError):
        return
    properties = Properties(PacketTypes.PUBLISH)
    head = 2 + len(found.topic) + 2 * qos
    try:
        size = properties.unpack(data[head:])[1]
    except (MQTTException, ValueError, IndexError, struct.error):
        return  # it also knows what may come only once and which letters are none
    assert found.payload == data[head + size :]
    assert list(found.pairs) == list(getattr(properties, "UserProperty", []))


@pytest.mark.parametrize("cut", range(1, 32))
def test_no_beginning_of_a_publication_is_taken_for_one(cut):
    whole = body(
        PublishPacket("t", b"", qos=QoS.AT_LEAST_ONCE, packet_id=1, user_properties=[("key", "value")] * 2).write()
    )
    assert len(whole) == 32
    with pytest.raises((ValueError, IndexError)):
        take_apart(1, whole[:cut])


def test_the_codec_agrees():
    packet, _ = mqtt5.read(memoryview(PublishPacket("t", b"p", user_properties=[("k", "v")]).write()))
    assert packet.user_properties == [("k", "v")]
