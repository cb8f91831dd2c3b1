"""The wire format of protocol buffers, as far as ONNX files need it, without the `protobuf` package.

https://protobuf.dev/programming-guides/encoding/. Guarantees: reading raises ValueError where the bytes make no sense and
never reads beyond them; what is written reads back as it was. Does not know what a field means: who asks knows its number.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, I64, LEN, I32 = 0, 1, 2, 5  # wire types


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview, memoryview]]:
    """(number, wire type, value, the whole field) of each field, in order."""
    at = 0
    while at < len(message):
        start = at
        tag, at = varint(message, at)
        number, kind = tag >> 3, tag & 7
        begin = at
        if kind == VARINT:
            _, at = varint(message, at)
        elif kind == LEN:
            length, begin = varint(message, at)
            at = begin + length
        elif kind == I64:
            at += 8
        elif kind == I32:
            at += 4
        else:
            raise ValueError(f"wire type {kind} at byte {start}")
        if number == 0 or at > len(message):
            raise ValueError("a field without number" if number == 0 else "it is cut short")
        yield number, kind, message[begin:at], message[start:at]


def text(message: memoryview, field: int) -> str:
    """The last value of a string field, "" when it is absent."""
    found = ""
    for number, kind, raw, _ in fields(message):
        if number == field and kind == LEN:
            found = bytes(raw).decode()
    return found


def varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """A number of at most 70 bits, low bits first (LEB128), and where the next byte is."""
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 63:
            raise ValueError("it is cut short" if at >= len(buffer) else "a number of more than 64 bits")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def varints(packed: memoryview) -> Iterator[int]:
    """The numbers of a packed field."""
    at = 0
    while at < len(packed):
        value, at = varint(packed, at)
        yield value


def leb128(value: int) -> bytes:
    """What `varint` reads; negative numbers are written as two's complement of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def whole(number: int, value: int) -> bytes:
    """A field that is a whole number."""
    return leb128(number << 3 | VARINT) + leb128(value)


def block(number: int, payload: bytes) -> bytes:
    """A field that is a message, a text or bytes."""
    return leb128(number << 3 | LEN) + leb128(len(payload)) + payload
