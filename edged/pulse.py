"""Is the box deaf? It sends itself a message and sees whether the answer comes back: the food of the watchdog.

    a beat   server/<id>/pulse            out by the link, through the broker, back by the link, read by the main loop
             a picture of 16x16 pixels    on every line of ingest: to its scrub child and back, through the store's
                                          lock and the journal's turn; nothing of it is kept
             server/<id>/pulse/receipt    one for each line, the same way out and back

Guarantees: `step` names a part that stands still, at the latest `every_s + patience_s` (default 20 s) after it did, for
the cable CABLE_S + AGAIN_S after the beat, for a scrub child its own deadline and CHILD_S. A part that answers with an
error is alive: a full disk, a child that cannot start, a picture that is refused are alarms, and no restart mends them.
While the broker is away, beats go without the cable, and the network thread must come round (`Link.alive`). A broker
that takes messages and hands none back is hung up on once, since to connect anew mends what a restart would; deaf is
who then still hears nothing. A cable that never brought a beat back in this process is an alarm, not a restart: one
before would not have helped either. So no fault of the broker or the cable restarts it more than once.

Does not guarantee: that the networks still find faces (edged/watch.py measures that); that the disk flushes, before a
frame has to (the frame that waits for it holds the journal's turn, and the next beat meets that).

Why it does not cry wolf. With two lines a beat costs 2.9 ms of CPU in the daemon and 0.5 ms in each child: 0.08 % of a
core at one in 5 s (measured on x86-64, 348 beats against none; an Atom takes about four times that: estimated). It costs
no flush, and stands before the frames in a line's queue, so it waits for one frame at most. What it can wait for there
is bounded: a look or a cover by `deadline_s` (15 s, and START_S more while a child is started), which is waited for in
full; a commit by SQLite's busy time (10 s) or a flush of bad flash (seconds). With patience_s = 15 the store has 5 s
beyond the longest of these; a transaction of this process that takes longer would be taken for a lock that hangs, so
none may. When the main loop itself was held up (a stopped virtual machine) for more than HELD_S, every clock here
starts anew, since nobody looked. Anything that arrives shows that the cable is heard, so that a beat behind a thousand
frames in the broker's queue is waited for up to MUTE_S.
"""

from __future__ import annotations

import base64
import logging
import queue
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from edged.clock import Clock
from edged.config import PLANTED
from edged.errors import Refused, Unavailable
from edged.ingest import Answers, Job, Line, Scrubber
from edged.privacy.pool import START_S
from edged.privacy.scrub import Scrubbed, Withheld
from edged.privacy.talk import Planted, Seen, Spot
from edged.wire.messages import Frame, FrameHeader

log = logging.getLogger(__name__)

CABLE_S = 10.0  # without hearing anything, while a beat is under way, before the link is renewed
AGAIN_S = 5.0  # for the link to react to that, and for a beat on the new connection
MUTE_S = 120.0  # for a beat while other messages arrive
CHILD_S = 5.0  # beyond a child's own deadline: to kill it and go on
HELD_S = 5.0
APART_S = 2.0  # after which the lines are tried without waiting for the cable
FORGOTTEN_S = 30.0
UNHEARD_S = 600.0  # between two attempts to renew a link that never brought a beat back
PICTURE = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/wAALCAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAaEAACAgMAAAAAAAAAAAAAAAAREgAEFCNB/9oACAEBAAA/ALUqeW+x"
    "FHCTF2niJsdjwARSuYj63YdAEXbmWmtFPSTP/9k="
)  # a light square on grey
SIDE = 16
BEAT, RECEIPT = "pulse", "pulse/receipt"


@dataclass(frozen=True)
class PulseRules:
    """`every_s` 0 = no beats; `patience_s` for what has no deadline of its own, `child_s` a scrub child's deadline."""

    every_s: float = 5.0
    patience_s: float = 15.0
    child_s: float = 15.0


class Cable(Protocol):
    """What of a link is needed."""

    def publish(self, topic: str, payload: bytes) -> None: ...

    def connected(self) -> bool: ...

    def connects(self) -> int: ...

    def alive(self) -> bool: ...

    def renew(self) -> None: ...


