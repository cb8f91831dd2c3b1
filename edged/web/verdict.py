"""One sentence that says how the site is, and the reasons behind it. Pure: facts in (storage.views.Now), words out.

Guarantees: the first word is decided by the worst or most urgent finding, the rest follow as reasons, so that nothing
that is wrong hides behind something that is going on. Does not guarantee that all is well when it says Good: it knows
only what stands in the store.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edged.health import Reason
from edged.storage.alarms import PRIVACY_LEAK, PRIVACY_UNMEASURED, SCRUB_DOWN
from edged.storage.views import CycleView, Now, Score
from edged.web import words
from edged.web.words import STAGES, count, duration, listed, percent, sentence_case

Level = Literal["good", "busy", "warn", "bad"]

ENOUGH = 20  # labelled samples on either side before a fall is called one
FALL = 0.05  # of accuracy, beyond chance
Z_95_ONE_SIDED = 1.644854


@dataclass(frozen=True)
class Finding:
    """One thing worth saying. `rank` small = first; `section` is the part of the page that shows it."""

    rank: int
    level: Level
    word: str
    text: str
    section: str
    counts_cameras: bool = False  # its text says itself how many are online


@dataclass(frozen=True)
class Verdict:
    """`word` and `text` make the sentence; `reasons` are the other findings, the most urgent first."""

    level: Level
    word: str
    text: str
    reasons: tuple[Finding, ...]

    @property
    def sentence(self) -> str:
        return f"{self.word}. {self.text}"


def sentence(now: Now) -> str:
    """The verdict as `edged status` prints it."""
    return judge(now).sentence


def judge(now: Now, names: Mapping[str, str] | None = None, reasons: Sequence[Reason] = ()) -> Verdict:
    """`names` are what people call the cameras; an unnamed one goes by its id. `reasons` are those of edged/health.py."""
    names = names or {}
    box = _box(reasons)
    if now.cameras == len(now.silent):
        awaited = f": {_awaited(now, names)} awaited" if now.silent else ""
        waiting = Finding(10, "warn", "Waiting", f"no camera has spoken yet{awaited}", "cameras")
        first, *rest = sorted([*_privacy(now), *box, waiting], key=lambda f: f.rank)
        return Verdict(first.level, first.word, f"{sentence_case(first.text)}.", tuple(rest))
    told = (_cameras(now, names), _unspoken(now, names), _rollout(now), _cycle(now), _slipping(now), _withheld(now))
    found = sorted((f for f in (*_privacy(now), *box, *told) if f), key=lambda f: f.rank)
    if not found:
        found = [_calm(now)]
    first, level = found[0], max((f.level for f in found), key=("good", "busy", "warn", "bad").index)
    online = f"{now.online} of {count(now.cameras, 'camera')} online"
    text = first.text if first.counts_cameras else f"{online}; {first.text}"
    return Verdict(level, first.word, f"{sentence_case(text)}.", tuple(found[1:]))


def _privacy(now: Now) -> list[Finding]:
    """What leaks comes before everything; that nobody knows comes after what is known to be wrong."""
    known = {
        PRIVACY_LEAK: lambda text: Finding(-1, "bad", "Leaking", text, "privacy"),
        SCRUB_DOWN: lambda text: Finding(-1, "bad", "Blind", text, "privacy"),
        PRIVACY_UNMEASURED: lambda text: Finding(6, "warn", "Unmeasured", text, "privacy"),
    }
    return [known[a.code](a.text) for a in now.alarms if a.code in known]


WORDS = {
    "disk_full": "Full", "full_soon": "Filling", "disk_failed": "Failing", "queue_stuck": "Stuck", "beat_missed": "Deaf",
    "daemon_away": "Down", "daemon_down": "Down", "broker_away": "Cut off", "broker_mute": "Half deaf",
    "clock_wrong": "Out of time",
    "clock_stepped": "Out of time", "backup_none": "Unsaved", "backup_old": "Unsaved", "retention_held": "Held",
    "catalogue_rebuilt": "Mended", "keyring_copy": "One key", "frames_missing": "Gaps", "camera_silent": "Partly blind",
    "left_out": "Left out", "fits_nobody": "Left out", "camera_revoked": "Shut out",
}  # fmt: skip
SECTIONS = {
    "camera_silent": "cameras", "frames_missing": "cameras", "camera_revoked": "cameras", "left_out": "fleet",
    "fits_nobody": "fleet",
}  # fmt: skip
TOLD = {PRIVACY_LEAK, SCRUB_DOWN, PRIVACY_UNMEASURED, "camera_offline"}  # in words of their own, here


def _box(reasons: Sequence[Reason]) -> list[Finding]:
    """What is wrong with the box itself: what fails right after what leaks, the rest with its like."""
    return [
        Finding(
            0 if r.severity == "failed" else 6, "bad" if r.severity == "failed" else "warn", WORDS.get(r.code, "Warning"),
            r.text + (f" ({r.hint})" if r.hint else ""), SECTIONS.get(r.code, "now"),
        )
        for r in reasons if r.code not in TOLD
    ]  # fmt: skip


def without(now: Now, revoked: Collection[str]) -> Now:
    """Cameras whose certificate was taken back are not away: they are shut out, which is said in other words."""
    return replace(now, offline=tuple((c, seen) for c, seen in now.offline if c not in revoked))


def _cameras(now: Now, names: Mapping[str, str]) -> Finding | None:
    if not now.offline:
        return None
    who = listed([names.get(c, c) for c, _ in now.offline])
    since = duration(round(now.at - max(seen for _, seen in now.offline)))
    verb = "has" if len(now.offline) == 1 else "have"
    if now.online == 0:
        return Finding(0, "bad", "Blind", f"no camera is online; the last was heard of {since} ago", "cameras", True)
    text = f"{now.online} of {count(now.cameras, 'camera')} online; {who} {verb} been away for {since}"
    return Finding(5, "warn", "Partly blind", text, "cameras", True)


def _unspoken(now: Now, names: Mapping[str, str]) -> Finding | None:
    if not now.silent:
        return None
    text = words.unspoken([names.get(c, c) for c in now.silent])
    return Finding(5, "warn", "Waiting", text, "cameras")


def _awaited(now: Now, names: Mapping[str, str]) -> str:
    return f"{listed([names.get(c, c) for c in now.silent])} {'is' if len(now.silent) == 1 else 'are'}"


def _rollout(now: Now) -> Finding | None:
    r = now.release
    if r is None:
        return None
    if r.state == "halted":
        why = f": {_unstopped(r.detail)}" if r.detail else ""
        return Finding(1, "bad", "Halted", f"release {r.number} was halted{why}", "fleet")
    if r.state == "rolling":
        text = f"release {r.number} runs on {now.running} of {count(now.cameras, 'camera')}"
        return Finding(3, "busy", "Rolling out", text, "fleet")
    if r.state == "paused":
        return Finding(4, "warn", "Paused", f"release {r.number} is {_unstopped(r.detail) or 'paused'}", "fleet")
    if r.state == "waiting":
        return Finding(4, "busy", "Waiting", f"release {r.number} waits for its start", "fleet")
    return None


def _cycle(now: Now) -> Finding | None:
    c = now.cycle
    if c is not None and c.state == "running":
        return Finding(2, "busy", "Learning", f"the cycle is {_stage(c)}", "cycle")
    if now.asked:
        return Finding(4, "busy", "Starting", "a cycle was asked for and begins in a moment", "cycle")
    if c is not None and c.state == "failed":
        return Finding(6, "bad", "Stuck", f"the last cycle failed: {_unstopped(c.detail)}", "cycle")
    if c is not None and c.state == "refused":
        stays = f"; release {now.release.number} stays" if now.release else ""
        if any(r.name == "gate" and r.state == "done" for r in c.rungs):
            return Finding(8, "warn", "Holding", f"the gate refused the last candidates{stays}", "models")
        return Finding(8, "warn", "Holding", f"the last cycle made no model: {_unstopped(c.detail)}{stays}", "cycle")
    return None


def _stage(c: CycleView) -> str:
    for rung in c.rungs:
        if rung.state == "running":
            facts = [percent(rung.progress, 0)] if rung.progress > 0 else []
            if rung.eta_s is not None and rung.eta_s >= 1:
                facts.append(f"{duration(round(rung.eta_s))} left")
            return STAGES[rung.name] + (f" ({', '.join(facts)})" if facts else "")
    return "between two stages"


def _slipping(now: Now) -> Finding | None:
    recent, before = now.recent.share, now.before.share
    if recent is None or before is None or not falling(now.recent, now.before):
        return None
    text = f"accuracy fell from {percent(before, 0)} to {percent(recent, 0)} (last {count(now.recent.n, 'labelled sample')})"
    return Finding(7, "warn", "Slipping", text, "models")


def falling(recent: Score, before: Score) -> bool:
    """Whether the fall is at least FALL and more than chance (two proportions, one-sided at 95 %)."""
    if recent.n < ENOUGH or before.n < ENOUGH:
        return False
    fall = before.right / before.n - recent.right / recent.n
    pooled = (recent.right + before.right) / (recent.n + before.n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / recent.n + 1 / before.n))
    return fall >= FALL and fall > Z_95_ONE_SIDED * spread


def _withheld(now: Now) -> Finding | None:
    if not now.withheld:
        return None
    why = f" ({now.withheld_why})" if now.withheld_why else ""
    text = f"{count(now.withheld, 'frame')} withheld in the last 10 minutes, since privacy could not vouch for "
    return Finding(9, "warn", "Careful", f"{text}{'it' if now.withheld == 1 else 'them'}{why}", "cameras")


def _calm(now: Now) -> Finding:
    """Nothing is wrong and nothing is going on."""
    if now.release is None:
        have = f"{count(now.samples, 'region')} and {count(now.labels, 'label')} so far"
        return Finding(10, "busy", "Collecting", f"there is no model yet: {have}", "label")
    seen = ""
    if now.recent.n >= ENOUGH:
        seen = f" and were right on {percent(now.recent.share, 0)} of the last {now.recent.n} labelled samples"
    if now.running < now.cameras:
        text = f"{now.running} of them run{'s' if now.running == 1 else ''} release {now.release.number}{seen}"
    else:
        text = f"all run release {now.release.number}{seen}"
    return Finding(10, "good", "Good", text, "models")


def _unstopped(text: str) -> str:
    return text.strip().rstrip(".") or "no reason was given"
