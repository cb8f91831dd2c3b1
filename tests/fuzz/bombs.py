"""Fifty files that want a decoder's memory, time or trust, all of them small. `BOMBS` maps a name to the bytes."""

from __future__ import annotations

import struct
import zlib

SCAN = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00" + b"\x00" * 40
END = b"\xff\xd9"


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def sof(width: int, height: int, marker: int = 0xC0, precision: int = 8, components: int = 3) -> bytes:
    parts = b"".join(bytes((i + 1, 0x11, 0)) for i in range(components))
    return segment(marker, struct.pack(">BHHB", precision, height, width, components) + parts)


def jpeg(*segments: bytes, scans: int = 1, end: bytes = END) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + SCAN * scans + end


def tables() -> bytes:
    """Quantisation and Huffman tables as every baseline encoder writes them, so that a decoder goes on to the pixels."""
    quant = segment(0xDB, b"\x00" + b"\x01" * 64)
    bits = bytes((0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0))
    return quant + b"".join(segment(0xC4, bytes((n,)) + bits + bytes(range(12))) for n in (0x00, 0x10))


def png(width: int, height: int, rows: int = 1) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(rows * 4096)))
        + chunk(b"IEND", b"")
    )


def _sizes() -> dict[str, bytes]:
    made = {}
    for w, h in (
        (65500, 65500),
        (65535, 65535),
        (65535, 1),
        (1, 65535),
        (65535, 8),
        (4097, 8),
        (8, 4097),
        (1921, 1201),
        (0, 0),
        (640, 0),
        (7, 7),
    ):
        made[f"{w} x {h} baseline"] = jpeg(tables(), sof(w, h))
    made["65500 x 65500 progressive"] = jpeg(tables(), sof(65500, 65500, 0xC2))
    # 630 bytes that cost OpenCV 4.10 5.9 GB and 18 s.
    forged = jpeg(tables(), sof(65500, 65500))
    made["630 bytes"] = forged[:-2] + bytes(max(0, 630 - len(forged))) + END
    return made


def _kinds() -> dict[str, bytes]:
    kinds = {
        f"SOF marker FF{m:02X}": jpeg(tables(), sof(640, 360, m))
        for m in (0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
    }
    return kinds | {
        "12 bits": jpeg(tables(), sof(640, 360, precision=12)),
        "four components": jpeg(tables(), sof(640, 360, components=4)),
        "no component": jpeg(tables(), sof(640, 360, components=0)),
        "255 components": jpeg(tables(), sof(640, 360, components=255)),
        "height told later": jpeg(tables(), sof(640, 360), segment(0xDC, b"\xff\xff")),
        "hierarchical": jpeg(tables(), segment(0xDE, struct.pack(">BHHB", 8, 360, 640, 0)), sof(640, 360)),
        "two frames": jpeg(tables(), sof(640, 360), sof(4000, 4000)),
    }  # fmt: skip


def _much() -> dict[str, bytes]:
    return {
        "10,000 progressive scans": jpeg(tables(), sof(640, 360, 0xC2), scans=10_000),
        "10,000 baseline scans": jpeg(tables(), sof(640, 360), scans=10_000),
        "300 comments": jpeg(*[segment(0xFE, b"x" * 10)] * 300, sof(640, 360)),
        "a picture of comments": jpeg(*[segment(0xFE, bytes(65_000))] * 25, sof(640, 360), end=b""),
        "a megabyte of fill bytes and no end": b"\xff\xd8" + b"\xff" * 2**20,
        "segments of no length": b"\xff\xd8" + b"\xff\xe0\x00\x00" * 1000,
        "a zip behind the end": jpeg(tables(), sof(640, 360)) + b"PK\x03\x04" + bytes(1000),
        "a second picture behind the end": jpeg(tables(), sof(640, 360)) * 2,
    }


def _others() -> dict[str, bytes]:
    svg = (
        b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "'
        + b"x" * 100
        + b'">]><svg xmlns="http://www.w3.org/2000/svg"/>'
    )
    return {
        "PNG of 30,000 x 30,000": png(30_000, 30_000, 64),
        "WebP": b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xff\xff\xff\x0f" + bytes(20),
        "TIFF": b"II*\0\x08\0\0\0\x02\0\0\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\x01\x01\x04\0\x01\0\0\0\xff\xff\xff\x7f\0\0\0\0",
        "BMP": b"BM" + struct.pack("<IHHIIiiHH", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(28),
        "GIF": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x01\0\0;",
        "PPM": b"P6 60000 60000 255\n",
        "SVG": svg,
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
        "AVIF": b"\0\0\0 ftypavif\0\0\0\0avifmif1miaf" + bytes(40),
        "OpenEXR": b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(60),
        "nothing": b"",
        "the two first bytes": b"\xff\xd8",
        "begin and end": b"\xff\xd8\xff\xd9",
    }


BOMBS: dict[str, bytes] = {**_sizes(), **_kinds(), **_much(), **_others()}
