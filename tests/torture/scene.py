"""What the torture's cameras send: all of a frame follows from its camera and id, so a verifier knows the right bytes.

`open_store` opens a store as the daemon's start does.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from edged.clock import Clock
from edged.errors import Unavailable
from edged.storage import Store, erasure, recover, requests
from edged.wire.messages import Frame, FrameHeader, Region

CAMERAS = ("dock", "gate", "yard")
SITE_KEY = bytes(range(32))
START = 1_795_262_400.0  # 2026-11-21T12:00:00Z
SEGMENT_BYTES = 32 * 1024  # a few frames each, so that segments are used again and again
MAX_BYTES = 24 * SEGMENT_BYTES


@dataclass(frozen=True)
class Sent:
    """A frame as it came, and what privacy made of it (`withheld`: nothing)."""

    frame: Frame
    scrubbed: SimpleNamespace
    withheld: bool


def noise(name: str, size: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(size)


def frame(camera: str, frame_id: str) -> Sent:
    """A picture of 3 to 8 kB with up to four crops; one in eight is withheld, one in eight a region sent alone."""
    name = f"{camera} {frame_id}"
    dice = noise(f"dice {name}", 8)
    alone = dice[0] % 8 == 0
    jpeg = noise(f"picture {name}", 3000 + int.from_bytes(dice[1:3]) % 5000)
    crops = (jpeg,) if alone else tuple(noise(f"crop {i} {name}", 300 + dice[3] * 4) for i in range(dice[4] % 5))
    regions = tuple(Region(x=9 * i, y=0, w=9, h=9, label="car", score=0.9, margin=0.5) for i in range(len(crops)))
    seq = int(frame_id.rpartition("-")[2])
    header = FrameHeader(id=frame_id, ts=START + seq, seq=seq, boot="boot", w=640, h=480, regions=regions)
    sent = Frame(camera, header, noise(f"raw {name}", 100), "roi" if alone else "frame")
    scrubbed = SimpleNamespace(jpeg=jpeg, width=640, height=480, crops=crops, regions={"face": 1}, ms={"scrub": 1.0})
    return Sent(sent, scrubbed, withheld=dice[5] % 8 == 0)


LINGER_S = 0.05  # as in life, rows follow their receipts; shorter, so that there are moments of every kind


def open_store(data_dir: Path, clock: Clock, *, max_bytes: int = MAX_BYTES, recovers: bool = True) -> Store:
    """Open, recover, finish what erasures had promised; `recovers` False is a start that forgets to recover."""
    store = Store.open(
        data_dir, clock=clock, site_key=SITE_KEY, segment_bytes=SEGMENT_BYTES, max_bytes=max_bytes, linger_s=LINGER_S
    )
    try:
        if recovers:
            recover.run(store)
        for asked in requests.pending(store):
            if asked.verb == erasure.VERB:
                with suppress(Unavailable):  # as the daemon's upkeep, which tries again later
                    erasure.run(store, asked.id)
    except BaseException:
        store.close()
        raise
    return store
