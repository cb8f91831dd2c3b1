"""How large a picture says it is, read from its first bytes before any decoder sees them: JPEG (ITU-T T.81, B.2.2), PNG
(RFC 2083, 4.1.1), BMP, WebP (RFC 9649), PGM (Netpbm).

Guarantees: a picture whose header names more pixels than MAX_PIXELS, or none, is refused; so is what is none of these, and
what plainly lacks its end (a decoder would fill the rest with grey or worse). Does not guarantee that the rest decodes, nor
how long that takes.
"""

from __future__ import annotations

import re

from edged.errors import Refused

MAX_PIXELS = 64_000_000  # the largest sensors that pictures of a training set come from
MAX_FILE = 128 * 2**20
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # DHT, JPG, DAC: the SOF range without its frames
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_PGM = re.compile(rb"P5\n(\d{1,5}) (\d{1,5})\n255\n")


def check(data: bytes) -> tuple[int, int]:
    """(width, height). Raises Refused: not a picture, no pixels or too many, cut short."""
    found = _size(data)
    if found is None:
        raise Refused("not a JPEG, PNG, BMP or WebP picture", code="bad_picture")
    width, height = found
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise Refused(f"a picture of {width}x{height} pixels, {MAX_PIXELS} at most are taken", code="oversized")
    if _cut_short(data, width * height):
        raise Refused("a picture that is cut short", code="truncated")
    return found


def _cut_short(data: bytes, pixels: int) -> bool:
    if data[:2] == b"\xff\xd8":  # a thumbnail's end comes before the picture's own scan
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data[:1] == b"\x89":
        return b"IEND" not in data
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[:2] == b"BM":
        return int.from_bytes(data[2:6], "little") > len(data)
    return len(data) < pixels


def _size(data: bytes) -> tuple[int, int] | None:
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp(data)
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
        return width, abs(height)  # a negative height says that the top row comes first
    if match := _PGM.match(data):
        return int(match[1]), int(match[2])
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """Of the first frame; libjpeg takes no second one."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _ALONE:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and at + 9 <= len(data):
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None
