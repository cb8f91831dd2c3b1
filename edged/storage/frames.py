"""Frames: answered once, for good.

Guarantees: when `add` or `settle` returns, the answer survives a power cut, and every later call for the same camera,
id and bytes gives the same receipt and adds nothing. The frame, its samples and its camera are one record (journal.py) and
one transaction. An id that comes back with other bytes is Refused("id_reused"). Does not guarantee that the picture stays:
retention and erasure take pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from edged.clock import day
from edged.errors import Refused, Unavailable
from edged.storage import cameras, counters, gaps, journal, objects, reserve, seal, segment
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt, Region

if TYPE_CHECKING:
    from edged.privacy.scrub import Scrubbed
    from edged.storage.seal import DataKey

Status = Literal["stored", "withheld", "refused"]
_DOCUMENT = "document"  # the kind that a record's document is sealed as


class Answer(Struct, frozen=True, omit_defaults=True):
    """All rows of one answered frame: the document of its record. Times in seconds since 1970; lengths in pixels."""

    camera: str
    id: str
    kind: str
    sha256: str  # of the bytes as they arrived
    seq: int
    boot: str
    ts: float
    received: float
    width: int
    height: int
    status: Status
    model: str = ""
    detail: str = ""
    scrub: dict[str, dict[str, int | float]] = {}
    regions: tuple[Region, ...] = ()
    picture: str | None = None  # object of the frame
    crops: tuple[str | None, ...] = ()  # object of each region; a region that is the whole picture has the frame's

    def receipt(self) -> FrameReceipt:
        return FrameReceipt(id=self.id, sha256=self.sha256, status=self.status, detail=self.detail)


def add(store: Store, frame: Frame, scrubbed: Scrubbed) -> FrameReceipt:
    """Keep a scrubbed frame and its regions; durable when it returns.

    Raises Unavailable("disk_full") below the reserve, Refused("id_reused"), Refused("bad_regions") when the number of
    crops does not fit the header, Misconfigured without the site key.
    """
    answer = _answer(store, frame, "stored", "")
    if (known := _known(store, answer)) is not None:
        return known
    reserve.require(store.data_dir)
    regions = _regions(frame, scrubbed)
    key = store.seal.key_for(store, frame.camera, day(answer.received))
    whole = objects.sealed(key, frame.camera, "frame", scrubbed.jpeg, answer.received)
    bodies, crops = [whole], []
    for content in scrubbed.crops:
        if content != scrubbed.jpeg:  # a region that is the whole picture is kept once
            bodies.append(objects.sealed(key, frame.camera, "crop", content, answer.received))
        crops.append(bodies[-1].id if content != scrubbed.jpeg else whole.id)
    answer = msgspec.structs.replace(
        answer, scrub={"regions": dict(scrubbed.regions), "ms": dict(scrubbed.ms)}, regions=tuple(regions),
        picture=whole.id, crops=tuple(crops),
    )  # fmt: skip
    return _append(store, answer, key, tuple(bodies))


def settle(store: Store, frame: Frame, status: Literal["withheld", "refused"], detail: str) -> FrameReceipt:
    """Record that nothing of this frame was kept, and why (a short reason, no personal data)."""
    answer = _answer(store, frame, status, detail[:500])
    if (known := _known(store, answer)) is not None:
        return known
    reserve.require(store.data_dir)
    if store.has_key:
        try:
            return _append(store, answer, store.seal.key_for(store, frame.camera, day(answer.received)), ())
        except Unavailable as e:
            if e.code != "disk_full":  # a row still fits: that is what the reserve is for
                raise
    with store.transaction():
        known = _known(store, answer)
        if known is None:
            insert(store, answer)
    return known or answer.receipt()


def find_receipt(store: Store, camera: str, frame_id: str) -> FrameReceipt | None:
    """The receipt this frame id was answered with, or None. Compare its `sha256` with the bytes at hand."""
    row = store.row("select sha256, status, detail from frame where camera = ? and id = ?", (camera, frame_id))
    return None if row is None else FrameReceipt(frame_id, row["sha256"], row["status"], row["detail"])


def last_picture(store: Store, camera: str) -> bytes | None:
    """The newest scrubbed JPEG of a camera that is still there, unsealed."""
    row = store.row(
        "select object from frame where camera = ? and object is not null order by received desc limit 1", (camera,)
    )
    return None if row is None else objects.read(store, row["object"])


def count(store: Store, status: str = "stored") -> int:
    """Frames that were answered so, those included whose rows are gone by now (pruning.py)."""
    rows = int(store.value("select count(*) from frame where status = ?", (status,)))
    return rows + counters.get(store, f"pruned:{status}")


def opened(document: bytes, key: DataKey, record_id: str, camera: str) -> Answer:
    """The rows in a record's document. Raises Corrupt."""
    content = seal.unseal(key, document, id=record_id, camera=camera, kind=_DOCUMENT)
    return msgspec.json.decode(content, type=Answer)


