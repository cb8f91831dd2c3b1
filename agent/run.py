"""The camera's loop: a picture in, regions out, frames into the spool and over the cable, one update at a time.

`step` does everything that can be done now and never waits; `run` repeats it and sleeps. All time comes from the clock,
everything from outside through the link, so a test or a simulated site drives any number of cameras by calling `step`.

Guarantees: a frame leaves the spool only by the box's receipt (see spool.py); an error of the model, the cable, the
source or a message costs that one picture or message and is counted, never the loop. Does not guarantee: that
pictures are taken while the loop is busy; the newest counts.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent import about, pipeline, probe, selftest
from agent.active import NO_MODEL, Active, Probation
from agent.metadata import Trust
from agent.motion import Motion
from agent.slots import Slots
from agent.spool import Spool
from agent.updater import Limits, Updater
from edged import __version__, durable
from edged.clock import Clock, cpu_seconds
from edged.engine import power
from edged.errors import Corrupt, EdgedError, Refused, Unavailable
from edged.wire import messages, topics
from edged.wire.link import Link, Message, Will
from edged.wire.messages import MAX_FRAME_BYTES, Desired, FrameHeader, FrameReceipt
from edged.wire.signature import SIGNED

if TYPE_CHECKING:
    from agent.source import Shot
    from edged.wire.signature import Signer

log = logging.getLogger("edged.agent")

MESSAGES_AT_ONCE = 200  # taken in one step, so that a flood cannot stop the pictures


@dataclass(frozen=True)
class Options:
    """Flat settings of one camera; the defaults are those of the command line."""

    hardware: str = "generic"
    runtime: str = "auto"
    threads: int = 1
    window: int = 8  # frames sent and not yet receipted, at most (agent/window.py)
    resend_after_s: float = 30.0
    stats_every_s: float = 10.0
    report_every_s: float = 1.0  # progress of an update
    spool_bytes: int = 64 * 2**20
    spool_frames: int = 2000
    fsync: bool = True
    patient: bool = False  # the source can wait (files): take no picture while the spool is half full, drop none
    truth: Path | None = None
    preview: Path | None = None
    preview_every_s: float = 1.0
    probation: Probation = field(default_factory=Probation)
    limits: Limits = field(default_factory=Limits)
    model: str = ""  # the name of the releases that it takes, "" = any that are signed for its hardware
    classes: tuple[str, ...] = ()  # and the classes that they must tell apart, () = any


class Switches(Struct, frozen=True):
    """What was switched off from outside; survives a restart, since somebody wanted it off."""

    capture: bool = True  # take pictures and send them
    enabled: bool = True  # let the model label them


def will(site: str, camera: str) -> Will:
    """What the broker says when this camera vanishes."""
    return Will(topics.cam(site, camera, "state"), b"offline", retain=True)


class Agent:
    """One camera. `source` yields a `Shot`, or None for "nothing now"; it may end. Not thread-safe."""

    def __init__(
        self, link: Link, source: Iterable[Shot | None], *, site: str, camera: str, state_dir: Path, clock: Clock,
        root: bytes, options: Options | None = None, self_test: selftest.Starter = selftest.Child, boot: str = "",
        signer: Signer | None = None,
    ) -> None:  # fmt: skip
        self.site, self.camera = topics.check_level(site, "site"), topics.check_level(camera, "camera")
        self.options = o = options or Options()
        self.clock, self.state_dir = clock, state_dir
        self.boot = boot or secrets.token_hex(4)
        self.ended = False  # the source has no more pictures
        self.taken = 0  # pictures that became frames
        self.refused_total = 0  # messages and pictures that made no sense
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.spool = Spool(
            state_dir / "spool", max_bytes=o.spool_bytes, max_frames=o.spool_frames,
            resend_after_s=o.resend_after_s, fsync=o.fsync, window=o.window,
        )  # fmt: skip
        self.switches = _read_switches(state_dir / "switches.json")
        self.active = Active(
            Slots(state_dir / "slots"), runtime=o.runtime, threads=o.threads, probation=o.probation
        )  # fmt: skip
        self.updater = Updater(
            state_dir / "update", trust=Trust(state_dir / "tuf", root, clock.now), active=self.active,
            hardware=o.hardware, agent=__version__, limits=o.limits, self_test=self_test,
            name=o.model, classes=o.classes,
            send=lambda want: self._publish("model/want", messages.encode(want), retain=False),
            changed=self._note_report,
        )  # fmt: skip
        self._link, self._signer = link, signer
        self._source: Iterator[Shot | None] = iter(source)
        self._connects = 0
        self._motion = Motion()
        self._report_due = True
        self._reported_at = self._stats_at = self._preview_at = clock.monotonic()
        self._said = self._logged = ("", "")  # job and phase of the last report, and of the last line in the log
        self._samples: list[dict[str, float]] = []
        self._start_s = 0.0  # until the first picture
        self._frames = 0
        self._watts = power.Watts(power.find(clock=clock, every_s=1.0)[0])
        self._watts.since_last()
        now = clock.monotonic()
        left = self.active.boot(now)
        if left:
            log.error("the model was left: %s", left)
        self.updater.resume(left, now)
        for leaf in ("receipt", "model/desired", "capture/set", "enabled/set"):
            link.subscribe(topics.cam(self.site, self.camera, leaf))
        for leaf in ("meta/+", "chunk/+"):
            link.subscribe(topics.model(self.site, leaf))

    # --- the loop

    def step(self) -> bool:
        """Everything that can be done now; True if there was something to do."""
        now = self.clock.monotonic()
        busy = self._take_messages(now)
        if self._link.connected() and self._link.connects() != self._connects:
            self._hello()
        busy |= self._take_picture(now)
        busy |= self._send_frames(now)
        slot = self.active.slot
        try:
            self.updater.step(now, self._link.connected())
        except Unavailable as e:
            self._count(e)
        if self.active.slot != slot:
            self._info()
        self._report(now)
        if now - self._stats_at >= self.options.stats_every_s:
            self._stats(now)
        return busy

    def run(self, stop: Callable[[], bool], *, once: bool = False) -> None:
        """Step until `stop()`; with `once`, also until the source has ended and everything was receipted."""
        try:
            while not stop() and not (once and self.ended and len(self.spool) == 0):
                if not self.step():
                    self.clock.sleep(0.02)
        finally:
            self.close()

    def close(self) -> None:
        """Say goodbye in an orderly way."""
        self._watts.close()
        self.updater.close()
        self.active.close()
        self._try_publish("state", b"offline", retain=True)
        self._link.close()

    # --- pictures

    def _take_picture(self, now: float) -> bool:
        if self.ended or not self.switches.capture or (self.options.patient and self.spool.half_full()):
            return False
        began = cpu_seconds()  # not the stopwatch: a source sleeps until its next picture is due, and that is no work
        try:
            shot = next(self._source)
        except StopIteration:
            self.ended = True
            return False
        if shot is None:
            return False
        try:
            self._shoot(shot, began, now)
        except Refused as e:
            self._count(e)
        except OSError as e:  # a full disk costs pictures, not the camera
            self.spool.dropped_total += 1
            log.error("frame dropped: %s", e)
        return True

    def _shoot(self, shot: Shot, began: float, now: float) -> None:
        image = shot.image
        height, width = image.shape[:2]
        boxes = ((0, 0, width, height),) if shot.kind == "roi" else shot.regions
        if boxes is None:
            boxes = self._motion.regions(image)
        show = self.options.preview is not None and now - self._preview_at >= self.options.preview_every_s
        model = self.active if self.switches.enabled else None
        run = model.run if model else _unlabelled
        result = run(image, boxes, now, acquire_ms=1000 * (cpu_seconds() - began), overlay=show)
        jpeg = shot.jpeg
        if jpeg is None or len(jpeg) > MAX_FRAME_BYTES:
            jpeg = pipeline.encode(image)
        seq = self.spool.next_seq()
        header = FrameHeader(
            id=f"{self.boot}-{seq}", ts=max(0.0, shot.ts), seq=seq, boot=self.boot, w=width, h=height,
            model=self.active.slot.sha256 if self.active.slot and model else "", regions=result.regions,
        )  # fmt: skip
        self.spool.add(header, jpeg, shot.kind)
        self.taken += 1
        if not self._start_s:
            self._start_s = max(0.01, about.started(self.state_dir).start_s)
            self._info()
        self._frames += 1
        self._samples.append(dict(result.ms))
        if self.options.truth is not None and shot.truth:
            with open(self.options.truth, "a") as f:
                f.writelines(f"{header.id},{i},{word}\n" for i, word in enumerate(shot.truth) if word is not None)
        if show and self.options.preview is not None and result.overlay is not None:
            self._preview_at = now
            durable.write(self.options.preview, pipeline.encode(result.overlay), mode=0o600, fsync=False)

    def _send_frames(self, now: float) -> bool:
        if not self._link.connected():
            return False
        sent = 0
        for entry in self.spool.due(now, self.spool.room(now)):
            try:
                head, jpeg = self.spool.read(entry)
                topic = topics.cam(self.site, self.camera, head.kind)
                self._link.publish(topic, jpeg, properties=head.header.to_properties())
            except Corrupt as e:
                log.error("%s", e)
                continue
            except Refused as e:  # the broker would never take it; keeping it would block nothing but the disk
                self.spool.drop(entry.id)
                self._count(e)
                continue
            except Unavailable:
                break
            self.spool.sent(entry.id, now)
            sent += 1
        return sent > 0

    # --- messages

    def _take_messages(self, now: float) -> bool:
        taken = 0
        while taken < MESSAGES_AT_ONCE and (message := self._link.receive(0)) is not None:
            taken += 1
            try:
                self._handle(message, now)
            except Refused as e:
                self._count(e)
            except OSError as e:  # a full disk: a chunk or a switch that could not be kept comes again
                log.error("%s: %s", message.topic, e)
        return taken > 0

    def _handle(self, message: Message, now: float) -> None:
        address = topics.parse(message.topic)
        if address.site != self.site or (address.branch == "cam" and address.id != self.camera):
            raise Refused(f"message on {message.topic} is not for this camera", code="bad_topic")
        branch, _, name = address.leaf.rpartition("/")
        match (address.branch, address.leaf, branch):
            case ("model", _, "meta"):
                self.updater.meta(name, message.payload)
            case ("model", _, "chunk"):
                self.updater.chunk(name, message.payload, now)
            case ("cam", "receipt", _):
                receipt = messages.decode(message.payload, FrameReceipt)
                if receipt.status == "refused":
                    log.warning("the box refused frame %s: %s", receipt.id, receipt.detail)
                if self.spool.receipt(receipt, now):  # only who saw our frame tells us the time
                    self.updater.trust.hear(receipt.ts)
            case ("cam", "model/desired", _):
                desired = messages.decode(message.payload, Desired) if message.payload else None
                self.updater.desire(desired)
            case ("cam", "capture/set" | "enabled/set", _):
                self._switch("capture" if branch == "capture" else "enabled", message.payload)
            case _:
                raise Refused(f"nothing is known about {message.topic}", code="bad_topic")

    def _switch(self, which: Literal["capture", "enabled"], payload: bytes) -> None:
        words = {b"ON": True, b"OFF": False}
        if payload not in words:
            raise Refused(f"{which}/set takes ON or OFF, not {payload[:20]!r}", code="bad_message")
        self.switches = replace(self.switches, **{which: words[payload]})
        durable.write(self.state_dir / "switches.json", msgspec.json.encode(self.switches))
        self._try_publish(f"{which}/state", payload, retain=True)

    # --- what the camera says about itself

    def _hello(self) -> None:
        """The link is (again) up: the will may have been sent in between, so say everything once more."""
        self._connects = self._link.connects()
        self.spool.unsend()
        self._info()
        for which in ("capture", "enabled"):
            self._try_publish(f"{which}/state", b"ON" if getattr(self.switches, which) else b"OFF", retain=True)
        self._try_publish("state", b"online", retain=True)
        self._note_report()

    def _info(self) -> None:
        o = self.options
        about_us = about.info(
            self.boot, o.hardware, self.active.slot, self._start_s, takes=o.model, classes=o.classes,
            most_bytes=o.limits.max_bytes,
        )  # fmt: skip
        self._try_publish("info", messages.encode(about_us), retain=True)

    def _note_report(self) -> None:
        self._report_due = True

    def _report(self, now: float) -> None:
        """Send the update's state: every change of phase at once, mere progress at most every `report_every_s`."""
        record = self.updater.record
        if not self._report_due or record is None:
            return
        said = (record.desired.job, f"{record.phase} {record.status}")
        if said != self._logged:
            self._logged = said
            detail = f": {record.detail}" if record.detail else ""
            bad = record.status in ("FAILED", "REJECTED", "TIMED_OUT")
            level = logging.WARNING if bad else logging.INFO
            log.log(level, "release %d of %s, %s%s", record.desired.version, record.desired.name, said[1], detail)
        if not self._link.connected():
            return
        if said == self._said and now - self._reported_at < self.options.report_every_s:
            return
        report = about.report(record, self.active.slot)
        if self._try_publish("model/reported", messages.encode(report), retain=True):
            self._report_due, self._reported_at, self._said = False, now, said

    def _stats(self, now: float) -> None:
        span, self._stats_at = max(1e-3, now - self._stats_at), now
        stats = about.stats(
            self.clock.now(), self._frames / span, self._samples, self.active.slot, spool_frames=len(self.spool),
            dropped_total=self.spool.dropped_total, power_w=self._watts.since_last(),
        )  # fmt: skip
        self._samples, self._frames = [], 0
        self._try_publish("stats", messages.encode(stats), retain=False)
        try:
            probe.send(self.state_dir, self._link, self.site, self.camera)
        except Unavailable:
            pass
        except Refused as e:
            self._count(e)

    def _try_publish(self, leaf: str, payload: bytes, *, retain: bool) -> bool:
        """Publish something that will be said again anyway."""
        try:
            self._publish(leaf, payload, retain=retain)
        except Unavailable:
            return False
        except Refused as e:
            self._count(e)
            return False
        return True

    def _publish(self, leaf: str, payload: bytes, *, retain: bool) -> None:
        topic, properties = topics.cam(self.site, self.camera, leaf), None
        if leaf in SIGNED and self._signer is not None:
            properties = self._signer.properties(topic, payload)
        self._link.publish(topic, payload, properties=properties, retain=retain)

    def _count(self, error: EdgedError) -> None:
        self.refused_total += 1
        log.warning("%s", error)


def _unlabelled(image: Any, boxes: Any, now: float, **options: Any) -> pipeline.Result:
    return NO_MODEL.run(image, boxes, **options)


def _read_switches(path: Path) -> Switches:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Switches)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Switches()
