"""Frames: answered once, for good.

Guarantees: when `add` or `settle` returns, the answer survives a power cut, and every later call for the same camera,
id and bytes gives the same receipt and adds nothing. The frame, its samples and its camera are one transaction. An id
that comes back with other bytes is Refused("id_reused"). Does not guarantee that the picture stays: retention and
erasure take pictures, never rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from edged.errors import Refused
from edged.storage import cameras, objects, retention
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt, Region

if TYPE_CHECKING:
    from edged.privacy.scrub import Scrubbed


def add(store: Store, frame: Frame, scrubbed: Scrubbed) -> FrameReceipt:
    """Keep a scrubbed frame and its regions; durable when it returns.

    Raises Unavailable("disk_full") below the reserve, Refused("id_reused"), Refused("bad_regions") when the number of
    crops does not fit the header, Misconfigured without the site key.
    """
    digest = hashlib.sha256(frame.jpeg).hexdigest()
    known = _answered(store, frame, digest)
    if known is not None:
        return known
    retention.require_space(store, len(scrubbed.jpeg))
    regions = _regions(frame, scrubbed)
    received = frame.received or store.clock.now()
    # A region that is the whole picture is kept once.
    contents = [("frame", scrubbed.jpeg)] + [("crop", c) for c in scrubbed.crops if c != scrubbed.jpeg]
    with objects.writing(store):
        made = objects.write(store, frame.camera, received, contents)
        inserted = False
        try:
            with store.transaction():
                known = _answered(store, frame, digest)  # another thread or process may have been faster
                if known is None:
                    _insert(store, frame, digest, received, "stored", "", scrubbed, regions, made)
                    inserted = True
        finally:
            # Not after a failed commit: whether it reached the disk is then unknown, and a row must not lose its file.
            if not inserted:
                objects.discard(store, made)
    return known or _receipt(frame.header.id, digest, "stored", "")


def settle(store: Store, frame: Frame, status: Literal["withheld", "refused"], detail: str) -> FrameReceipt:
    """Record that nothing of this frame was kept, and why (a short reason, no personal data)."""
    digest = hashlib.sha256(frame.jpeg).hexdigest()
    with store.transaction():
        known = _answered(store, frame, digest)
        if known is not None:
            return known
        _insert(store, frame, digest, frame.received or store.clock.now(), status, detail[:500], None, (), ())
    return _receipt(frame.header.id, digest, status, detail[:500])


def find_receipt(store: Store, camera: str, frame_id: str) -> FrameReceipt | None:
    """The receipt this frame id was answered with, or None. Compare its `sha256` with the bytes at hand."""
    row = store.row("select sha256, status, detail from frame where camera = ? and id = ?", (camera, frame_id))
    return None if row is None else _receipt(frame_id, row["sha256"], row["status"], row["detail"])


def last_picture(store: Store, camera: str) -> bytes | None:
    """The newest scrubbed JPEG of a camera that is still there, unsealed."""
    row = store.row(
        "select object from frame where camera = ? and object is not null order by received desc limit 1", (camera,)
    )
    return None if row is None else objects.read(store, row["object"])


def count(store: Store, status: str = "stored") -> int:
    return int(store.value("select count(*) from frame where status = ?", (status,)))


def _answered(store: Store, frame: Frame, digest: str) -> FrameReceipt | None:
    known = find_receipt(store, frame.camera, frame.header.id)
    if known is not None and known.sha256 != digest:
        raise Refused(f"frame id {frame.header.id} of {frame.camera} came again with other bytes", code="id_reused")
    return known


def _receipt(frame_id: str, digest: str, status: Literal["stored", "withheld", "refused"], detail: str) -> FrameReceipt:
    return FrameReceipt(id=frame_id, sha256=digest, status=status, detail=detail)


def _regions(frame: Frame, scrubbed: Scrubbed) -> Sequence[Region]:
    regions: Sequence[Region] = frame.header.regions
    if frame.kind == "roi":
        regions = regions[:1] or (Region(x=0, y=0, w=frame.header.w, h=frame.header.h),)
    if len(regions) != len(scrubbed.crops):
        raise Refused(f"{len(regions)} regions but {len(scrubbed.crops)} crops", code="bad_regions")
    return regions


def _insert(
    store: Store,
    frame: Frame,
    digest: str,
    received: float,
    status: str,
    detail: str,
    scrubbed: Scrubbed | None,
    regions: Sequence[Region],
    made: Sequence[objects.Sealed],
) -> None:
    header = frame.header
    cameras.seen(store, frame.camera, received, stored=scrubbed is not None)
    objects.record(store, made)
    scrub = "{}"
    if scrubbed is not None:
        scrub = msgspec.json.encode({"regions": dict(scrubbed.regions), "ms": dict(scrubbed.ms)}).decode()
    store.execute(
        "insert into frame (id, camera, kind, sha256, seq, boot, ts, received, width, height, model, status, detail,"
        " object, scrub) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (header.id, frame.camera, frame.kind, digest, header.seq, header.boot, header.ts, received, header.w, header.h,
         header.model, status, detail, made[0].id if made else None, scrub),
    )  # fmt: skip
    if scrubbed is None:
        return
    crops = iter(made[1:])
    crop_objects = [made[0].id if c == scrubbed.jpeg else next(crops).id for c in scrubbed.crops]
    store.execute_many(
        "insert into sample (id, camera, frame, ts, received, x, y, w, h, model, predicted, score, margin, object)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (f"{frame.camera}:{header.id}:{i}", frame.camera, header.id, header.ts, received, r.x, r.y, r.w, r.h,
             header.model, r.label, r.score, r.margin, crop_objects[i])
            for i, r in enumerate(regions)
        ],
    )  # fmt: skip
