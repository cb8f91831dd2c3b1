"""A JPEG's markers, read before any decoder sees the bytes (ITU-T T.81, annex B).

Guarantees of `check`: one baseline or progressive 8-bit picture, grey or three components, not larger than the limits,
whole (SOI to EOI) and with nothing behind its EOI. Guarantees of `metadata`: lists every segment that is not needed to
draw the picture. Does not guarantee: that the entropy-coded data decode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edged.errors import Refused

MAX_PIXELS = 1920 * 1200
MAX_SIDE = 4096  # a picture of 65,000 x 1 pixels is a trick, not a frame
MIN_SIDE = 8
MAX_SCANS = 32  # libjpeg's own progressive script has 10; thousands cost minutes of CPU
MAX_SEGMENTS = 256

_SOF0, _SOF2, _DHT, _SOI, _EOI, _SOS, _DNL, _DHP, _APP0, _COM = (
    0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDC, 0xDE, 0xE0, 0xFE,
)  # fmt: skip
# Inside entropy-coded data FF is followed by 00 (a stuffed byte), D0..D7 (a restart) or another FF (fill).
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NO_FILL = re.compile(rb"[^\xff]")


@dataclass(frozen=True)
class Header:
    """Of the one frame in the file, in pixels."""

    width: int
    height: int
    components: int
    progressive: bool


def check(data: bytes, *, max_pixels: int = MAX_PIXELS, max_side: int = MAX_SIDE) -> Header:
    """Raises Refused: not_jpeg, truncated, trailing, oversized, unsupported, bad_jpeg."""
    header: Header | None = None
    scans = 0
    for marker, begin, end in _segments(data):
        if marker in (_SOF0, _SOF2):
            if header is not None:
                raise Refused("JPEG with two frames", code="bad_jpeg")
            header = _frame_header(data[begin:end], marker == _SOF2)
            _check_size(header, max_pixels, max_side)
        elif 0xC0 <= marker <= 0xCF and marker != _DHT:
            raise Refused(f"JPEG of a kind (marker FF{marker:02X}) that is not taken", code="unsupported")
        elif marker in (_DNL, _DHP):
            raise Refused(f"JPEG marker FF{marker:02X} is not taken", code="unsupported")
        elif marker == _SOS:
            scans += 1
            if header is None:
                raise Refused("JPEG scan before its frame", code="bad_jpeg")
            if scans > (MAX_SCANS if header.progressive else header.components):
                raise Refused(f"JPEG with more than {scans - 1} scans", code="oversized")
    if header is None or scans == 0:
        raise Refused("JPEG without a picture", code="bad_jpeg")
    return header


def metadata(data: bytes) -> tuple[str, ...]:
    """Names of segments that carry more than the picture: comments, every APPn but a JFIF header without thumbnail."""
    found = []
    for marker, begin, end in _segments(data):
        if marker == _COM:
            found.append("COM")
        elif marker == _APP0 and data[begin : begin + 5] == b"JFIF\x00" and end - begin == 14:
            continue
        elif _APP0 <= marker <= 0xEF:
            found.append(f"APP{marker - _APP0}")
    return tuple(found)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of each segment's payload between SOI and EOI."""
    if data[:2] != b"\xff\xd8":
        raise Refused("not a JPEG", code="not_jpeg")
    at, count = 2, 0
    while True:
        if at + 1 < len(data) and data[at] != 0xFF:
            raise Refused(f"JPEG without a marker at byte {at}", code="bad_jpeg")
        found = _NO_FILL.search(data, at)  # fill bytes may stand before a marker, a megabyte of them
        if found is None:
            raise Refused("JPEG cut short", code="truncated")
        marker = data[found.start()]
        at = found.end()
        if marker == _EOI:
            if at != len(data):
                raise Refused(f"{len(data) - at} bytes behind the end of the JPEG", code="trailing")
            return
        if marker in (0, 1, _SOI) or 0xD0 <= marker <= 0xD7:
            raise Refused(f"JPEG marker FF{marker:02X} out of place", code="bad_jpeg")
        count += 1
        if count > MAX_SEGMENTS:
            raise Refused(f"JPEG with more than {MAX_SEGMENTS} segments", code="oversized")
        if at + 2 > len(data):
            raise Refused("JPEG cut short", code="truncated")
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2:
            raise Refused("JPEG segment of no length", code="bad_jpeg")
        begin, at = at + 2, at + length
        if at > len(data):
            raise Refused("JPEG cut short", code="truncated")
        yield marker, begin, at
        if marker == _SOS:
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                raise Refused("JPEG cut short", code="truncated")
            at = found.start()


def _frame_header(payload: bytes, progressive: bool) -> Header:
    if len(payload) < 6:
        raise Refused("JPEG frame header cut short", code="bad_jpeg")
    precision, components = payload[0], payload[5]
    height, width = int.from_bytes(payload[1:3], "big"), int.from_bytes(payload[3:5], "big")
    if precision != 8 or components not in (1, 3):
        raise Refused(f"JPEG of {precision} bits and {components} components is not taken", code="unsupported")
    if len(payload) != 6 + 3 * components:
        raise Refused("JPEG frame header of a wrong length", code="bad_jpeg")
    for i in range(components):
        across, down = payload[7 + 3 * i] >> 4, payload[7 + 3 * i] & 15
        if not (1 <= across <= 4 and 1 <= down <= 4):
            raise Refused(f"JPEG sampling factors {across}x{down}", code="bad_jpeg")
    return Header(width, height, components, progressive)


def _check_size(header: Header, max_pixels: int, max_side: int) -> None:
    width, height = header.width, header.height
    if width * height > max_pixels or max(width, height) > max_side:
        raise Refused(f"picture of {width}x{height} is too large ({max_pixels} pixels at most)", code="oversized")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"picture of {width}x{height} is too small ({MIN_SIDE} pixels a side at least)", code="too_small")
