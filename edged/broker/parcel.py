"""A message on its way, as the broker keeps it: immutable, shared by every session that waits for it."""

from __future__ import annotations

import math
from typing import NamedTuple

from mqtt5 import PublishPacket, QoS, Will

from edged.broker.codec import length_bytes

MAX_PROPERTIES = 64  # user properties of one message; a packet can carry 400,000
# The codec's QoS is no number whatever its stub says: it neither compares nor is false for 0. Inside the broker QoS is an int.
QOS = (QoS.AT_MOST_ONCE, QoS.AT_LEAST_ONCE)
LONGEST_S = 2**32 - 1  # of an expiry interval; sums of floats may come out a little longer
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
        left = None if self.expires_at is None else min(max(1, math.ceil(self.expires_at - now)), LONGEST_S)
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
        start = 2 if head[1] < 0x80 else 3 if head[2] < 0x80 else 4  # HEAD_BYTES: never more
        # The codec counted no payload, so its remaining length is written anew.
        size = len(head) - start + len(self.payload)
        return b"".join((head[:1], length_bytes(size), head[start:])), self.payload


def wrap(packet: PublishPacket | Will, payload: bytes | memoryview, origin: str, now: float) -> Parcel:
    """Take over what a client published, or asked to have published when it vanishes; `payload` is kept, not copied."""
    interval = packet.message_expiry_interval
    pairs = packet.user_properties
    return Parcel(  # by place: by name it takes twice as long
        packet.topic,
        payload,
        int(packet.qos),
        packet.retain,
        origin,
        _OVERHEAD + len(packet.topic) + len(payload) + sum([64 + len(k) + len(v) for k, v in pairs]),
        None if interval is None else now + interval,
        pairs,
        packet.payload_format_indicator,
        packet.content_type,
        packet.response_topic,
        packet.correlation_data,
    )
