"""Mutations of good inputs, by seed: bytes changed, cut, doubled, moved, joined with another, and known nasty words."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import cv2
import numpy as np

from edged.storage import segment

NASTY = (
    b"", b"\0", b"\xff", b"\xff\xd8", b"\xff\xd9", b"nan", b"inf", b"-1", b"1e308", b"1" * 400, b"[" * 10_000,
    b'{"a":' * 2000, b"\xed\xa0\x80", "\u202e".encode(), b"\r\n", b"../../etc/passwd", b"+/#", b"$SYS", b"18446744073709551616",
)  # fmt: skip


def mutant(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] = rng.randrange(256)
            case 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.choice((1, 2, 16, 400))]
            case 3:
                data[at:at] = data[at : at + rng.choice((1, 4, 64))]
            case 4:
                data[at:at] = rng.choice(NASTY)
            case 5:
                other = rng.choice(seeds)
                cut = rng.randrange(len(other) + 1)
                data[at:] = other[cut:]
            case _:
                del data[at:]
    return bytes(data)


def seeds_of(target: str) -> list[bytes]:
    """Good inputs of a target."""
    return {
        "header": _headers, "document": _documents, "topic": _topics, "markers": pictures, "record": _records,
        "epk": _packed,
    }[target]()  # fmt: skip


def pictures(px: int = 64, colour: tuple[int, int, int] | None = None) -> list[bytes]:
    """Small JPEGs: baseline, progressive, with restarts, grey; of noise, or grey noise, or one colour."""
    rng = np.random.default_rng(1)
    made = []
    for progressive, restart, quality in ((0, 0, 90), (1, 0, 80), (0, 4, 60), (0, 0, 30)):
        image = rng.integers(0, 256, (px, px, 1), np.uint8).repeat(3, 2)
        if colour is not None:
            image[:] = colour
        flags = [
            cv2.IMWRITE_JPEG_QUALITY,
            quality,
            cv2.IMWRITE_JPEG_PROGRESSIVE,
            progressive,
            cv2.IMWRITE_JPEG_RST_INTERVAL,
            restart,
        ]
        made.append(cv2.imencode(".jpg", image, flags)[1].tobytes())
    return made


def _headers() -> list[bytes]:
    regions = json.dumps([{"x": 1, "y": 2, "w": 3, "h": 4, "label": "car", "score": 0.5, "margin": 0.25}] * 3)
    pairs = {
        "id": "boot-1",
        "ts": "1795262400.5",
        "seq": "7",
        "boot": "boot",
        "w": "1280",
        "h": "720",
        "model": "",
        "regions": regions,
    }
    return ["\n".join(f"{k}\n{v}" for k, v in pairs.items()).encode()]


def _documents() -> list[bytes]:
    stats = {"ts": 1.5, "fps": 2.0, "infer_ms": 3.0, "stages_ms": {"a": 1}}
    return [
        json.dumps(d).encode()
        for d in (
            {"boot": "b", "agent": "1", "hw": "generic", "runtimes": ["onnxruntime"], "mem_bytes": 1},
            stats | {"mem_bytes": 1, "spool_frames": 0, "dropped_total": 0},
            {"name": "n", "version": 1, "sha256": "0" * 64, "job": "j", "status": "QUEUED"},
            {"sha256": "0" * 64, "chunks": [0, 1, 2]},
            {"id": "boot-1", "sha256": "0" * 64, "status": "stored"},
        )
    ]


def _topics() -> list[bytes]:
    return [
        b"edged/1/plant-a/cam/gate/frame",
        b"edged/1/plant-a/server/edge-1/state",
        b"edged/1/plant-a/model/meta/root.json",
    ]


def _packed() -> list[bytes]:
    from edged import packed
    from tests.packed.made import model, samples

    return [packed.pack(model(w=array)) for array in samples().values()]


def _records() -> list[bytes]:
    rng = random.Random(1)
    data, offset = bytearray(), 0
    for n in range(3):
        bodies = tuple(segment.Body.of(rng.randbytes(16).hex(), "crop", rng.randbytes(200)) for _ in range(n))
        record = segment.Record(rng.randbytes(16).hex(), "k", rng.randbytes(60), bodies)
        pieces, _ = segment.encode(record, 1, 1, offset)
        data += b"".join(pieces)
        offset += record.size
    return [bytes(data)]
