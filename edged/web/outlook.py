"""How a rollout stands and what it waits for: the same for the page, `edged rollout status` and its JSON.

Guarantees: what is said follows from rows and `now`, by the rules that the release keeps. Does not guarantee that the daemon
is there to take the next step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from edged.clock import iso
from edged.publish import aim, fit, fleet, rollout, rules
from edged.publish import release as published
from edged.publish.rules import Rules
from edged.storage import blocked, cameras, candidates, deliveries, releases, views
from edged.storage.deliveries import DeliveryRow
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store
from edged.web import words
from edged.wire.messages import Health

ORDER = ("SUCCEEDED", "IN_PROGRESS", "QUEUED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED", "REMOVED")
UNWELL = "UNWELL"  # of those that SUCCEEDED, the ones that count as failed
UNTOLD = "NOT TOLD"
LEFT_OUT = "LEFT OUT"  # the release does not fit them
SHOWN = 6  # releases
SHOWN_CAMERAS = 40  # of one release, on the page


@dataclass(frozen=True)
class Outlook:
    """`status` the job's in AWS IoT's words; `counts` cameras by status, those not told yet too, in the order of a bar;
    `waits` a sentence without its full stop, "" = for nothing; `plan` the rules in words; `deliveries` the canaries first.
    """

    release: ReleaseRow
    status: str
    counts: dict[str, int]
    deliveries: tuple[DeliveryRow, ...]
    plan: str
    waits: str
    blocked: bool
    acts: tuple[str, ...]  # what a person may do with it now, the verbs of `edged rollout`
    untested: str = ""  # a sentence: a person released it although nothing here could judge it
    left_out: tuple[tuple[str, str], ...] = ()  # cameras that it does not fit, and why
    still: str = ""  # who runs it although it was halted, and what becomes of that: a sentence without its full stop
    replaces: tuple[int, ...] = ()  # releases on their way that end when it starts
    after_abort: str = ""  # what an abort would do to cameras that run it or are taking it: likewise
    silent: tuple[str, ...] = ()  # cameras that it is for and that never spoke

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def document(self) -> dict[str, Any]:
        """For JSON."""
        r = self.release
        return {
            "job": rollout.job_of(r.number), "release": r.number, "name": r.name, "sha256": r.sha256, "state": r.state,
            "status": self.status, "counts": self.counts, "detail": r.detail, "waits": self.waits, "blocked": self.blocked,
            "created": iso(r.created), "started": iso(r.started) if r.started else None,
            "ended": iso(r.ended) if r.ended else None, "actor": r.actor, "returns_to": r.returns_to,
            "rules": dict(r.rules or {}), "only": list(r.cameras), "apart": list(r.apart),
            "untested": self.untested, "plan": self.plan, "still": self.still, "replaces": list(self.replaces),
            "left_out": [{"camera": camera, "why": why} for camera, why in self.left_out], "silent": list(self.silent),
            "cameras": [
                {
                    "camera": d.camera, "status": d.status, "canary": d.canary, "progress": d.progress, "detail": d.detail,
                    "unwell": d.unwell, "signed": d.signed, "updated": iso(d.updated),
                    "health": None if d.health is None else _figures(d.health),
                }
                for d in self.deliveries
            ],
        }  # fmt: skip


def all(
    store: Store, now: float, rules_: Rules, *, limit: int = SHOWN, configured: Collection[str] = ()
) -> list[Outlook]:
    """The last releases for cameras, newest first; see `look`."""
    rows = releases.all(store)
    return [look(store, row, now, rules_, rows, configured=configured) for row in rows[-limit:][::-1]]


def look(
    store: Store, release: ReleaseRow, now: float, rules_: Rules, rows: Sequence[ReleaseRow] | None = None,
    *, configured: Collection[str] = (),
) -> Outlook:  # fmt: skip
    """One release. `rules_`: those of the configuration, by which one that waits would be rolled out; `configured`: ids of
    the cameras that it names.
    """
    rows = releases.all(store) if rows is None else rows
    found = deliveries.of(store, release.number)
    by = rules.of_row(release.rules, rules_)
    if release.state == "waiting" and release.returns_to is not None:
        by = by.returning()
    live = release.state in ("waiting", "rolling", "paused")
    there = cameras.all(store)
    meant = [c for c in there if aim.covers(release, c.id)]
    awaited = views.silent([c.id for c in there], configured) if live else ()
    silent = tuple(c for c in awaited if aim.covers(release, c))
    told = {d.camera for d in found}
    runs = [c.id for c in meant if c.model == release.sha256]
    offered = live or release.number in aim.offered(rows)
    # One that has ended was kept from those that were there then, as they are now.
    there_then = {c.id for c in meant if release.started and c.first_seen < (release.ended or 0) and c.info is not None}
    asked = [c for c in meant if (offered or c.id in there_then) and c.id not in told and c.id not in runs]
    why = {c.id: fit.why_not(release, c.info) for c in asked}
    left_out = tuple((camera, text) for camera, text in why.items() if text)
    untold = sum(not text for text in why.values()) if live else 0
    counts: dict[str, int] = {}
    for status in ORDER:
        n = sum(d.status == status and not d.unwell for d in found)
        bad = sum(d.status == status and bool(d.unwell) for d in found)
        counts |= ({status: n} if n else {}) | ({UNWELL: bad} if bad else {})
    counts |= ({UNTOLD: untold} if untold else {}) | ({LEFT_OUT: len(left_out)} if left_out else {})
    first = sorted(found, key=lambda d: (not d.canary, not (d.unwell or d.status in rollout.BAD), d.camera))
    online = {c.id for c in meant if c.online}
    barred = blocked.get(store, release.sha256) is not None
    strays = [camera for camera in runs if barred or not aim.released_again(rows, release, camera)]
    acts = _acts(release, barred, offered)
    made = candidates.get(store, release.candidate).recipe if release.candidate is not None else {}
    return Outlook(
        release, rollout.AWS_STATUS[release.state], counts, tuple(first), _plan(release, by, live),
        _waits(release, found, online, untold, left_out, silent, now, by, rows), barred, acts, str(made.get("untested", "")),
        left_out, _still(store, release, strays, rows) if barred or release.state == "halted" else "",
        tuple(r.number for r in fleet.replaced(store, release) if r.state != "waiting") if "start" in acts else (),
        after_abort(store, release, runs, busy(found)) if "abort" in acts else "", silent,
    )  # fmt: skip


def _plan(release: ReleaseRow, by: Rules, live: bool) -> str:
    steps = in_words(by) if live else ""
    return ": ".join(filter(None, [aim.in_words(release), steps]))


def in_words(by: Rules) -> str:
    """What a rollout by these rules does, a sentence without its full stop."""
    shares = [words.percent(step, 0) for step in by.steps]
    canary = (
        "" if not by.canary else "a canary first, then " if by.canary == 1 else f"{by.canary} canaries first, then "
    )
    watched = (
        f" once {'it has' if by.canary == 1 else 'they have'} run it for {words.duration(by.wait_s)}"
        if by.wait_s
        else ""
    )
    then = "everybody" if by.steps in ((1.0,), ()) else f"{', '.join(shares[:-1])} and {shares[-1]} of the cameras"
    return f"{canary}{then}{watched if by.canary else ''}"


def health(found: Health | None) -> str:
    """What a camera said of a new model, "" = nothing."""
    if found is None:
        return ""
    told = []
    if found.agreement is not None and found.regions:
        told.append(f"agrees with the model before on {words.percent(found.agreement, 0)} of {found.regions} regions")
    if found.fps:
        before = f" (before {found.fps_before:.1f})" if found.fps_before else ""
        told.append(f"{found.fps:.1f} frames/s{before}")
    if found.shift is not None:
        told.append(f"confidence moved by {found.shift:.2f}")
    return ", ".join(told)


def _figures(found: Health) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _waits(
    release: ReleaseRow, found: Sequence[DeliveryRow], online: set[str], untold: int,
    left_out: Sequence[tuple[str, str]], silent: Sequence[str], now: float, by: Rules, rows: Sequence[ReleaseRow],
) -> str:  # fmt: skip
    offline = sum(d.status == "QUEUED" and d.camera not in online for d in found)
    match release.state:
        case "waiting":
            held = next((r for r in rows if r.state == "paused" and r.name == release.name), None)
            return f"release {held.number}, which is paused" if held else "its start"
        case "paused":
            return "a person to go on with it"
        case "complete":
            return f"{offline} offline {_cameras(offline)}, told already" if offline else ""
        case "rolling" if left_out and not found and not untold:
            more = f"; and {len(left_out) - 1} more are left out" if len(left_out) > 1 else ""
            return f"a camera that it fits ({left_out[0][0]}: {left_out[0][1]}{more})"
        case "rolling" if silent and not found and not untold:
            return f"a camera: {words.unspoken(list(silent))}"
        case "rolling":
            return _of_rolling(found, online, untold, offline, now, by)
    return ""


def _of_rolling(
    found: Sequence[DeliveryRow], online: set[str], untold: int, offline: int, now: float, by: Rules
) -> str:
    wanted = min(by.canary, len(found) + untold)
    well = sorted(d.updated for d in found if d.status == "SUCCEEDED" and not d.unwell)
    if len(well) < wanted:
        canaries = [d for d in found if d.canary and d.status in ("QUEUED", "IN_PROGRESS")]
        if not canaries:
            return "a camera that is online, to be the canary"
        return "canary " + ", ".join(
            f"{d.camera}, {words.percent(d.progress, 0)}" if d.status == "IN_PROGRESS" else f"{d.camera} to begin"
            for d in canaries
        )
    if wanted and (left := well[wanted - 1] + by.wait_s - now) > 0:
        return f"{words.duration(left)} more, in which the canary is watched"
    busy = [d for d in found if d.status == "IN_PROGRESS" or (d.status == "QUEUED" and d.camera in online)]
    if busy:
        return f"{len(busy)} {_cameras(len(busy))} of this step"
    if untold and not online:
        return "cameras to come online"
    return "the next step" if untold else ""


def _cameras(n: int) -> str:
    return "camera" if n == 1 else "cameras"


def _still(store: Store, release: ReleaseRow, runs: Sequence[str], rows: Sequence[ReleaseRow]) -> str:
    if not runs:
        return ""
    who = f"{words.listed(list(runs))} still run{'s' if len(runs) == 1 else ''} it"
    later = [r for r in rows if r.number > release.number and any(aim.covers(r, c) for c in runs)]
    brings = [r for s in ("waiting", "paused", "rolling") for r in later if r.state == s]
    if brings:
        return f"{who}, until release {brings[-1].number} reaches {'it' if len(runs) == 1 else 'them'}"
    back = next(published.earlier(store, release, runs), None)
    if back is None:
        return f"{who}: there is no earlier release to return to, a better one has to be made"
    return f"{who}; release {back.number} was the last good one, `edged model rollback {back.number}` returns to it"


def busy(found: Sequence[DeliveryRow]) -> list[str]:
    """Cameras that have begun: an abort does not stop them."""
    return sorted(d.camera for d in found if d.status == "IN_PROGRESS")


def after_abort(store: Store, release: ReleaseRow, runs: Sequence[str], taking: Sequence[str]) -> str:
    """What an abort does, or has done, to cameras that run it and to those that are taking it: a sentence without its full
    stop.
    """
    runs = [camera for camera in runs if camera not in taking]
    if not runs and not taking:
        return "no camera runs it yet"
    back = next(published.earlier(store, release, [*runs, *taking]), None)
    who, one = words.count(len(runs), "camera"), len(runs) == 1
    begun, alone = words.listed(list(taking)), len(taking) == 1
    begun += f" {'is' if alone else 'are'} taking it and "
    if back is None:
        told = [f"{who} run{'s' * one} it and keep{'s' * one} it"] if runs else []
        told += [f"{begun}keep{'s' * alone} it"] if taking else []
        return f"{'; '.join(told)}, since there is no earlier release to return to"
    to = f" to the model of release {back.number}"
    told = [f"{who} that run{'s' * one} it go{'es' * one} back{to}"] if runs else []
    told += [f"{begun}go{'es' * alone} back{'' if runs else to} afterwards"] if taking else []
    return "; ".join(told)


def _acts(release: ReleaseRow, barred: bool, offered: bool) -> tuple[str, ...]:
    acts: dict[str, tuple[str, ...]] = {
        "waiting": ("start", "abort"), "rolling": ("pause", "abort"), "paused": ("resume", "abort"),
        "complete": ("abort",) if offered else (),
    }  # fmt: skip
    return tuple(act for act in acts.get(release.state, ()) if act != "start" or not barred)
