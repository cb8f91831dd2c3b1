"""A message on its way, as the broker keeps it: immutable, shared by every session that waits for it."""

from __future__ import annotations

import math
from typing import NamedTuple

from mqtt5 import PublishPacket, QoS, Will

from edged.broker.codec import length_bytes

MAX_PROPERTIES = 64  # user properties of one message; a packet can carry 400,000
# The codec's QoS is no number whatever its stub says: it neither compares nor is false for 0. Inside the broker QoS is an int.
QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE)
_OVERHEAD = 256  # what the objects of one waiting message cost beside its bytes, estimated


Pieces = tuple[bytes, bytes | memoryview]  # a packet: what goes before the payload, and the payload, shared by all


class Parcel(NamedTuple):
    """`qos` is 0 or 1; `expires_at` is monotonic seconds, None = never; `origin` is the publisher's client id."""

    topic: str
    payload: bytes | memoryview
    qos: int
    retain: bool
    origin: str
    size: int
    expires_at: float | None
    user_properties: list[tuple[str, str]]
    payload_format_indicator: int
    content_type: str | None
    response_topic: str | None
    correlation_data: bytes | None

    def expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def packet(self, now: float, qos: int, retain: bool, packet_id: int | None, duplicate: bool) -> Pieces:
        """The PUBLISH as one subscriber gets it; the expiry interval is what is left of it (MQTT 5, 3.3.2.3.3)."""
        left = None if self.expires_at is None else max(1, math.ceil(self.expires_at - now))
        head = PublishPacket(
            self.topic,
            b"",
            qos=QOS[qos],
            retain=retain,
            packet_id=packet_id,
            duplicate=duplicate,
            message_expiry_interval=left,
            payload_format_indicator=self.payload_format_indicator,
            content_type=self.content_type,
            response_topic=self.response_topic,
            correlation_data=self.correlation_data,
            user_properties=self.user_properties,
        ).write()
        start = 2  # the codec counted no payload: its remaining length is written anew
        while head[start - 1] & 0x80:
            start += 1
        size = len(head) - start + len(self.payload)
        return b"".join((head[:1], length_bytes(size), head[start:])), self.payload


def wrap(packet: PublishPacket | Will, payload: bytes | memoryview, origin: str, now: float) -> Parcel:
    """Take over what a client published, or asked to have published when it vanishes; `payload` is kept, not copied."""
    interval = packet.message_expiry_interval
    pairs = packet.user_properties
    return Parcel(
        topic=packet.topic,
        payload=payload,
        qos=int(packet.qos),
        retain=packet.retain,
        origin=origin,
        size=_OVERHEAD + len(packet.topic) + len(payload) + sum([64 + len(k) + len(v) for k, v in pairs]),
        expires_at=None if interval is None else now + interval,
        user_properties=pairs,
        payload_format_indicator=packet.payload_format_indicator,
        content_type=packet.content_type,
        response_topic=packet.response_topic,
        correlation_data=packet.correlation_data,
    )
