"""The leak rate as a live figure: pictures of known content take the way of a camera's frames, on a schedule.

Guarantees: a planted picture goes through the same thread, child, look, delay and cover as a frame, and what comes out
is looked at by the child and forgotten, never stored; no camera's frame waits for more than one of them, and the quick
series (at the start and while an alarm stands) takes at most BUSY of one child's time. An alarm is raised when things
that no working scrubber misses are to be seen, when the recall of a kind and size is significantly below what it should
be, and when pictures come to nothing: silence is no good news. Does not guarantee that real faces are hidden as often.

`step` belongs to the main loop; pictures are planted by the threads of ingest, whose findings it fetches.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from edged.clock import Clock, stopwatch
from edged.config import PLANTED
from edged.errors import Corrupt, EdgedError, Unavailable
from edged.ingest import Answers, Job, Line, note_down
from edged.interval import Z_95, Z_99, wilson
from edged.privacy.scrub import Scrubbed, Withheld
from edged.privacy.sizes import EXPECTED, HIDDEN, PICTURES, size_of
from edged.privacy.talk import Planted
from edged.storage import alarms, leaks
from edged.storage.leaks import Observed
from edged.storage.store import Store
from edged.wire.messages import Frame, FrameHeader

log = logging.getLogger(__name__)

LEAK, UNMEASURED = alarms.PRIVACY_LEAK, alarms.PRIVACY_UNMEASURED

QUICK = 20  # pictures soon after the start
QUICK_S = 5.0  # between two of them, at least
BUSY = 0.05  # of one child's time, at most, for the quick series
ROOM_S = 2.0  # until the next try when ingest has no room
LOST_S = 300.0  # a picture that was not heard of for so long is lost
IN_A_ROW = 5  # pictures that came to nothing before that is an alarm
GRACE_S = 900.0  # without a finding, at least, before that is one
ENOUGH = 10  # of a kind and size before its recall says anything
# Newest things that a fall is looked for in, and how sure it must be: a deep one soon, a shallow one in the end. Short
# windows are many, so more is asked of them.
WINDOWS = ((20, Z_99), (60, Z_99), (200, Z_95))
CALM = (20, 60)  # newest things whose recall itself must be as asked before an alarm is cleared
SILENCE_S = 60.0  # between two words about silence
EASY = 10  # newest ones that no working scrubber misses, all of which must be hidden
NOT_COVERED = 0.3  # of a box may look covered before anything covered it

Kinds = tuple[str, str]  # kind and size


@dataclass(frozen=True)
class WatchRules:
    """`every_s` 0 = never; `least` is the share (0..1) of what a healthy scrubber hides below which it is an alarm."""

    every_s: float
    least: float
    kinds: tuple[str, ...] = ("face", "plate")


@dataclass(frozen=True)
class Finding:
    """What became of a picture: what was hidden, or, when nothing was `observed`, `why` not (a code)."""

    seed: int
    observed: tuple[Observed, ...]
    why: str
    took_s: float  # of the child's time


class Watch:
    """Plants, notes, raises and clears alarms. `plant(n, job)` queues a job for a line of ingest, False = no room."""

    def __init__(self, store: Store, plant: Callable[[int, Job], bool], rules: WatchRules, clock: Clock) -> None:
        self._store, self._plant, self._rules, self._clock = store, plant, rules, clock
        self._found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
        last = leaks.last(store)
        self._seed = (last.seed + 1) % PICTURES if last else 0
        self._n = 0  # pictures planted so far, which spreads them over the children
        self._quick = QUICK
        self._next = self._judged = clock.monotonic()
        self._silence = self._next  # when to say next that nothing comes back
        self._out: tuple[int, float] | None = None  # the seed that is under way, and since when
        self._empty = 0  # pictures in a row that came to nothing
        self._on = rules.every_s > 0 and bool(rules.kinds)
        if not self._on:
            for code in (LEAK, UNMEASURED):
                alarms.clear(store, code)

    def step(self) -> None:
        """Note what was found, plant what is due. Raises what the store raises."""
        if not self._on:
            return
        now = self._clock.monotonic()
        while not self._found.empty():
            self._note(self._found.get(), now)
        if self._out is not None and now - self._out[1] > LOST_S:
            self._note(Finding(self._out[0], (), "lost", 0.0), now)
        if now - self._judged > max(3 * self._rules.every_s, GRACE_S) and now >= self._silence:
            self._silence = now + SILENCE_S
            self._sound_unmeasured(f"no planted picture came back for {(now - self._judged) / 60:.0f} minutes")
        if self._out is None and now >= self._next:
            if self._plant(self._n, partial(plant, self._seed, self._rules.kinds, self._clock, self._found.put)):
                self._out = (self._seed, now)
                self._seed = (self._seed + 1) % PICTURES
                self._n += 1
            else:
                self._next = now + ROOM_S

    def _note(self, finding: Finding, now: float) -> None:
        if self._out is None or self._out[0] != finding.seed:
            return  # it was given up for lost
        self._out = None
        self._quick = max(0, self._quick - 1)
        if finding.observed:
            leaks.add(self._store, finding.seed, finding.observed)
            self._judged, self._empty = now, 0
            for code in (UNMEASURED, alarms.SCRUB_DOWN):
                alarms.clear(self._store, code)
            self._judge()
        else:
            log.warning("planted picture %d came to nothing: %s", finding.seed, finding.why)
            leaks.add_unjudged(self._store, finding.seed, finding.why)
            if finding.why == "child_down":
                note_down(self._store, Unavailable("no scrub child can start; `edged doctor` says why"))
            self._empty += 1
            if self._empty >= IN_A_ROW:
                self._sound_unmeasured(f"the last {self._empty} planted pictures came to nothing: {finding.why}")
        hurry = self._quick > 0 or alarms.stands(self._store, LEAK)
        soon = max(QUICK_S, finding.took_s / BUSY)
        self._next = now + (min(soon, self._rules.every_s) if hurry else self._rules.every_s)

    def _judge(self) -> None:
        stands = alarms.stands(self._store, LEAK)
        # What led to an alarm that was cleared is not held against the scrubber again.
        after = alarms.last_cleared(self._store, LEAK)
        seen = {
            (kind, size): leaks.newest(self._store, kind, size, after)
            for kind, size in EXPECTED if kind in self._rules.kinds
        }  # fmt: skip
        easy = {kind: leaks.newest_easy(self._store, kind, after, EASY) for kind in self._rules.kinds}
        text = verdict(seen, easy, self._rules.least, stands=stands)
        if text and alarms.sound(self._store, LEAK, text):
            log.error("privacy: %s", text)
        elif not text and alarms.clear(self._store, LEAK):
            log.warning("privacy: planted faces and plates are hidden again")

    def _sound_unmeasured(self, text: str) -> None:
        if alarms.sound(self._store, UNMEASURED, text):
            log.error("privacy: %s", text)


def verdict(
    seen: Mapping[Kinds, Sequence[bool]], easy: Mapping[str, Sequence[bool]], least: float, *, stands: bool
) -> str:
    """What leaks, as a sentence, "" = nothing that is known. Pure; sequences say "hidden?", the newest first.

    An alarm is raised when a recall's interval (Wilson) lies wholly below what is asked, and one that `stands` goes on
    until the recall itself is no longer below it; a single easy one that leaks raises it at once, and as long as it is
    among the newest ones.
    """
    told = []
    for kind, hidden in easy.items():
        if leaked := hidden[:EASY].count(False):
            told.append(f"{leaked} of the last {len(hidden[:EASY])} easy planted {kind}s leaked")
    for (kind, size), hidden in seen.items():
        asked = least * EXPECTED[kind, size]
        low = _recovering(hidden, asked) if stands else _fallen(hidden, asked)
        if low:
            told.append(
                f"{sum(low)} of the last {len(low)} {size} planted {kind}s hidden, {100 * asked:.0f} % should be"
            )
    return "; ".join(told)


def _fallen(hidden: Sequence[bool], asked: float) -> Sequence[bool]:
    """The shortest window whose recall is significantly below what is asked; none of them = ()."""
    windows = ((hidden[:window], z) for window, z in WINDOWS)
    return next((of for of, z in windows if len(of) >= ENOUGH and wilson(sum(of), len(of), z)[1] < asked), ())


def _recovering(hidden: Sequence[bool], asked: float) -> Sequence[bool]:
    """The shortest window whose recall is still below what is asked."""
    windows = (hidden[:window] for window in CALM)
    return next((of for of in windows if len(of) >= ENOUGH and sum(of) < asked * len(of)), ())


def plant(seed: int, kinds: Sequence[str], clock: Clock, tell: Callable[[Finding], None], line: Line) -> Answers:
    """The job: one picture of this seed along a line of ingest; `tell` hears of it once, whatever happens.

    Raises nothing of the families Refused, Unavailable and Withheld; Corrupt goes on to whoever runs the line.
    """
    began = stopwatch()
    spent = 0.0
    told = False

    def sink(frame: Frame, scrub: Callable[[], Scrubbed]) -> None:
        nonlocal told
        at, why = stopwatch(), "nothing_planted"
        observed: tuple[Observed, ...] = ()
        try:
            observed = observe(line, planted, scrub(), kinds)
        except EdgedError as e:
            if isinstance(e, Corrupt):
                raise
            why = e.code
        told = True
        tell(Finding(seed, observed, "" if observed else why, spent + stopwatch() - at))

    try:
        planted = line.scrubber.plant(seed)
    except EdgedError as e:
        if isinstance(e, Corrupt):
            raise
        tell(Finding(seed, (), e.code, stopwatch() - began))
        return
    spent = stopwatch() - began
    now = clock.now()
    header = FrameHeader(f"{PLANTED}-{seed}", now, seed, PLANTED, planted.width, planted.height)
    yield from line.take(Frame(PLANTED, header, planted.jpeg, "frame", now), sink, alone=True)
    if not told:  # it was looked at and waits to be covered
        spent = stopwatch() - began


def observe(line: Line, planted: Planted, scrubbed: Scrubbed, kinds: Sequence[str]) -> tuple[Observed, ...]:
    """How much of each planted thing was covered. Raises Withheld (code planted) for a picture that proves nothing."""
    before = line.scrubber.inspect(planted.jpeg, planted.spots)
    if any(share > NOT_COVERED for share in before):
        raise Withheld("what was planted looks covered before anything covered it", code="planted")
    shares = line.scrubber.inspect(scrubbed.jpeg, planted.spots)
    easy = planted.easy or (False,) * len(planted.spots)
    scale = planted.width / 1280  # sizes are those of a picture 1280 wide
    return tuple(
        Observed(spot.kind, size_of(spot.kind, spot.w / scale), spot.w, is_easy, share, share >= HIDDEN)
        for spot, is_easy, share in zip(planted.spots, easy, shares, strict=True) if spot.kind in kinds
    )  # fmt: skip
