"""WALK 1: a frame comes in, and is on disk, scrubbed and sealed, before its camera hears that it may forget it.

Guarantees: the receipt goes out after the durable commit, never before; a frame that privacy cannot vouch for leaves
nothing but a counted row; a duplicate gets the same receipt and is stored once; a full queue answers "retry" at once, so
memory is bounded. Does not guarantee order between frames of one camera: the catalogue's sequence numbers keep that.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from edged.errors import Corrupt, EdgedError, Refused, Unavailable
from edged.privacy.scrub import Scrubbed
from edged.storage import counters, frames
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameReceipt

log = logging.getLogger(__name__)

RETRY_S = 2.0


class Scrubber(Protocol):
    """What can make a `Scrubbed` of a frame; `privacy.pool.ScrubChild` in life."""

    def scrub(self, frame: Frame) -> Scrubbed: ...

    def close(self) -> None: ...


def take(store: Store, scrubber: Scrubber, frame: Frame) -> FrameReceipt:
    """One frame, from arrived bytes to its receipt. Raises nothing of the families Refused and Unavailable."""
    known = frames.find_receipt(store, frame.camera, frame.header.id)
    if known is not None and known.sha256 == sha256(frame):
        counters.bump(store, "duplicate")
        return known
    try:
        scrubbed = scrubber.scrub(frame)
        receipt = frames.add(store, frame, scrubbed)
        for kind, n in scrubbed.regions.items():
            if n:
                counters.bump(store, f"scrubbed:{kind}", n)
        return receipt
    except Refused as e:
        counters.bump(store, f"refused:{e.code}")
        return _settle(store, frame, "refused", e)
    except Unavailable as e:
        return retry(frame, str(e))
    except Corrupt:
        raise
    except EdgedError as e:  # Withheld: privacy could not vouch for it
        counters.bump(store, f"withheld:{e.code}")
        return _settle(store, frame, "withheld", e)


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


class Workers:
    """One thread per scrub child between a bounded queue and `answer(camera, receipt)`.

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
    ) -> None:
        self._store, self._answer, self._alarm = store, answer, alarm
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=depth)
        self._scrubbers = scrubbers
        self._threads = [
            threading.Thread(target=self._run, args=(s,), name=f"ingest-{i}", daemon=True)
            for i, s in enumerate(scrubbers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, frame: Frame) -> FrameReceipt | None:
        """Queue a frame; a receipt comes back at once only when there is no room."""
        try:
            self._queue.put_nowait(frame)
        except queue.Full:
            return retry(frame, "the box is busy", after_s=1.0)
        return None

    def waiting(self) -> int:
        return self._queue.qsize()

    def alive(self) -> bool:
        return all(t.is_alive() for t in self._threads)

    def close(self) -> None:
        """Finish what was queued, then stop threads and children."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=30)
        for scrubber in self._scrubbers:
            scrubber.close()

    def _run(self, scrubber: Scrubber) -> None:
        while (frame := self._queue.get()) is not None:
            try:
                self._answer(frame.camera, take(self._store, scrubber, frame))
            except Exception as e:
                log.exception("frame %s of %s was not taken", frame.header.id, frame.camera)
                self._alarm(e)
