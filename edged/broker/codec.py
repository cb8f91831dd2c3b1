"""The one way bytes from a socket become packets: mqtt5's reader, with its ways to fail made one.

Guarantees: whatever the bytes are, `packet_size` and `decode` return or raise NotMqtt; a payload is not copied, and what
is not payload is read only if it is short. mqtt5 0.8.0 says ValueError or IndexError for malformed bytes, and for a
string that is no UTF-8 it panics, which in Python is a BaseException that would pass through every `except Exception`
(and is printed on stderr by Rust).
"""

from __future__ import annotations

import mqtt5

from edged.errors import Refused

HEAD_BYTES = 64 * 1024  # largest packet without its payload; the strings of 400,000 user properties would cost 64 MB
_PUBLISH = 3


class NotMqtt(Refused):
    """Bytes that are no MQTT 5 packet, or (code `too_large`) none that would be worth reading."""

    code = "malformed"


def packet_size(data: bytearray | memoryview, at: int, end: int) -> int | None:
    """Bytes of the packet that begins at `at`, header included; None if that cannot be told yet from what is before
    `end`. Raises NotMqtt."""
    length = 0
    for i in range(1, 5):
        if at + i >= end:
            return None
        byte = data[at + i]
        length |= (byte & 0x7F) << 7 * (i - 1)
        if not byte & 0x80:
            return 1 + i + length
    raise NotMqtt("a remaining length of more than four bytes")


def decode(whole: memoryview) -> tuple[mqtt5.Packet, memoryview]:
    """The packet that these bytes are, and its payload as a part of them; raises NotMqtt.

    A PublishPacket comes back with an empty payload: the codec sees the head alone, so that it copies nothing large.
    """
    if not whole or whole[0] >> 4 != _PUBLISH:
        if len(whole) > HEAD_BYTES:
            raise NotMqtt(f"a packet of {len(whole)} bytes that is no message", code="too_large")
        return _read(whole), whole[:0]
    start, end = _head(whole)
    if end - start > HEAD_BYTES:
        raise NotMqtt(f"a message with {end - start} bytes before its payload", code="too_large")
    return _read(memoryview(b"".join((whole[:1], length_bytes(end - start), whole[start:end])))), whole[end:]


def length_bytes(n: int) -> bytes:
    """A variable byte integer (MQTT 5, 1.5.5); 0..268435455."""
    if n < 0x80:
        return bytes((n,))
    if n < 0x4000:
        return bytes((n & 0x7F | 0x80, n >> 7))
    if n < 0x200000:
        return bytes((n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14))
    return bytes((n & 0x7F | 0x80, n >> 7 & 0x7F | 0x80, n >> 14 & 0x7F | 0x80, n >> 21))


def _head(whole: memoryview) -> tuple[int, int]:
    """Where a PUBLISH's variable header begins and ends; what stands there is the codec's to judge."""
    try:
        start = 2
        while whole[start - 1] & 0x80:
            start += 1
        at = start + 2 + (whole[start] << 8 | whole[start + 1])
        if whole[0] & 0x06:  # QoS > 0: a packet id
            at += 2
        properties = shift = 0
        while True:
            byte = whole[at]
            at += 1
            properties |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
    except IndexError as e:
        raise NotMqtt("a message that ends in its header") from e
    if shift > 21 or at + properties > len(whole):
        raise NotMqtt("a message that ends in its properties")
    return start, at + properties


def _read(whole: memoryview) -> mqtt5.Packet:
    try:
        packet, _ = mqtt5.read(whole)
    except (ValueError, IndexError) as e:
        raise NotMqtt(str(e)) from e
    except BaseException as e:
        if type(e).__name__ != "PanicException":  # pyo3's class, which cannot be imported
            raise
        raise NotMqtt("a string that is no UTF-8") from e
    return packet
