"""The body of an MQTT 5 PUBLISH, taken apart (MQTT 5, 3.3).

paho-mqtt 2.2 copies the rest of the packet, payload included, three times for each user property, and builds its tables
of property names anew for each message: most of what a message cost the box. Nothing is checked here but that the
lengths fit.
"""

from __future__ import annotations

from typing import NamedTuple

USER_PROPERTY = 38
_FIXED = {1: 1, 2: 4, 35: 2}  # bytes of a property's value
_COUNTED = frozenset({3, 8, 9})  # a length of two bytes goes before the value
SUBSCRIPTION_ID = 11  # a variable byte integer


class Publication(NamedTuple):
    """`packet_id` is 0 with QoS 0."""

    topic: bytes
    packet_id: int
    pairs: tuple[tuple[str, str], ...]  # user properties
    payload: bytes


def take_apart(qos: int, body: bytes | bytearray) -> Publication:
    """What follows the fixed header. Raises ValueError or IndexError when it is no PUBLISH."""
    topic, at = _counted(body, 0)
    packet_id = 0
    if qos:
        packet_id, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    length, at = _variable(body, at)
    end = at + length
    if end > len(body):
        raise ValueError("the properties are longer than the packet")
    pairs = []
    while at < end:
        kind, at = body[at], at + 1
        if kind == USER_PROPERTY:
            key, at = _counted(body, at)
            value, at = _counted(body, at)
            pairs.append((key.decode(), value.decode()))
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind in _COUNTED:
            _, at = _counted(body, at)
        elif kind == SUBSCRIPTION_ID:
            _, at = _variable(body, at)
        else:
            raise ValueError(f"property {kind} in a PUBLISH")
    if at != end:
        raise ValueError("a property is longer than all of them")
    return Publication(topic, packet_id, tuple(pairs), bytes(body[end:]))


def _counted(body: bytes | bytearray, at: int) -> tuple[bytes, int]:
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    if at + 2 > len(body) or end > len(body):
        raise ValueError("a string is longer than the packet")
    return bytes(body[at + 2 : end]), end


def _variable(body: bytes | bytearray, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(body[at : at + 4]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a length without an end")
