"""The one way bytes from a socket become packets: mqtt5's reader, with its ways to fail made one.

Guarantees: whatever the bytes are, `packet_size` and `decode` return or raise NotMqtt. mqtt5 0.8.0 says ValueError or
IndexError for malformed bytes, and for a string that is no UTF-8 it panics, which in Python is a BaseException that
would pass through every `except Exception` (and is printed on stderr by Rust).
"""

from __future__ import annotations

import mqtt5

from edged.errors import Refused


class NotMqtt(Refused):
    """Bytes that are no MQTT 5 packet."""

    code = "malformed"


def packet_size(data: bytearray, at: int, end: int) -> int | None:
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


def decode(whole: memoryview) -> mqtt5.Packet:
    """The packet that these bytes are; raises NotMqtt."""
    try:
        packet, _ = mqtt5.read(whole)
    except (ValueError, IndexError) as e:
        raise NotMqtt(str(e)) from e
    except BaseException as e:
        if type(e).__name__ != "PanicException":  # pyo3's class, which cannot be imported
            raise
        raise NotMqtt("a string that is no UTF-8") from e
    return packet