class Watched:
    """A scrubber whose calls can be seen from outside, and timed: `took(step, camera, seconds)`. One thread uses it."""

    def __init__(
        self, scrubber: Scrubber, clock: Clock, took: Callable[[str, str, float], None] = lambda *_: None
    ) -> None:
        self._scrubber, self._clock, self._took = scrubber, clock, took
        self.calling = False
        self.moved = clock.monotonic()  # when a call began or ended last

    @property
    def starting(self) -> bool:
        """Whether its child is being started."""
        return bool(getattr(self._scrubber, "starting", False))

    def look(self, frame: Frame) -> Seen:
        with self._call("look", frame.camera):
            return self._scrubber.look(frame)

    def scrub(self, frame: Frame, spots: Sequence[Spot] | None = None, *, blank: bool = False) -> Scrubbed:
        with self._call("cover", frame.camera):
            return self._scrubber.scrub(frame, spots, blank=blank)

    def plant(self, seed: int) -> Planted:
        with self._call("plant", PLANTED):
            return self._scrubber.plant(seed)

    def inspect(self, jpeg: bytes, spots: Sequence[Spot]) -> tuple[float, ...]:
        with self._call("inspect", PLANTED):
            return self._scrubber.inspect(jpeg, spots)

    def close(self) -> None:
        self._scrubber.close()

    @contextmanager
    def _call(self, step: str, camera: str) -> Iterator[None]:
        self.moved, self.calling = self._clock.monotonic(), True
        began = self.moved
        try:
            yield
        finally:
            self.moved, self.calling = self._clock.monotonic(), False
            self._took(step, camera, self.moved - began)


@dataclass
class _Beat:
    token: str
    began: float
    connection: int = 0  # which the cable was when it was sent, 0 = it goes without
    back: bool = False  # the message came back
    spread: float = 0.0  # when its pictures went out
    sent: float = 0.0  # when something was sent by the cable last
    to_plant: set[int] = field(default_factory=set)
    on_lines: set[int] | None = None  # not yet through, None = not yet sent there
    ended: set[int] = field(default_factory=set)  # through at least once
    receipts: set[int] = field(default_factory=set)  # not yet back by the cable

    def by_cable(self) -> bool:
        """Whether it waits for nothing but the cable."""
        return bool(self.connection) and not (self.back and self.on_lines)

    def through(self) -> bool:
        return (
            self.on_lines is not None
            and not self.on_lines
            and (not self.connection or (self.back and not self.receipts))
        )


