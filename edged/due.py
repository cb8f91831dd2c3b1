"""Is a cycle due, and why; if not, what is waited for. Pure: what the rows say, rules and a time in, sentences out.

    one is at work              said, nothing is due
    asked for, or interrupted   at once
    else a reason               enough new labels | drift | so many hours with a new label
    and nothing against it      a failure less than so long ago | the hours it may run in

Guarantees: a refusal waits for new labels and a failure for time as well, so that the same cycle is not run again on the
same labels for ever; drift alone is tried once per alarm, and not on labels that were too few or too alike for
the last cycle. Such a cycle takes nothing off the labels that are counted, whoever asked for it too early. A clock that
was set back holds nothing up. Does not guarantee that a cycle that has begun ends before the hours do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

FIRST_WAIT_S = 3600.0  # after the first failure; doubled after each further one
MOST_FAILURES = 5  # in a row, then a new label is waited for: an hour, two, four, eight, sixteen
FEWEST = 20  # new labels that can teach something besides the statistics (retrain/jobs.py, LearnJob.min_samples)


@dataclass(frozen=True)
class Rules:
    """`new_labels` start a cycle, so do drift and `every_s` seconds (0 = never). `hours` "22:00-05:00", "" = always."""

    new_labels: int = 300
    on_drift: bool = True
    every_s: float = 0.0
    hours: str = ""


@dataclass(frozen=True)
class Drifting:
    """An alarm that stands: where, since when, and what it says."""

    camera: str
    since: float
    text: str = ""


@dataclass(frozen=True)
class Facts:
    """What the rows say. Times are seconds since 1970 by the box's clock, 0 = never."""

    running: bool = False  # a cycle has begun and not ended
    asked: Sequence[str] = ()  # who asked for one and waits
    new: int = 0  # human labels that no cycle that trained on them, or was refused for what they say, has seen
    since_last: int = 0  # human labels that no cycle at all has seen
    started: float = 0.0  # the last cycle
    ended: float = 0.0
    failures: int = 0  # cycles in a row that failed, up to now
    drifting: Sequence[Drifting] = ()
    at_work: str = ""  # "cycle 3: train" while a daemon is at the cycle that runs; "" to the daemon itself
    against: str = ""  # what the labels of the last cycle lacked, so that it ended before it trained


@dataclass(frozen=True)
class Due:
    """Exactly one is not empty. `why` a cycle should run now; `waits` for what it waits; `runs` what is at work."""

    why: str = ""
    waits: str = ""
    runs: str = ""

    @property
    def told(self) -> str:
        return self.runs or self.why or self.waits


def decide(facts: Facts, rules: Rules, now: float, zone: tzinfo | None = None) -> Due:
    """`zone` None = the box's local time."""
    if facts.running and facts.at_work:
        then = f"; then the one asked for by {facts.asked[0]}" if facts.asked else ""
        return Due(runs=f"a cycle runs: {facts.at_work}{then}")
    if facts.running:
        return Due(why="interrupted before")
    if facts.asked:
        return Due(why=f"asked for by {facts.asked[0]}")
    reason, missing = _reason(facts, rules, now)
    if not reason:
        return Due(waits=missing)
    wait = min(FIRST_WAIT_S * 2 ** (facts.failures - 1), 2**20) if facts.failures else 0.0
    if facts.failures >= MOST_FAILURES and not facts.since_last:
        return Due(waits=f"waits for a new label: the last {facts.failures} cycles failed ({reason})")
    if 0 < facts.ended + wait - now <= wait:
        return Due(waits=f"waits until {_clock(facts.ended + wait, zone)}, since the last cycle failed: {reason}")
    if not within(rules.hours, now, zone):
        return Due(waits=f"waits for {rules.hours.partition('-')[0]}: {reason}")
    return Due(why=reason)


def within(hours: str, now: float, zone: tzinfo | None = None) -> bool:
    """Whether the local time lies in "22:00-05:00" (the end is outside); "" and equal ends are always.

    The hours are those on the wall: where the clock is put forward a window may be shorter or missing that night, where
    it is put back longer.
    """
    if not hours:
        return True
    start, end = (60 * int(t[:2]) + int(t[3:5]) for t in hours.split("-"))
    local = datetime.fromtimestamp(now, zone)
    minute = 60 * local.hour + local.minute
    if start == end:
        return True
    return start <= minute < end if start < end else minute >= start or minute < end


def enough(facts: Facts, rules: Rules) -> int:
    """New labels that start a cycle: while drift stands a quarter of them, since there is more to win by each."""
    return _few(rules) if rules.on_drift and facts.drifting else rules.new_labels


def _few(rules: Rules) -> int:
    return min(rules.new_labels, max(FEWEST, rules.new_labels // 4))


def _reason(facts: Facts, rules: Rules, now: float) -> tuple[str, str]:
    """(why, "") or ("", what is missing)."""
    drifting = facts.drifting if rules.on_drift else ()
    where = ", ".join(sorted({d.camera or "all cameras" for d in drifting}))
    needed = enough(facts, rules)
    missing = max(needed - facts.new, _few(rules) - facts.since_last if facts.against else 0)
    if missing <= 0:
        return _labels(facts.new) + (f" and drift at {where}" if where else ""), ""
    same = facts.against and not facts.since_last  # which is so whatever drifts, and at any hour
    if fresh := sorted({d.camera or "all cameras" for d in drifting if d.since > facts.started}):
        if same:
            return "", f"waits for a new label: {facts.against}; drift at {', '.join(fresh)}"
        return f"drift at {', '.join(fresh)}" + (f", {_labels(facts.new)}" if facts.new else ""), ""
    if rules.every_s and facts.new and not same and not 0 <= now - facts.started < rules.every_s:
        return f"{rules.every_s / 3600:g} h since the last cycle, {_labels(facts.new)}", ""
    tried = f"; drift at {where} was tried on already" if where else ""
    more = f"waits for {missing} more human label{'s' if missing > 1 else ''}"
    if facts.new >= needed:  # a cycle on them could not begin
        return "", f"{more} than the last cycle had: {facts.against}{tried}"
    return "", f"{more} ({facts.new} of {needed}){tried}"


def _labels(n: int) -> str:
    return f"{n} new human label{'s' if n > 1 else ''}"


def _clock(ts: float, zone: tzinfo | None) -> str:
    return datetime.fromtimestamp(ts, zone).strftime("%H:%M")
