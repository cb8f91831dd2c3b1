"""One update from "you should run release 7" to a word about it that the box can believe. A state machine without
waiting.

    metadata    the desired release's signed metadata is complete and verifies      else REJECTED / TIMED_OUT
    chunks      what is lacking was asked for, arrived, was checked                  else TIMED_OUT
    self_test   the verified bytes are in the free slot and answer as they should    else FAILED
    probation   they run, and go on answering                                        else FAILED, the old model runs
    done        SUCCEEDED, FAILED, REJECTED, TIMED_OUT or CANCELED

Guarantees: nothing unsigned, expired, older, or meant for other hardware is downloaded, let alone run; bytes reach a
slot only through python-tuf's check; a kill in any phase resumes (chunks are kept, a finished job is not done again).
Words and their meaning are those of AWS IoT Jobs. Does not guarantee: that the report arrives (it is retained and
repeated).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent import offer, selftest
from agent.active import Active
from agent.chunks import Part
from agent.metadata import Inbox, Trust, Vouched
from agent.offer import Offer
from edged import durable
from edged.errors import Refused, Unavailable
from edged.wire.messages import Desired, JobStatus, Want

Phase = Literal["metadata", "chunks", "self_test", "probation", "done"]

NEXT: dict[Phase, tuple[Phase, ...]] = {
    "metadata": ("chunks", "done"),
    "chunks": ("self_test", "done"),
    "self_test": ("probation", "done"),
    "probation": ("done",),
    "done": (),
}  # and from any phase before probation a new desired release starts over at "metadata"

WANT_AT_ONCE = 64


class Record(Struct, frozen=True):
    """The job under way, or the last one. On disk from its first moment."""

    desired: Desired
    phase: Phase = "metadata"
    status: JobStatus = "IN_PROGRESS"
    progress: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """Seconds, and the largest model."""

    ask_again_s: float = 5.0
    damaged_again_s: float = 3.5  # the box sends no chunk twice within 3 s
    metadata_s: float = 120.0
    stall_s: float = 600.0
    max_bytes: int = offer.MAX_MODEL_BYTES


class Updater:
    """The update of one camera. `send` asks for chunks (may raise Unavailable); `changed` is told when to report."""

    def __init__(
        self, folder: Path, *, trust: Trust, active: Active, hardware: str, agent: str, send: Callable[[Want], None],
        changed: Callable[[], None], self_test: selftest.Starter = selftest.Child, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.trust, self.active = folder, trust, active
        self.hardware, self.agent, self.limits = hardware, agent, limits or Limits()
        self.inbox = Inbox()
        self.bad_chunks = 0
        self._send, self._changed, self._self_test = send, changed, self_test
        self._vouched: Vouched | None = None
        self._offer: Offer | None = None
        self._part: Part | None = None
        self._running: selftest.Running | None = None
        self._pending: Desired | None = None  # a wish that has not begun
        self._asked: frozenset[int] = frozenset()
        self._ask_at = 0.0
        self._damaged = False
        self._disk_at = 0.0  # not before: the disk was full
        self._moved_at = 0.0  # when something last came forward
        self._seen_changes = -1
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.record = read_record(folder)

    # --- what comes in

    def resume(self, left: str, now: float) -> None:
        """Pick up after a start. `left` is why booting left a model, "" if it did not."""
        self._moved_at = now
        r = self.record
        if r is None or r.phase == "done":
            return
        pointer, slot = self.active.slots.pointer, self.active.slot
        ours = slot is not None and (slot.release, slot.sha256) == (r.desired.version, r.desired.sha256)
        if ours and pointer.probation:
            self._write(replace(r, phase="probation"))
        elif ours:
            self._finish("SUCCEEDED", "it runs")
        elif r.phase == "probation" or left:
            self._finish("FAILED", left or "it was left before it had proven itself")
        else:
            self._write(replace(r, phase="metadata", progress=0.0))

    def desire(self, desired: Desired | None) -> None:
        """The box's wish, as often as it likes; None = withdrawn. A new one starts at the next step, or after probation."""
        r, self._pending = self.record, None
        if desired is None:
            if r is not None and r.phase in ("metadata", "chunks", "self_test"):
                self._finish("CANCELED", "the box withdrew it")
        elif r is not None and desired == r.desired:
            self._changed()
        else:
            self._pending = desired

    def meta(self, name: str, data: bytes) -> None:
        """A retained metadata file."""
        self.inbox.put(name, data)

    def chunk(self, sha256: str, data: bytes, now: float) -> None:
        """A chunk that somebody asked for, perhaps we."""
        if self._part is None:
            return
        try:
            filled = self._part.put(sha256, data)
        except Refused:
            self.bad_chunks += 1
            self._damaged, self._ask_at = True, min(self._ask_at, now + self.limits.damaged_again_s)
            return
        if filled:
            self._moved_at = now
            if not self._damaged:  # as long as chunks come, asking again would only double them
                self._ask_at = now + self.limits.ask_again_s
            assert self.record is not None
            progress = 0.1 + 0.7 * self._part.have / max(1, self._part.total)
            self.record = replace(self.record, progress=progress)  # not worth a write to disk
            self._changed()

    # --- one step

    def step(self, now: float, connected: bool = True) -> None:
        """Go on as far as possible without waiting.

        Raises Unavailable when the disk does not take what must be kept; the job then starts over a little later, with
        the chunks that it has. From the self-test on, OSError goes through: only a restart sorts out half a switch.
        """
        if now < self._disk_at:
            return
        try:
            self._step(now, connected)
        except OSError as e:
            if self.record is not None and self.record.phase in ("self_test", "probation"):
                raise
            self._disk_at, self._seen_changes, self._part = now + self.limits.ask_again_s, -1, None
            if self.record is not None and self.record.phase == "chunks":
                self.record = replace(self.record, phase="metadata")
            raise Unavailable(f"the update waits for the disk: {e}") from e

    def _step(self, now: float, connected: bool) -> None:
        if self._pending is not None and (self.record is None or self.record.phase != "probation"):
            self._start(self._pending, now)
        if self.record is None or self.record.phase == "done":
            return
        if not connected:
            self._moved_at = now  # time without a cable is nobody's fault
        match self.record.phase:
            case "metadata":
                self._verify(now)
            case "chunks":
                self._collect(now)
            case "self_test":
                self._test(now)
            case "probation":
                self._watch(now)

    def close(self) -> None:
        if self._running is not None:
            self._running.stop()

    def _verify(self, now: float) -> None:
        assert self.record is not None
        if self._seen_changes != self.inbox.changes:
            self._seen_changes = self.inbox.changes
            desired = self.record.desired
            try:
                self._vouched = self.trust.verify(self.inbox, desired.target)
                self._offer = offer.read(self._vouched.target)
                offer.check(
                    self._offer, desired, running=self.active.slot, hardware=self.hardware, agent=self.agent,
                    max_bytes=self.limits.max_bytes,
                )  # fmt: skip
            except Unavailable as e:
                self._write(replace(self.record, detail=f"waiting for metadata: {e}"))
                return
            except Refused as e:
                self._finish("REJECTED", str(e))
                return
            o = self._offer
            self._part = Part(self.folder / "staging", o.sha256, o.bytes, o.custom.chunk, o.custom.chunks)
            self._asked, self._ask_at, self._moved_at = frozenset(), now, now
            self._to("chunks", 0.1, "")
            self._collect(now)
        elif now - self._moved_at > self.limits.metadata_s:
            self._finish("TIMED_OUT", self.record.detail or "no signed metadata came")

    def _collect(self, now: float) -> None:
        assert self._part is not None
        if not self._part.missing(1):
            self._stage(now)
            return
        if now - self._moved_at > self.limits.stall_s:
            self._finish("TIMED_OUT", f"{self._part.have} of {self._part.total} chunks came, then none any more")
            return
        outstanding = self._asked & set(self._part.missing())
        if now >= self._ask_at or not outstanding:
            want = self._part.missing(WANT_AT_ONCE)
            assert self._offer is not None
            try:
                self._send(Want(self._offer.sha256, want))
            except Unavailable:
                self._ask_at = now + self.limits.ask_again_s
                return
            self._asked, self._ask_at, self._damaged = frozenset(want), now + self.limits.ask_again_s, False

    def _stage(self, now: float) -> None:
        assert self._part is not None
        assert self._vouched is not None
        assert self._offer is not None
        try:
            model = self.trust.fetch(self._vouched, self._part.read())
        except Refused as e:
            self._finish("REJECTED", str(e))
            return
        slots = self.active.slots
        slots.stage(self._offer.slot(), model)
        self._to("self_test", 0.85, "self-test")
        self._part.discard()
        self._running = self._self_test(*slots.staged_paths(), self.active.runtime)
        self._test(now)

    def _test(self, now: float) -> None:
        assert self._running is not None
        outcome = self._running.poll()
        if outcome is None:
            return
        self._running = None
        if not outcome.ok:
            self._finish("FAILED", f"self-test: {outcome.detail}")
            return
        why_not = self.active.switch(now)
        if why_not:
            self._finish("FAILED", why_not)
        else:
            self._to("probation", 0.9, f"self-test: {outcome.detail}")

    def _watch(self, now: float) -> None:
        verdict = self.active.verdict(now)
        if verdict is None:
            return
        stays, why = verdict
        if stays:
            self.active.commit()
            self._finish("SUCCEEDED", why)
        else:
            self.active.roll_back(now)
            self._finish("FAILED", why)

    # --- the record

    def _start(self, desired: Desired, now: float) -> None:
        self.close()
        self._running = self._part = self._vouched = self._offer = None
        self._seen_changes, self._moved_at = -1, now
        self._write(Record(desired))
        self._pending = None
        slot = self.active.slot
        if slot is not None and (slot.name, slot.release, slot.sha256) == (
            desired.name, desired.version, desired.sha256,
        ):  # fmt: skip
            self._finish("SUCCEEDED", "it runs already")

    def _to(self, phase: Phase, progress: float, detail: str) -> None:
        assert self.record is not None
        assert phase in NEXT[self.record.phase]
        self._write(replace(self.record, phase=phase, progress=progress, detail=detail))

    def _finish(self, status: JobStatus, detail: str) -> None:
        self.close()
        self._running = self._part = self._vouched = self._offer = None
        assert self.record is not None
        assert "done" in NEXT[self.record.phase]
        progress = 1.0 if status == "SUCCEEDED" else self.record.progress
        self._write(replace(self.record, phase="done", status=status, progress=progress, detail=detail[:500]))

    def _write(self, record: Record) -> None:
        if record != self.record:
            durable.write(self.folder / "job.json", msgspec.json.encode(record))
            self.record = record
            self._changed()


def read_record(folder: Path) -> Record | None:
    """The job in an update folder, None if there never was one or it is unreadable (the box will say it again)."""
    try:
        return msgspec.json.decode((folder / "job.json").read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