class Pulse:
    """Beats, one at a time. All of it belongs to the main loop, but for the jobs that it plants.

    `plant(n, job)` queues a job for line n, False = no room. `touch()` goes where a frame's rows and record go."""

    def __init__(
        self, cable: Cable, topic: Callable[[str], str], lines: Sequence[Watched], plant: Callable[[int, Job], bool],
        touch: Callable[[], None], rules: PulseRules, clock: Clock,
    ) -> None:  # fmt: skip
        self._cable, self._topic, self._lines, self._plant = cable, topic, lines, plant
        self._touch, self._rules, self._clock = touch, rules, clock
        self._ended: queue.SimpleQueue[tuple[str, int, str]] = queue.SimpleQueue()  # token, line, code of an error
        self._beat: _Beat | None = None
        now = clock.monotonic()
        self._turned = self._floor = self._next = self._heard = now
        self._renewed: tuple[float, int] | None = None  # when, and which connection it was
        self.through = 0  # beats
        self.renewals = 0
        self.cable_works = False  # a beat came back in this process
        self.cable_silent = False  # and the newest one did not
        self.away_since: float | None = None  # monotonic, the broker
        self.last: float | None = None  # monotonic, when a beat was through
        self.took_s = 0.0  # that beat, from end to end

    def step(self) -> str:
        """Send what is due; which part stands still, "" = none does."""
        if self._rules.every_s <= 0:
            return ""
        now = self._clock.monotonic()
        if now - self._turned > HELD_S:
            self._floor = now
        self._turned = now
        if self._cable.connected():
            self.away_since = None
        elif self.away_since is None:
            self.away_since = now
        while not self._ended.empty():
            self._end(*self._ended.get())
        if self._beat is None and now >= self._next:
            self._begin(now)
        beat = self._beat
        if beat is not None:
            self._go_on(beat, now)
            if beat.through():
                self._finish(beat, now)
        return self._still(now)

    def hears(self) -> None:
        """Any message has arrived."""
        self._heard = self._clock.monotonic()

    def heard(self, leaf: str, payload: bytes) -> None:
        """A message of our own came back."""
        beat = self._beat
        token, _, line = payload[:64].decode("ascii", "replace").partition(":")
        if beat is None or token != beat.token or not beat.connection:
            return
        if leaf == BEAT:
            beat.back = True
            if beat.on_lines is None:
                self._spread(beat, self._clock.monotonic())
        elif leaf == RECEIPT and line.isdecimal():
            beat.receipts.discard(int(line))

    # one beat

    def _begin(self, now: float) -> None:
        beat = self._beat = _Beat(secrets.token_hex(12), now, sent=now)
        if self._cable.connected():
            with suppress(Unavailable, Refused):
                connection = self._cable.connects()
                self._cable.publish(self._topic(BEAT), beat.token.encode())
                beat.connection = connection

    def _spread(self, beat: _Beat, now: float) -> None:
        lines = range(len(self._lines))
        if beat.on_lines is None:
            beat.receipts = set(lines) if beat.connection else set()
        beat.spread, beat.to_plant, beat.on_lines = now, set(lines), set(lines)

    def _go_on(self, beat: _Beat, now: float) -> None:
        if beat.connection and not (self._cable.connected() and self._cable.connects() == beat.connection):
            beat.connection = 0  # the broker is away, or another one: the rest goes without
        waits = bool(beat.connection) and now - beat.began <= APART_S
        again = beat.on_lines is not None and not beat.on_lines and now - beat.spread >= self._rules.every_s
        if (beat.on_lines is None and not waits) or (again and not beat.through()):
            self._spread(beat, now)
        for n in sorted(beat.to_plant):
            if self._plant(n, partial(self._job, n, beat.token, bool(beat.connection))):
                beat.to_plant.discard(n)

    def _job(self, n: int, token: str, cable: bool, line: Line) -> Answers:
        """On a thread of ingest: to the child and back, to where rows and records go, and the receipt."""
        why = ""
        now = self._clock.now()
        frame = Frame(PLANTED, FrameHeader(f"{BEAT}-{n}", now, 0, BEAT, SIDE, SIDE), PICTURE, "frame", now)
        try:
            line.scrubber.scrub(frame, (), blank=True)
            self._touch()
        except (Refused, Unavailable, Withheld) as e:  # an answer, too; a frame that meets it raises the alarm
            why = e.code
        finally:
            self._ended.put((token, n, why))
        if cable:
            with suppress(Unavailable, Refused):
                self._cable.publish(self._topic(RECEIPT), f"{token}:{n}".encode())
        return ()

    def _end(self, token: str, n: int, why: str) -> None:
        if why:
            log.warning("a beat on line %d came to nothing: %s", n, why)
        beat = self._beat
        if beat is not None and beat.token == token and beat.on_lines is not None:
            beat.on_lines.discard(n)
            if n not in beat.ended:
                beat.ended.add(n)
                beat.sent = self._clock.monotonic()

    def _finish(self, beat: _Beat, now: float) -> None:
        self._beat = None
        self._next = beat.began + self._rules.every_s
        self.through += 1
        self.last, self.took_s = now, now - beat.began
        if beat.connection:
            self.cable_works, self.cable_silent, self._renewed = True, False, None
        elif self._renewed is not None and self._cable.connected():
            self._next = now  # the new connection is tried at once

    # what stands still

    def _still(self, now: float) -> str:
        if not self._cable.alive():
            return "the network thread has ended or hangs"
        for n, line in enumerate(self._lines):
            if why := self._line_still(n, line, now):
                return why
        return self._cable_still(now)

    def _line_still(self, n: int, line: Watched, now: float) -> str:
        if line.calling:
            limit = self._rules.child_s + CHILD_S + (START_S if line.starting else 0)
            quiet = now - max(line.moved, self._floor)
            return f"scrub child {n} was asked {quiet:.0f} s ago" if quiet > limit else ""
        if self._beat is None or n not in (self._beat.on_lines or ()):
            return ""
        quiet = now - max(self._beat.spread, line.moved, self._floor)
        return f"line {n} of ingest has stood still for {quiet:.0f} s" if quiet > self._rules.patience_s else ""

    def _cable_still(self, now: float) -> str:
        if self._renewed is not None:
            since, connection = self._renewed
            if self._cable.connected() and self._cable.connects() == connection and not self.cable_silent:
                late = now - max(since, self._floor) > AGAIN_S
                return "the link hears nothing and does not hang up" if late else ""
            if not self._cable.connected() and now - since > FORGOTTEN_S:
                self._renewed = None  # the broker was hung up on and is away: what comes is another matter
        beat = self._beat
        if beat is None or not beat.by_cable():
            return ""
        quiet = now - max(beat.sent, self._heard, self._floor)
        waited = now - max(beat.began, self._floor)
        if self._renewed is None:
            if quiet > CABLE_S or waited > MUTE_S:
                log.warning("the broker does not hand back what it is sent: connecting anew")
                self._renewed = now, beat.connection
                self.renewals += 1
                self._cable.renew()
        elif quiet > AGAIN_S or waited > MUTE_S:
            if self.cable_works:
                return f"nothing comes back by the cable for {now - self._renewed[0]:.0f} s, on a new connection either"
            beat.connection = 0
            self.cable_silent = True
            if now - self._renewed[0] > UNHEARD_S:
                self._renewed = None
        return ""
