"""WALK 1: a frame comes in, and is on disk, scrubbed and sealed, before its camera hears that it may forget it.

Guarantees: the receipt goes out after the durable commit, never before; a frame that privacy cannot vouch for leaves
nothing but a counted row; a duplicate gets the same receipt and is stored once; a full queue answers "retry" at once, so
memory is bounded; the frames of one camera keep their order, and what one shows covers those shortly before and after it
(privacy.stream), for which a frame waits `delay_s` at most. Does not guarantee order between cameras.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn, Protocol

from edged.clock import Clock, SystemClock
from edged.errors import Corrupt, EdgedError, Refused, Unavailable
from edged.privacy.scrub import Scrubbed
from edged.privacy.stream import Stream
from edged.privacy.talk import Planted, Seen, Spot
from edged.privacy.track import Rules
from edged.storage import alarms, counters, frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt

log = logging.getLogger(__name__)

RETRY_S = 2.0
PATIENCE = 10.0  # delays that a frame waits while others are queued


Sink = Callable[[Frame, Callable[[], Scrubbed]], FrameReceipt | None]  # what becomes of a frame; scrubbing may raise
Answers = Iterable[tuple[Frame, FrameReceipt]]


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


def keep(store: Store, frame: Frame, scrub: Callable[[], Scrubbed]) -> FrameReceipt:
    """Scrub, store, receipt. Raises nothing of the families Refused and Unavailable."""
    try:
        scrubbed = scrub()
        receipt = frames.add(store, frame, scrubbed)
        if alarms.clear(store, alarms.SCRUB_DOWN):
            log.warning("pictures are scrubbed again")
        for kind, n in scrubbed.regions.items():
            if n:
                counters.bump(store, f"scrubbed:{kind}", n)
        return receipt
    except EdgedError as e:
        return fail(store, frame, e)


def fail(store: Store, frame: Frame, e: EdgedError) -> FrameReceipt:
    """What becomes of a frame that could not be scrubbed or stored; raises Corrupt again."""
    if isinstance(e, Corrupt):
        raise e
    if isinstance(e, Unavailable):
        if e.code == "child_down":
            note_down(store, e)
        return retry(frame, str(e))
    status: Literal["withheld", "refused"] = "refused" if isinstance(e, Refused) else "withheld"
    counters.bump(store, f"{status}:{e.code}")
    return _settle(store, frame, status, e)


def note_down(store: Store, e: EdgedError) -> None:
    """No scrub child can start: an alarm until a frame is stored again."""
    if alarms.sound(store, alarms.SCRUB_DOWN, f"no picture can be taken: {e}"[:300]):
        log.error("no picture can be taken: %s", e)


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

    def __init__(self, store: Store, scrubber: Scrubber, rules: Rules, delay_s: float, clock: Clock) -> None:
        self._store, self.scrubber, self._rules = store, scrubber, rules
        self._delay_s, self._clock = delay_s, clock
        self._streams: dict[str, Stream[Looked]] = {}
        self._waiting: dict[tuple[str, str], str] = {}  # (camera, frame id) -> sha256, of frames not yet answered
        self._last: dict[str, float] = {}  # camera's own time of its newest frame

    def put(self, frame: Frame) -> Answers:
        """Take a frame; receipts of what is finished by now."""
        if self._waiting.get((frame.camera, frame.header.id)) == sha256(frame):
            return  # sent again while it waits here: its receipt will come
        if (receipt := known(self._store, frame)) is not None:
            yield frame, receipt
            return
        yield from self.take(frame, partial(keep, self._store))

    def take(self, frame: Frame, sink: Sink, *, alone: bool = False) -> Answers:
        """The way of every frame: looked at, delayed, covered, handed to `sink`; receipts of what is finished by now.

        `alone` = it has nothing to do with the frames of its camera that came before.
        """
        key = (frame.camera, frame.header.id)
        if frame.kind != "frame" or self._delay_s <= 0 or key in self._waiting:
            yield from _sunk(sink, frame, partial(self.scrubber.scrub, frame))
            return
        stream = self._streams.setdefault(frame.camera, Stream(self._rules))
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

    def waiting(self) -> int:
        return len(self._waiting)

    def close(self) -> None:
        self.scrubber.close()

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


Job = Callable[[Line], Answers]


class Workers:
    """One thread per scrub child between bounded queues and `answer(camera, receipt)`; a camera keeps its thread.

    `submit` never blocks. A worker that meets a bug or a Corrupt store calls `alarm` and goes on with the next frame;
    the frame stays un-receipted on its camera.
    """

    def __init__(
        self,
        store: Store,
        scrubbers: list[Scrubber],
        answer: Callable[[str, FrameReceipt], None],
        alarm: Callable[[BaseException], None],
        depth: int = 16,
        *,
        rules: Rules | None = None,
        delay_s: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self._answer, self._alarm = answer, alarm
        clock = clock or SystemClock()
        self._lines = [Line(store, s, rules or Rules(), delay_s, clock) for s in scrubbers]
        self._queues: list[queue.Queue[Frame | Job | None]] = [
            queue.Queue(maxsize=max(1, depth // len(scrubbers))) for _ in scrubbers
        ]
        self._home: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._run, args=pair, name=f"ingest-{i}", daemon=True)
            for i, pair in enumerate(zip(self._queues, self._lines, strict=True))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, frame: Frame) -> FrameReceipt | None:
        """Queue a frame; a receipt comes back at once only when there is no room."""
        home = self._home.setdefault(frame.camera, len(self._home) % len(self._queues))
        try:
            self._queues[home].put_nowait(frame)
        except queue.Full:
            return retry(frame, "the box is busy", after_s=1.0)
        return None

    def submit_job(self, n: int, job: Job) -> bool:
        """Queue work for one of the lines, `n` counting them round and round; False when there is no room."""
        try:
            self._queues[n % len(self._queues)].put_nowait(job)
        except queue.Full:
            return False
        return True

    def waiting(self) -> int:
        return sum(q.qsize() for q in self._queues) + sum(line.waiting() for line in self._lines)

    def alive(self) -> bool:
        return all(t.is_alive() for t in self._threads)

    def close(self) -> None:
        """Finish what was queued, then stop threads and children."""
        for q in self._queues:
            q.put(None)
        for thread in self._threads:
            thread.join(timeout=30)
        for line in self._lines:
            line.close()

    def _run(self, q: queue.Queue[Frame | Job | None], line: Line) -> None:
        while True:
            try:
                item = q.get(timeout=line.due_in())
            except queue.Empty:
                self._answer_all(line.overdue)
                continue
            if item is None:
                break
            self._answer_all(partial(line.put, item) if isinstance(item, Frame) else partial(item, line))
            # On a slow box a look takes longer than the delay: what is queued already is worth waiting for.
            self._answer_all(partial(line.overdue, 1.0 if q.empty() else PATIENCE))
        self._answer_all(line.finish)

    def _answer_all(self, work: Callable[[], Answers]) -> None:
        try:
            for frame, receipt in work():
                self._answer(frame.camera, receipt)
        except Exception as e:
            log.exception("a frame was not taken")
            self._alarm(e)
