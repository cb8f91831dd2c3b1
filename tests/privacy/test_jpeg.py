"""What never reaches the decoder."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.engine import patterns
from edged.errors import Refused
from edged.privacy import jpeg


def sof(width: int, height: int, marker: int = 0xC0, precision: int = 8, components: int = 3) -> bytes:
    body = struct.pack(">BHHB", precision, height, width, components) + b"".join(
        bytes((i + 1, 0x11, 0)) for i in range(components)
    )
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


SCAN = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00" + b"\x00" * 40


def forged(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + SCAN + b"\xff\xd9"


def code_of(data: bytes) -> str:
    with pytest.raises(Refused) as caught:
        jpeg.check(data)
    return caught.value.code


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cameras_picture_is_taken(encode, progressive):
    data = encode(np.ascontiguousarray(patterns.picture(1, 640)[:360]), progressive=progressive)
    assert jpeg.check(data) == jpeg.Header(640, 360, 3, progressive)
    assert jpeg.metadata(data) == ()


def test_a_grey_picture_is_taken(encode):
    assert jpeg.check(encode(patterns.picture(1, 64)[..., 0])).components == 1


def test_a_few_hundred_bytes_that_claim_four_thousand_million_pixels_are_refused():
    bomb = forged(sof(65000, 65000), b"\xff\xfe\x02\x00" + b"x" * 510)
    assert len(bomb) < 700
    assert code_of(bomb) == "oversized"


@pytest.mark.parametrize(("width", "height"), [(65535, 8), (8, 65535), (1921, 1200), (4097, 100)])
def test_odd_giants_are_refused(width, height):
    assert code_of(forged(sof(width, height))) == "oversized"


def test_the_largest_picture_is_just_taken():
    assert jpeg.check(forged(sof(1920, 1200))).width == 1920


@pytest.mark.parametrize(("width", "height"), [(0, 720), (1280, 0), (7, 100)])
def test_pictures_of_next_to_nothing_are_refused(width, height):
    assert code_of(forged(sof(width, height))) == "too_small"


@pytest.mark.parametrize(
    ("what", "data", "code"),
    [
        ("nothing", b"", "not_jpeg"),
        ("a PNG", b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, "not_jpeg"),
        ("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_jpeg"),
        ("arithmetic coding", forged(sof(64, 64, 0xC9)), "unsupported"),
        ("lossless", forged(sof(64, 64, 0xC3)), "unsupported"),
        ("hierarchical", forged(b"\xff\xde\x00\x04\x00\x00", sof(64, 64)), "unsupported"),
        ("12 bits", forged(sof(64, 64, precision=12)), "unsupported"),
        ("CMYK", forged(sof(64, 64, components=4)), "unsupported"),
        ("two frames", forged(sof(64, 64), sof(64, 64)), "bad_jpeg"),
        ("no frame", forged(), "bad_jpeg"),
        ("no scan", b"\xff\xd8" + sof(64, 64) + b"\xff\xd9", "bad_jpeg"),
        ("a second start", forged(b"\xff\xd8", sof(64, 64)), "bad_jpeg"),
        ("a restart outside a scan", forged(b"\xff\xd0", sof(64, 64)), "bad_jpeg"),
        ("noise between segments", forged(b"noise", sof(64, 64)), "bad_jpeg"),
        ("ten thousand segments", forged(b"\xff\xfe\x00\x02" * 10_000, sof(64, 64)), "oversized"),
        ("a thousand scans", b"\xff\xd8" + sof(64, 64, 0xC2) + SCAN * 1000 + b"\xff\xd9", "oversized"),
    ],
)
def test_what_is_no_plain_jpeg_is_refused_by_name(what, data, code):
    assert code_of(data) == code, what


def test_every_cut_is_noticed(encode):
    data = encode(patterns.picture(2, 96))
    for length in range(2, len(data)):
        assert code_of(data[:length]) in {"truncated", "bad_jpeg"}, length


@pytest.mark.parametrize("tail", [b"\x00", b"second picture", b"\xff\xd9"])
def test_bytes_behind_the_end_are_refused(encode, tail):
    assert code_of(encode(patterns.picture(2, 96)) + tail) == "trailing"


def test_metadata_is_listed(encode):
    data = encode(patterns.picture(2, 96))
    exif = b"\xff\xe1\x00\x0aExif\x00\x00GP"
    assert jpeg.metadata(data[:2] + exif + data[2:]) == ("APP1",)
    assert jpeg.metadata(data[:2] + b"\xff\xfe\x00\x06home" + data[2:]) == ("COM",)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutant_gets_anything_but_a_header_or_a_refusal(data):
    good = bytearray(forged(sof(64, 48), b"\xff\xfe\x00\x06note", b"\xff\xe1\x00\x08Exif\x00\x00"))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        header = jpeg.check(bytes(good))
    except Refused:
        return
    assert header.width * header.height <= jpeg.MAX_PIXELS