def record_of(answer: Answer, key: DataKey, bodies: tuple[segment.Body, ...]) -> segment.Record:
    """The record that explains these bodies."""
    record_id = objects.new_id(answer.received)
    content = msgspec.json.encode(answer)
    document = seal.seal(key, content, id=record_id, camera=answer.camera, kind=_DOCUMENT)
    return segment.Record(record_id, key.id, document, bodies)


def insert(store: Store, a: Answer, there: Container[str] | None = None) -> None:
    """The rows of an answer; its objects have theirs: all, or those `there`. Call inside a transaction."""

    def known(object_id: str | None) -> str | None:
        return object_id if there is None or object_id in there else None

    cameras.seen(store, a.camera, a.received, stored=a.status == "stored")
    gaps.note(store, a.camera, a.boot, a.seq, a.received)
    store.execute(
        "insert into frame (id, camera, kind, sha256, seq, boot, ts, received, width, height, model, status, detail,"
        " object, scrub) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (a.id, a.camera, a.kind, a.sha256, a.seq, a.boot, a.ts, a.received, a.width, a.height, a.model, a.status,
         a.detail, known(a.picture), msgspec.json.encode(a.scrub).decode()),
    )  # fmt: skip
    store.execute_many(
        "insert into sample (id, camera, frame, ts, received, x, y, w, h, model, predicted, score, margin, object)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (sample_id(a, i), a.camera, a.id, a.ts, a.received, r.x, r.y, r.w, r.h, a.model, r.label, r.score, r.margin,
             known(a.crops[i]))
            for i, r in enumerate(a.regions)
        ],
    )  # fmt: skip


def sample_id(a: Answer, index: int) -> str:
    return f"{a.camera}:{a.id}:{index}"


def _append(store: Store, answer: Answer, key: DataKey, bodies: tuple[segment.Body, ...]) -> FrameReceipt:
    def rows(place: journal.Place) -> FrameReceipt:
        objects.insert(store, answer.camera, key.id, answer.received, place)
        insert(store, answer)
        return answer.receipt()

    def known() -> FrameReceipt | None:
        store.seal.require_live(store, key.id)  # its rows may come after the receipt, and must not be refused then
        return _known(store, answer)

    name, record = (answer.camera, answer.id), record_of(answer, key, bodies)
    receipt: FrameReceipt = store.journal.append(journal.Draft(name, record, known, rows, promised=answer.receipt()))
    return receipt


def _answer(store: Store, frame: Frame, status: Status, detail: str) -> Answer:
    h = frame.header
    return Answer(
        camera=frame.camera, id=h.id, kind=frame.kind, sha256=hashlib.sha256(frame.jpeg).hexdigest(), seq=h.seq,
        boot=h.boot, ts=h.ts, received=frame.received or store.clock.now(), width=h.w, height=h.h, model=h.model,
        status=status, detail=detail,
    )  # fmt: skip


def _known(store: Store, answer: Answer) -> FrameReceipt | None:
    known = find_receipt(store, answer.camera, answer.id)
    if known is not None and known.sha256 != answer.sha256:
        raise Refused(f"frame id {answer.id} of {answer.camera} came again with other bytes", code="id_reused")
    return known


def _regions(frame: Frame, scrubbed: Scrubbed) -> Sequence[Region]:
    regions: Sequence[Region] = frame.header.regions
    if frame.kind == "roi":
        regions = regions[:1] or (Region(x=0, y=0, w=frame.header.w, h=frame.header.h),)
    if len(regions) != len(scrubbed.crops):
        raise Refused(f"{len(regions)} regions but {len(scrubbed.crops)} crops", code="bad_regions")
    return regions
