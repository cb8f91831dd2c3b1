"""Frames wait here, on disk, until the box says that it has them.

One file per frame, `<seq>.frame`: one line of JSON (the header, the kind, the length and SHA-256 of the JPEG), then the
JPEG itself. The name orders them; the file explains itself.

Guarantees: a frame that `add` returned for is there after a kill (and, with `fsync`, after a power cut) until a
receipt whose SHA-256 matches, or until it was pushed out; a sequence number is never given out twice, whatever was
killed when; the folder never holds more than `max_bytes` and `max_frames`. Policy when full: the *oldest* go first,
sent or not, because what the camera sees now is worth more to retraining than what it saw when the cable was cut;
each is counted in `dropped_total`. A file that does not read back as written is moved to `damaged/` (the newest 16
are kept) and counted. Does not guarantee: privacy. Frames here are as the camera saw them; the state directory is
0700 and the box scrubs them.

Create: 1. temp file, fsync; 2. rename; 3. fsync folder. Delete: unlink (a resurrected frame is a duplicate, which the
box answers with the same receipt). Recover: remove temp files, index what is left, go on numbering above it.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.window import Window
from edged import durable
from edged.errors import Corrupt, Refused
from edged.wire.messages import MAX_FRAME_BYTES, FrameHeader, FrameReceipt, Sha256

SEQ_BLOCK = 1024  # sequence numbers reserved per write of `next-seq`; a restart skips what is left of the block
DAMAGED_KEPT = 16
MAX_HEAD = 16 * 1024


class Head(Struct, frozen=True):
    """The first line of a spool file."""

    header: FrameHeader
    kind: Literal["frame", "roi"]
    size: int  # of the JPEG, bytes
    sha256: Sha256  # of the JPEG


@dataclass(frozen=True)
class Entry:
    """One waiting frame. Times are of the caller's monotonic clock; a restart forgets them (then: send at once)."""

    id: str
    path: Path
    bytes: int  # of the whole file
    sha256: str  # of the JPEG
    sent_at: float | None = None
    not_before: float = 0.0


