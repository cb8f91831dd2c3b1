"""WALK 1: a frame comes in, and is on disk, scrubbed and sealed, before its camera hears that it may forget it.

Guarantees: the receipt goes out after the durable commit, never before; a frame that privacy cannot vouch for leaves
nothing but a counted row; a duplicate gets the same receipt and is stored once; while nothing can be stored cameras are
told to wait, longer and longer, and an alarm stands; the frames of one camera keep their order, and what one shows covers
those shortly before and after it (privacy.stream), for which a frame waits `delay_s` at most. Does not guarantee order
between cameras.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn, Protocol

from edged.admit import Backoff
from edged.clock import Clock
from edged.errors import Corrupt, EdgedError, Misconfigured, Refused, Unavailable
from edged.privacy.scrub import Scrubbed
from edged.privacy.stream import Stream
from edged.privacy.talk import Planted, Seen, Spot
from edged.privacy.track import Rules
from edged.storage import alarms, counters, frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt

log = logging.getLogger(__name__)

RETRY_S = 2.0
STREAMS = 64  # cameras that a line follows at once; beyond it those that have nothing waiting are forgotten
DISK = (alarms.DISK_FULL, alarms.DISK_FAILED)
STORED_AGAIN = {  # alarms that the next stored frame clears, and what is said then
    alarms.SCRUB_DOWN: "pictures are scrubbed again",
    alarms.DISK_FULL: "the disk has room again",
    alarms.DISK_FAILED: "the disk takes pictures again",
}


Sink = Callable[[Frame, Callable[[], Scrubbed]], FrameReceipt | None]  # what becomes of a frame; scrubbing may raise
Answers = Iterable[tuple[Frame, FrameReceipt]]
Job = Callable[["Line"], Answers]


class Scrubber(Protocol):
    """What can make a `Scrubbed` of a frame; `privacy.pool.ScrubChild` in life."""

    def look(self, frame: Frame) -> Seen: ...

    def scrub(self, frame: Frame, spots: Sequence[Spot] | None = None, *, blank: bool = False) -> Scrubbed: ...

    def plant(self, seed: int) -> Planted: ...

    def inspect(self, jpeg: bytes, spots: Sequence[Spot]) -> tuple[float, ...]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Looked:
    """A frame that waits to be covered. `blank` = it cannot be judged and is to be covered whole."""

    frame: Frame
    blank: bool
    since: float  # monotonic
    sink: Sink


def take(store: Store, scrubber: Scrubber, frame: Frame) -> FrameReceipt:
    """One frame by itself, from arrived bytes to its receipt. Raises nothing of the families Refused and Unavailable."""
    return known(store, frame) or keep(store, frame, partial(scrubber.scrub, frame))


def known(store: Store, frame: Frame) -> FrameReceipt | None:
    """The receipt of a frame that was answered before."""
    receipt = frames.find_receipt(store, frame.camera, frame.header.id)
    if receipt is None or receipt.sha256 != sha256(frame):
        return None
    counters.bump(store, "duplicate")
    return receipt


def keep(store: Store, frame: Frame, scrub: Callable[[], Scrubbed], disk: Backoff | None = None) -> FrameReceipt:
    """Scrub, store, receipt. Raises nothing of the families Refused and Unavailable. `disk` learns whether it holds."""
    disk = disk or Backoff()
    try:
        scrubbed = scrub()
        receipt = frames.add(store, frame, scrubbed)
        disk.worked()
        for code in alarms.clear_all(store, STORED_AGAIN):
            log.warning("%s", STORED_AGAIN[code])
        for kind, n in scrubbed.regions.items():
            if n:
                counters.bump(store, f"scrubbed:{kind}", n)
        return receipt
    except EdgedError as e:
        return fail(store, frame, e, disk)


def fail(store: Store, frame: Frame, e: EdgedError, disk: Backoff) -> FrameReceipt:
    """What becomes of a frame that could not be scrubbed or stored; raises Corrupt again."""
    if isinstance(e, Corrupt):
        raise e
    if isinstance(e, Unavailable | Misconfigured):  # neither is the frame's fault: it stays on its camera
        if e.code == "child_down" or isinstance(e, Misconfigured):
            note_down(store, e)
        after_s = disk.failed(str(e), store.clock.monotonic()) if e.code in DISK else RETRY_S
        if e.code in DISK:
            note_disk(store, e)
        return retry(frame, str(e), after_s)
    status: Literal["withheld", "refused"] = "refused" if isinstance(e, Refused) else "withheld"
    counters.bump(store, f"{status}:{e.code}")
    return _settle(store, frame, status, e)


def note_down(store: Store, e: EdgedError) -> None:
    """No scrub child can start: an alarm until a frame is stored again."""
    if alarms.sound(store, alarms.SCRUB_DOWN, f"no picture can be taken: {e}"[:300]):
        log.error("no picture can be taken: %s", e)


def note_disk(store: Store, e: EdgedError) -> None:
    """Nothing can be stored: an alarm until a frame is. If the disk does not even take that, the log has it."""
    try:
        if alarms.sound(store, e.code, f"no picture can be stored: {e}"[:300]):
            log.error("no picture can be stored: %s", e)
    except Unavailable as worse:
        log.error("no picture can be stored: %s; nor an alarm: %s", e, worse)


def _settle(store: Store, frame: Frame, status: Literal["withheld", "refused"], why: EdgedError) -> FrameReceipt:
    log.warning("%s %s %s: %s", frame.camera, frame.header.id, status, why)
    try:
        return frames.settle(store, frame, status, str(why))
    except Refused:  # the id belongs to another picture that is already settled
        return FrameReceipt(frame.header.id, sha256(frame), "refused", str(why)[:500])
    except Unavailable as e:
        return retry(frame, str(e))


def retry(frame: Frame, why: str, after_s: float = RETRY_S) -> FrameReceipt:
    """Tell the camera to keep the frame and send it again."""
    return FrameReceipt(frame.header.id, sha256(frame), "retry", why[:500], after_s)


def sha256(frame: Frame) -> str:
    return hashlib.sha256(frame.jpeg).hexdigest()


class Line:
    """The frames of some cameras, one scrubber, in order. Not thread-safe."""

    def __init__(
        self, store: Store, scrubber: Scrubber, rules: Rules, delay_s: float, clock: Clock, disk: Backoff | None = None
    ) -> None:  # fmt: skip
        self._store, self.scrubber, self._rules = store, scrubber, rules
        self._delay_s, self._clock, self._disk = delay_s, clock, disk or Backoff()
        self._streams: OrderedDict[str, Stream[Looked]] = OrderedDict()  # the one used last at the end
        self._waiting: dict[tuple[str, str], str] = {}  # (camera, frame id) -> sha256, of frames not yet answered
        self._last: dict[str, float] = {}  # camera's own time of its newest frame

    def put(self, frame: Frame) -> Answers:
        """Take a frame; receipts of what is finished by now."""
        if self._waiting.get((frame.camera, frame.header.id)) == sha256(frame):
            return  # sent again while it waits here: its receipt will come
        try:
            receipt = known(self._store, frame)
        except Unavailable as e:
            receipt = fail(self._store, frame, e, self._disk)
        if receipt is not None:
            yield frame, receipt
            return
        yield from self.take(frame, partial(keep, self._store, disk=self._disk))

    def take(self, frame: Frame, sink: Sink, *, alone: bool = False) -> Answers:
        """The way of every frame: looked at, delayed, covered, handed to `sink`; receipts of what is finished by now.

        `alone` = it has nothing to do with the frames of its camera that came before.
        """
        key = (frame.camera, frame.header.id)
        if frame.kind != "frame" or self._delay_s <= 0 or key in self._waiting:
            yield from _sunk(sink, frame, partial(self.scrubber.scrub, frame))
            return
        stream = self._stream(frame.camera)
        last, self._last[frame.camera] = self._last.get(frame.camera), frame.header.ts
        if alone or (last is not None and not 0 <= frame.header.ts - last <= self._rules.gap_s):
            yield from self._cover(stream.cut())
        try:
            seen = self.scrubber.look(frame)
        except EdgedError as e:
            yield from _sunk(sink, frame, partial(_again, e))
            return
        self._waiting[key] = sha256(frame)
        looked = Looked(frame, bool(seen.unjudged), self._clock.monotonic(), sink)
        yield from self._cover(stream.push(looked, seen.spots))

    def overdue(self, patience: float = 1.0) -> Answers:
        """Receipts of frames that waited long enough for a later one: `patience` times the delay."""
        now = self._clock.monotonic()
        for stream in self._streams.values():
            while (oldest := stream.oldest()) is not None and now - oldest.since >= self._delay_s * patience:
                yield from self._cover(stream.release())

    def due_in(self) -> float | None:
        """Seconds until a frame has waited long enough, None = none waits."""
        since = [oldest.since for s in self._streams.values() if (oldest := s.oldest()) is not None]
        return max(0.0, min(since) + self._delay_s - self._clock.monotonic()) if since else None

    def finish(self) -> Answers:
        """Receipts of everything that waits."""
        for stream in self._streams.values():
            yield from self._cover(stream.cut())

    def waiting(self) -> Collection[tuple[str, str]]:
        """(camera, frame id) of the frames that were looked at and are not yet answered."""
        return self._waiting.keys()

    def close(self) -> None:
        self.scrubber.close()

    def _stream(self, camera: str) -> Stream[Looked]:
        stream = self._streams.setdefault(camera, Stream(self._rules))
        self._streams.move_to_end(camera)
        if len(self._streams) > STREAMS:
            for old in [c for c, s in self._streams.items() if not len(s) and c != camera][
                : len(self._streams) - STREAMS
            ]:
                del self._streams[old]
                self._last.pop(old, None)
        return stream

    def _cover(self, ready: Iterable[tuple[Looked, tuple[Spot, ...]]]) -> Answers:
        ready = list(ready)
        for looked, _ in ready:  # all at once: after a failure among them the camera must get to send the others again
            self._waiting.pop((looked.frame.camera, looked.frame.header.id), None)
        for looked, spots in ready:
            frame = looked.frame
            yield from _sunk(looked.sink, frame, partial(self.scrubber.scrub, frame, spots, blank=looked.blank))


def _sunk(sink: Sink, frame: Frame, scrub: Callable[[], Scrubbed]) -> Answers:
    if (receipt := sink(frame, scrub)) is not None:
        yield frame, receipt


def _again(e: EdgedError) -> NoReturn:
    raise e
