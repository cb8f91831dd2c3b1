"""One update from "you should run release 7" to a word about it that the box can believe. A state machine without
waiting.

    metadata    the desired release's signed metadata is complete and verifies      else REJECTED / TIMED_OUT
    chunks      what is lacking was asked for, arrived, was checked, by a shorter way or as the whole file
                                                                                     else TIMED_OUT
    self_test   the file is one that may be, its verified bytes are in the free slot and answer as they should
                                                                                     else REJECTED / FAILED
    probation   they run, and go on answering                                        else FAILED, the old model runs
    done        SUCCEEDED, FAILED, REJECTED, TIMED_OUT or CANCELED

Guarantees: nothing unsigned, expired, older, or meant for other hardware is downloaded, let alone run; bytes reach a
slot only through python-tuf's check, whichever way they came; a shorter way that fails in any manner is left for the
whole file once, within the same job; a kill in any phase resumes (chunks are kept, a finished job is not done again);
what takes the agent down twice, or fails twice, is not tried again until there is a newer release (job.py). A disk
that takes nothing delays all this and ends nothing. Words and their meaning are those of AWS IoT Jobs. Does not
guarantee: that the report arrives (it is retained and repeated).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from agent import chunks, offer, selftest
from agent.active import Active
from agent.download import Download, Limits
from agent.job import MAX_TRIES, NEXT, Journal, Phase, Record, again, read_record
from agent.metadata import Inbox, Trust, Vouched
from agent.offer import Offer
from edged.engine import admit
from edged.errors import Corrupt, Refused, Unavailable
from edged.wire.messages import Desired, JobStatus, Want

__all__ = ["NEXT", "Limits", "Phase", "Record", "Updater", "read_record"]


class Updater:
    """The update of one camera. `send` asks for chunks (may raise Unavailable); `changed` is told when to report.

    `name`, `classes`: what this camera is for, where its settings say so; a release of another kind is rejected.
    """

    def __init__(
        self, folder: Path, *, trust: Trust, active: Active, hardware: str, agent: str, send: Callable[[Want], None],
        changed: Callable[[], None], self_test: selftest.Starter = selftest.Child, limits: Limits | None = None,
        name: str = "", classes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.folder, self.trust, self.active = folder, trust, active
        self.hardware, self.agent, self.limits = hardware, agent, limits or Limits()
        self.inbox = Inbox()
        self.bad_chunks = 0
        self._name, self._classes = name, classes
        self._send, self._changed, self._self_test = send, changed, self_test
        self._vouched: Vouched | None = None
        self._offer: Offer | None = None
        self._download: Download | None = None
        self._running: selftest.Running | None = None
        self._pending: Desired | None = None  # a wish that has not begun
        self._verdict: tuple[bool, str] | None = None  # of a probation, until the disk has taken it
        self._wait_until = self._flush_at = 0.0  # the disk was full
        self._moved_at = 0.0  # when metadata was last hoped for
        self._seen_changes = -1
        self._journal = Journal(folder)

    @property
    def record(self) -> Record | None:
        return self._journal.record

    # --- what comes in

    def resume(self, left: str, now: float) -> None:
        """Pick up after a start. `left` is why booting left a model, "" if it did not."""
        self._moved_at = now
        r = self.record
        pointer, slot = self.active.slots.pointer, self.active.slot
        if r is None or r.phase == "done":
            if pointer.probation:  # its end is on disk, the pointer was not: nobody would watch it
                self.active.roll_back(now)
            return
        ours = slot is not None and (slot.release, slot.sha256) == (r.desired.version, r.desired.sha256)
        if ours and pointer.probation:
            self._write(replace(r, phase="probation"))
        elif ours:
            self._finish("SUCCEEDED", "it runs")
        elif r.phase == "probation" or left:
            self._finish("FAILED", left or "it was left before it had proven itself")
        elif r.tries >= MAX_TRIES:
            self._journal.failed(r.desired, MAX_TRIES - 1)
            self._finish("FAILED", f"it took the agent down {r.tries} times before it ran")
        else:
            self._write(again(r))

    def desire(self, desired: Desired | None) -> None:
        """The box's wish, as often as it likes; None = withdrawn. A new one starts at the next step, or after probation; so does
        one that was withdrawn and comes again.
        """
        r, self._pending = self.record, None
        if desired is None:
            if r is not None and r.phase in ("metadata", "chunks", "self_test"):
                self._finish("CANCELED", "the box withdrew it")
        elif r is not None and desired == r.desired and not (r.phase == "done" and r.status == "CANCELED"):
            self._changed()
        else:
            self._pending = desired

    def meta(self, name: str, data: bytes) -> None:
        """A retained metadata file."""
        self.inbox.put(name, data)

    def chunk(self, sha256: str, data: bytes, now: float) -> None:
        """A chunk that somebody asked for, perhaps we."""
        if self._download is None or self.record is None or self.record.phase != "chunks":
            return
        try:
            filled = self._download.put(sha256, data, now)
        except Refused:
            self.bad_chunks += 1
            return
        if filled:  # not worth a write to disk
            self._journal.record = replace(self.record, progress=0.1 + 0.7 * self._download.progress)
            self._changed()

    # --- one step

    def step(self, now: float, connected: bool = True) -> None:
        """Go on as far as possible without waiting.

        Raises Unavailable when the disk does not take what must be kept; a little later the job goes on, with the
        chunks that it has.
        """
        if now < self._wait_until:
            return
        try:
            self._step(now, connected)
        except OSError as e:
            self._wait_until = now + self.limits.ask_again_s
            if self.record is not None and self.record.phase in ("chunks", "self_test"):
                self._forget()
                self._write(again(replace(self.record, tries=0)))  # it was survived
            self._seen_changes = -1
            raise Unavailable(f"the update waits for the disk: {e}") from e

    def _step(self, now: float, connected: bool) -> None:
        if now >= self._flush_at:
            self._flush_at = now + self.limits.ask_again_s
            self._journal.flush()
            self.active.slots.flush()
        if self._pending is not None and (self.record is None or self.record.phase != "probation"):
            self._start(self._pending, now)
        if self.record is None or self.record.phase == "done":
            return
        match self.record.phase:
            case "metadata":
                self._verify(now, connected)
            case "chunks":
                self._collect(now, connected)
            case "self_test":
                self._test(now)
            case "probation":
                self._watch(now)

    def close(self) -> None:
        """A clean stop: what was under way was survived."""
        if self._running is not None:
            self._running.stop()
        r = self.record
        if r is not None and r.phase == "self_test" and r.tries:
            self._write(replace(r, tries=r.tries - 1))

    def _verify(self, now: float, connected: bool) -> None:
        assert self.record is not None
        if not connected:
            self._moved_at = now  # time without a cable is nobody's fault
        if self._seen_changes != self.inbox.changes:
            desired, changes = self.record.desired, self.inbox.changes
            try:
                self._vouched = self.trust.verify(self.inbox, desired.target)
                self._offer = offer.read(self._vouched.target)
                offer.check(
                    self._offer, desired, running=self.active.slot, hardware=self.hardware, agent=self.agent,
                    max_bytes=self.limits.max_bytes, name=self._name, classes=self._classes,
                )  # fmt: skip
            except Unavailable as e:
                self._seen_changes = changes
                self._write(replace(self.record, detail=f"waiting for metadata: {e}"))
                self._wait_for_metadata(now)
                return
            except Refused as e:
                self._finish("REJECTED", str(e))
                return
            self._fetch(now)
            self._seen_changes = changes
            self._to("chunks", 0.1, "")
            self._collect(now, connected)
        else:
            self._wait_for_metadata(now)

    def _wait_for_metadata(self, now: float) -> None:
        assert self.record is not None
        if now - self._moved_at > self.limits.metadata_s:
            self._finish("TIMED_OUT", self.record.detail or "no signed metadata came")

    def _fetch(self, now: float) -> None:
        """Begin, or go on with, the download."""
        assert self._offer is not None
        assert self.record is not None
        have = self.active.slot.sha256 if self.active.slot else ""
        whole = bool(self.record.whole)
        here = None if whole else self.active.slots.holding(self._offer.sha256, self._offer.bytes)
        self._download = Download(
            self.folder / "staging", self._offer, have, self.limits, now, whole=whole, here=here
        )  # fmt: skip

    def _collect(self, now: float, connected: bool) -> None:
        assert self._download is not None
        if self._download.complete:
            self._stage(now)
        elif why := self._download.step(now, connected, self._send):
            if self._download.way is None:
                self._finish("TIMED_OUT", why)
            else:
                self._take_whole(why, now)

    def _take_whole(self, why: str, now: float) -> None:
        """The shorter way has failed: the whole file, within the same job."""
        assert self.record is not None
        self._write(replace(self.record, whole=why[:200], tries=0, progress=0.1))
        self._fetch(now)

    def _stage(self, now: float) -> None:
        assert self.record is not None
        assert self._download is not None
        assert self._vouched is not None
        assert self._offer is not None
        o = self._offer
        if self.record.tries >= MAX_TRIES:
            self._finish("FAILED", f"it took the agent down {self.record.tries} times before it ran")
            return
        self._journal.must(replace(self.record, tries=self.record.tries + 1))
        try:
            model = self.trust.fetch(self._vouched, self._download.read(self._old))
        except (Refused, Corrupt) as e:
            if self._download.way is None:
                self._finish("REJECTED", str(e))
            else:
                self._take_whole(str(e), now)
            return
        try:
            admit.judge(model, classes=len(o.custom.classes), px=o.custom.px, most=self.limits.max_bytes)
        except Refused as e:
            self._finish("REJECTED", str(e))
            return
        slots = self.active.slots
        try:
            slots.stage(o.slot(), model)
        except Refused as e:
            self._finish("FAILED", str(e))
            return
        self._to("self_test", 0.85, "self-test")
        self._running = self._self_test(
            *slots.staged_paths(),
            self.active.runtime,
            time_limit_s=o.custom.self_test_s,
            memory=o.custom.self_test_bytes,
        )
        self._test(now)

    def _old(self) -> bytes | None:
        loaded = self.active.slots.load()
        return loaded.model if loaded else None

    def _test(self, now: float) -> None:
        assert self._running is not None
        outcome = self._running.poll()
        if outcome is None:
            return
        self._running = None
        if not outcome.ok:
            self._finish("FAILED", f"self-test: {outcome.detail}")
            return
        try:
            why_not = self.active.switch(now)
        except Corrupt as e:
            why_not = str(e)
        if why_not:
            self._finish("FAILED", why_not)
        else:
            self._verdict = None
            self._to("probation", 0.9, f"self-test: {outcome.detail}")
            self._download = None
            chunks.clear(self.folder / "staging")

    def _watch(self, now: float) -> None:
        self._verdict = self._verdict or self.active.verdict(now)
        if self._verdict is None:
            return
        stays, why = self._verdict
        assert self.record is not None
        health = self.active.health() or self.record.health
        if stays:
            self.active.commit()
        elif self.active.slots.pointer.probation:
            self.active.roll_back(now)
        self._journal.record = replace(self.record, health=health)
        self._finish("SUCCEEDED" if stays else "FAILED", why)

    # --- the record

    def _start(self, desired: Desired, now: float) -> None:
        self._forget()
        self._seen_changes, self._moved_at = -1, now
        self._write(Record(desired))
        self._pending = None
        slot = self.active.slot
        if slot is not None and (slot.name, slot.release, slot.sha256) == (
            desired.name, desired.version, desired.sha256,
        ):  # fmt: skip
            self._finish("SUCCEEDED", "it runs already")
        elif self._journal.failures(desired) >= MAX_TRIES:
            self._finish("REJECTED", f"release {desired.version} failed here twice; a newer one is waited for")

    def _to(self, phase: Phase, progress: float, detail: str) -> None:
        assert self.record is not None
        assert phase in NEXT[self.record.phase]
        self._write(replace(self.record, phase=phase, progress=progress, detail=detail))

    def _finish(self, status: JobStatus, detail: str) -> None:
        assert self.record is not None
        assert "done" in NEXT[self.record.phase]
        if status == "FAILED":
            self._journal.failed(self.record.desired)
        self._forget()
        chunks.clear(self.folder / "staging")
        progress = 1.0 if status == "SUCCEEDED" else self.record.progress
        if self.record.whole:
            detail = f"{detail}; the whole file was fetched, since {self.record.whole}"
        self._write(replace(self.record, phase="done", status=status, progress=progress, detail=detail[:500]))

    def _forget(self) -> None:
        if self._running is not None:
            self._running.stop()
        self._running = self._download = self._vouched = self._offer = self._verdict = None

    def _write(self, record: Record) -> None:
        if self._journal.note(record):
            self._changed()