class Spool:
    """The queue. Used by one thread of one process. `now` is monotonic seconds everywhere."""

    def __init__(
        self, folder: Path, *, max_bytes: int = 64 * 2**20, max_frames: int = 2000, resend_after_s: float = 30.0,
        fsync: bool = True, window: int = 8,
    ) -> None:  # fmt: skip
        self.window = Window(window)
        self.folder, self.max_bytes, self.max_frames = folder, max_bytes, max_frames
        self.resend_after_s, self.fsync = resend_after_s, fsync
        self.dropped_total = 0  # pushed out or too large, since this process started
        self.damaged_total = 0
        self.mismatched_total = 0  # receipts about other bytes than ours
        self.bytes = 0
        self._seq = self._reserved = 0
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._recover()

    def __len__(self) -> int:
        return len(self._entries)

    def half_full(self) -> bool:
        """Time for a source that can wait to wait."""
        return 2 * len(self) >= self.max_frames or 2 * self.bytes >= self.max_bytes

    def next_seq(self) -> int:
        """A number that was never handed out before in this folder's life."""
        if self._seq >= self._reserved:
            self._reserved = self._seq + SEQ_BLOCK
            durable.write(self.folder / "next-seq", b"%d\n" % self._reserved, fsync=self.fsync)
        self._seq += 1
        return self._seq - 1

    def add(self, header: FrameHeader, jpeg: bytes, kind: Literal["frame", "roi"] = "frame") -> None:
        """Keep one frame. Raises Refused for one that the box would never take, or that alone is over the bound."""
        head = Head(header, kind, len(jpeg), hashlib.sha256(jpeg).hexdigest())
        data = msgspec.json.encode(head) + b"\n" + jpeg
        if len(jpeg) > MAX_FRAME_BYTES or len(data) > self.max_bytes:
            self.dropped_total += 1
            raise Refused(f"frame {header.id} of {len(jpeg)} bytes is too large to be kept", code="too_large")
        while self._entries and (len(self._entries) >= self.max_frames or self.bytes + len(data) > self.max_bytes):
            self._forget(next(iter(self._entries)))
            self.dropped_total += 1
        path = self.folder / f"{header.seq:016d}.frame"
        durable.write(path, data, mode=0o600, fsync=self.fsync)
        self._insert(Entry(header.id, path, len(data), head.sha256))

    def due(self, now: float, limit: int | None = None) -> tuple[Entry, ...]:
        """Oldest first: what was never sent, or was sent `resend_after_s` ago without a receipt, and need not wait."""
        found: list[Entry] = []
        for e in self._entries.values():
            if limit is not None and len(found) >= limit:
                break
            if now >= e.not_before and (e.sent_at is None or now - e.sent_at >= self.resend_after_s):
                found.append(e)
        return tuple(found)

    def in_flight(self, now: float) -> int:
        """How many were sent lately and wait for their receipt."""
        return sum(1 for e in self._entries.values() if e.sent_at is not None and now - e.sent_at < self.resend_after_s)

    def room(self, now: float) -> int:
        """How many may be sent now."""
        return self.window.room(self.in_flight(now), now)

    def read(self, entry: Entry) -> tuple[Head, bytes]:
        """(head, JPEG) as they were added. Raises Corrupt after setting a damaged file aside."""
        try:
            data = entry.path.read_bytes()
            line, found, jpeg = data.partition(b"\n")
            head = msgspec.json.decode(line, type=Head)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as e:
            self._set_aside(entry)
            raise Corrupt(f"spool file {entry.path.name} does not read back: {e}") from e
        if not found or len(jpeg) != head.size or hashlib.sha256(jpeg).hexdigest() != head.sha256:
            self._set_aside(entry)
            raise Corrupt(f"spool file {entry.path.name} is not what was written; it is now in damaged/")
        return head, jpeg

    def sent(self, frame_id: str, now: float) -> None:
        """The frame went out; ask again only after `resend_after_s`."""
        if frame_id in self._entries:
            self._entries[frame_id] = replace(self._entries[frame_id], sent_at=now)

    def drop(self, frame_id: str) -> None:
        """Give one up: nobody will ever take it."""
        if frame_id in self._entries:
            self._forget(frame_id)
            self.dropped_total += 1

    def unsend(self) -> None:
        """The link came back: nothing in flight can be counted on, everything is due again."""
        for frame_id, e in self._entries.items():
            if e.sent_at is not None:
                self._entries[frame_id] = replace(e, sent_at=None)

    def receipt(self, receipt: FrameReceipt, now: float) -> bool:
        """Act on the box's word. True if the frame was let go.

        A receipt for a frame that is not here is the answer to a duplicate: nothing to do. One whose SHA-256 is not
        that of our bytes was not given for our frame: ignored and counted.
        """
        entry = self._entries.get(receipt.id)
        if entry is None:
            return False
        if receipt.sha256 != entry.sha256:
            self.mismatched_total += 1
            return False
        if receipt.status == "retry":
            self.window.retry(entry.sent_at, receipt.retry_after_s, now)
            self._entries[entry.id] = replace(entry, sent_at=None, not_before=now + receipt.retry_after_s)
            return False
        self.window.receipted()
        self._forget(entry.id)
        return True

    # --- the folder

    def _recover(self) -> None:
        top = -1
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".tmp":
                path.unlink()
            elif path.suffix == ".frame":
                head = _head_of(path)
                if path.stem.isdecimal():
                    top = max(top, int(path.stem))
                size = path.stat().st_size
                entry = Entry(head.header.id if head else path.stem, path, size, head.sha256 if head else "")
                if head is None or entry.id in self._entries:
                    self._set_aside(entry)
                else:
                    self._insert(entry)
        self._reserved = self._seq = max(top + 1, _number_in(self.folder / "next-seq"))
        while self._entries and (len(self._entries) > self.max_frames or self.bytes > self.max_bytes):
            self._forget(next(iter(self._entries)))  # the bound was lowered since
            self.dropped_total += 1

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self.bytes += entry.bytes

    def _forget(self, frame_id: str) -> None:
        entry = self._entries.pop(frame_id)
        self.bytes -= entry.bytes
        entry.path.unlink(missing_ok=True)

    def _set_aside(self, entry: Entry) -> None:
        self.damaged_total += 1
        if entry.id in self._entries and self._entries[entry.id].path == entry.path:
            self.bytes -= self._entries.pop(entry.id).bytes
        damaged = self.folder / "damaged"
        damaged.mkdir(exist_ok=True, mode=0o700)
        if entry.path.exists():
            os.replace(entry.path, damaged / entry.path.name)
        for old in sorted(damaged.iterdir())[:-DAMAGED_KEPT]:
            old.unlink()


def _head_of(path: Path) -> Head | None:
    """The head of a file whose length is right, or None. The JPEG's hash is checked when it is read to be sent."""
    with open(path, "rb") as f:
        line = f.readline(MAX_HEAD)
    try:
        head = msgspec.json.decode(line, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return head if line.endswith(b"\n") and path.stat().st_size == len(line) + head.size else None


def _number_in(path: Path) -> int:
    try:
        return max(0, int(path.read_text()))
    except (FileNotFoundError, ValueError):
        return 0
