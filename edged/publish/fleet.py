"""Rollouts on rows: what rollout.py decides is written here, and what each camera should be told is read from here.

Guarantees: `standing` follows from the rows alone, so that after a kill, or on a new broker, publishing what it says
(and clearing what it says is None) puts every camera right; every change of a release's state is looked up in ACTS within
the transaction that writes it, so that a person and the daemon never undo each other's; bytes of a halted release are
blocked in the transaction that halts it. Does not guarantee: anything about who reads the messages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.publish import aim, expected, fit, rollout, rules
from edged.publish.rollout import Camera, Complete, Delivery, Expire, Halt, Offer, Rules, Withdraw
from edged.storage import alarms, audit, blocked, cameras, counters, deliveries, releases
from edged.storage.deliveries import DeliveryRow
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store
from edged.wire.messages import Desired, JobStatus, Reported

BOX = "rollout"  # who acts when no person does
GATE = "gate"  # who releases what a cycle has made or found


class Presence:
    """Since when each camera is there or away, as seen by this process; starts anew with it."""

    def __init__(self) -> None:
        self._seen: dict[str, Camera] = {}

    def look(self, rows: Sequence[cameras.Camera], now: float, busy: frozenset[str] = frozenset()) -> list[Camera]:
        """`busy`: cameras in the middle of a delivery, which may run something else in a moment."""
        found = []
        for row in rows:
            known = self._seen.get(row.id)
            since = now if known is None or known.online != row.online else known.since
            runs = row.reported.sha256 if row.reported is not None and row.id not in busy else ""
            found.append(Camera(row.id, row.online, since, runs))
        self._seen = {c.id: c for c in found}
        return found


def advance(store: Store, presence: Presence, defaults: Rules, now: float, *, auto: bool = True) -> list[str]:
    """Take every step that is due; returns sentences on what happened, [] mostly. Cheap enough for every tick.

    `auto`: a release that waits starts by itself, unless one of its name is paused. One that returns to earlier bytes
    always does.
    """
    rows = releases.all(store)
    open_ = deliveries.open_releases(store)
    if not any(r.state in ("waiting", "rolling", "paused", "complete") or r.number in open_ for r in rows):
        return _fits_nobody(store, [], []) + _left_out(store, [], [])
    _start_waiting(store, rows, defaults, auto)
    rows = releases.all(store)
    newest = aim.offered(rows)
    at_work = [r for r in rows if r.state in ("rolling", "paused") or r.number in open_ or r.number in newest]
    told = [_delivery(d) for r in at_work for d in deliveries.of(store, r.number)]
    stands = [_delivery(d) for d in deliveries.standing(store, halted=True)]
    told += [d for d in stands if d.release not in {r.number for r in at_work}]
    barred = {b.sha256 for b in blocked.all(store)}
    busy = frozenset(d.camera for d in told if d.status == "IN_PROGRESS")
    there = cameras.all(store)
    fleet = presence.look(there, now, busy)
    said = _fits_nobody(store, rows, there) + _left_out(store, rows, there)
    for release in reversed(at_work):
        by = rules.of_row(release.rules, defaults)
        offers = (release.state != "complete" or release.number in newest) and release.sha256 not in barred
        why = {c.id: fit.why_not(release, c.info) for c in there}
        could = [dataclasses.replace(c, unfit=why[c.id]) for c in fleet if aim.covers(release, c.id)]
        for action in rollout.plan(release, [d for d in told if d.release >= release.number], could, now, by):
            if offers or not isinstance(action, Offer):
                said += _act(store, release, action, told, now)
    return said


def record(
    store: Store,
    camera: str,
    reported: Reported,
    now: float,
    defaults: Rules | None = None,
    *,
    signed: bool | None = None,
) -> str:
    """Write a camera's word on its delivery; returns why it was ignored, or "". `signed`: whether it was, and verified."""
    number = rollout.number_of(reported.job)
    row, release = deliveries.get(store, number, camera), releases.get(store, number)
    if row is None or release is None:
        return "" if not reported.job else f"report on {reported.job}, which {camera} was never told of"
    before = _delivery(row)
    by = rules.of_row(release.rules, defaults or rules.DEFAULTS)
    heard = rollout.on_reported(before, reported, now, by, sha256=release.sha256, signed=signed)
    if heard.ignored:
        counters.bump(store, "reported:ignored")
    elif heard.delivery != before:
        _write(store, heard.delivery)
    return heard.ignored


def standing(store: Store) -> dict[str, Desired | None]:
    """What each camera's retained `model/desired` must say now; None = it must be empty.

    The newest release that the camera was told of and that was not taken back, failed or refused. A camera that is in
    the middle of a halted release is to stop; one that runs it goes on, until it is offered a way back.
    """
    newest: dict[str, Desired | None] = {c.id: None for c in cameras.all(store)}
    known: dict[int, ReleaseRow | None] = {}
    for d in deliveries.standing(store, halted=False):
        if d.release not in known:
            known[d.release] = releases.get(store, d.release)
        if (release := known[d.release]) is not None:
            newest[d.camera] = rollout.desired(release)
    return newest


def astray(store: Store) -> list[tuple[str, ReleaseRow]]:
    """Cameras whose newest word is that they run a release that was halted, with it; none whose bytes were released again."""
    rows = releases.all(store)
    halted = {r.number: r for r in rows if r.state == "halted"}
    if not halted:
        return []
    stays = [d for d in deliveries.standing(store, halted=False) if d.release in halted and not _left(d)]
    barred = {b.sha256 for b in blocked.all(store)}
    found = [(d.camera, halted[d.release]) for d in stays]
    return [(c, r) for c, r in found if r.sha256 in barred or not aim.released_again(rows, r, c)]


# what a person may do; each raises Refused when the table does not allow it, or there is no such release


def start(store: Store, number: int | None, rules_: Rules, author: str, *, instead: bool = False) -> ReleaseRow:
    """Begin to offer a release that waits, the newest if none is named; older ones of its name end.

    Raises Refused("would_replace") while one that would end is on its way to cameras, unless `instead`.
    """
    with store.transaction():
        release = _named(store, number, ("waiting",))
        rollout.after(release.number, release.state, "start")
        if (bar := blocked.get(store, release.sha256)) is not None:
            raise _barred(release, bar)
        if not instead and (on_the_way := [r for r in replaced(store, release) if r.state != "waiting"]):
            older = on_the_way[-1]
            raise Refused(
                f"release {older.number} is {older.state}: release {release.number} would take its place, and it would be"
                " superseded", code="would_replace",
                hint=f"`edged rollout start {release.number} --replace`; or wait for its end, or"
                f" `edged rollout abort {older.number}` first if it is bad",
            )  # fmt: skip
        _begin(store, release, rules_, author)
    return _get(store, release.number)


def pause(store: Store, number: int | None, author: str) -> ReleaseRow:
    """Offer it to nobody new; who has begun goes on, and is judged."""
    return _by_hand(store, number, ("rolling",), "pause", author, f"paused by {author}")


def resume(store: Store, number: int | None, author: str) -> ReleaseRow:
    """Go on where it was paused."""
    return _by_hand(store, number, ("paused",), "resume", author, f"resumed by {author}")


def abort(store: Store, number: int | None, author: str, reason: str = "") -> ReleaseRow:
    """Give a release up: its bytes are blocked, cameras that wait for it are told to stop, those that run it go back."""
    with store.transaction():
        release = to_abort(store, number)
        state = rollout.after(release.number, release.state, "abort")
        why = f"aborted by {author}" + (f": {reason}" if reason else "")
        for d in deliveries.of(store, release.number):
            if d.status == "QUEUED":
                _write(store, rollout.ended(_delivery(d), "CANCELED", "aborted", store.clock.now()))
        releases.set_state(store, release.number, state, why, author)
        blocked.add(store, release.sha256, release=release.number, reason=why, author=author)
        audit.append(store, author, "rollout.abort", str(release.number), {"reason": reason})
    return _get(store, release.number)


def to_abort(store: Store, number: int | None) -> ReleaseRow:
    """What an abort of `number` gives up; without one the newest that waits, rolls or is paused."""
    return _named(store, number, ("rolling", "paused", "waiting"))


def _by_hand(
    store: Store, number: int | None, usual: tuple[str, ...], act: rollout.Act, author: str, detail: str
) -> ReleaseRow:
    with store.transaction():
        release = _named(store, number, usual)
        state = rollout.after(release.number, release.state, act)
        releases.set_state(store, release.number, state, detail, author)
        audit.append(store, author, f"rollout.{act}", str(release.number), {})
    return _get(store, release.number)


def _named(store: Store, number: int | None, usual: tuple[str, ...]) -> ReleaseRow:
    """The release of that number; without one the newest in one of the `usual` states."""
    if number is None:
        found = next((r for r in reversed(releases.all(store)) if r.state in usual), None)
        if found is None:
            raise Refused(
                f"no release is {' or '.join(usual)}", code="not_found", exit_code=EXIT_NOT_FOUND,
                hint="`edged rollout status` lists them",
            )  # fmt: skip
        return found
    return _get(store, number)


def _get(store: Store, number: int) -> ReleaseRow:
    found = releases.get(store, number)
    if found is None or found.kind != "student":
        raise Refused(
            f"there is no release {number} for cameras", code="not_found", exit_code=EXIT_NOT_FOUND,
            hint="`edged rollout status` lists them",
        )  # fmt: skip
    return found


def _barred(release: ReleaseRow, bar: blocked.Blocked) -> Refused:
    return Refused(
        f"release {release.number} holds bytes that are blocked since release {bar.release} was halted: {bar.reason}",
        code="blocked", hint=f"if they are good after all: `edged rollout unblock {bar.sha256[:12]} --yes`",
    )  # fmt: skip


# what the daemon does


def _start_waiting(store: Store, rows: Sequence[ReleaseRow], defaults: Rules, auto: bool) -> None:
    paused = {r.name for r in rows if r.state == "paused"}
    barred = {b.sha256 for b in blocked.all(store)}
    for release in rows:
        if release.state == "rolling" and not release.rules:  # of an edged that kept none
            releases.set_rules(store, release.number, defaults.to_row())
        returns = release.returns_to is not None
        if release.state != "waiting" or (release.sha256 in barred and not returns):
            continue
        if returns or (auto and release.name not in paused):
            with store.transaction():
                if (fresh := releases.get(store, release.number)) is not None and fresh.state == "waiting":
                    _begin(store, fresh, defaults, release.actor or BOX)


def _fits_nobody(store: Store, rows: Sequence[ReleaseRow], there: Sequence[cameras.Camera]) -> list[str]:
    """An alarm while a release rolls that no camera of the site can take."""
    for release in rows:
        meant = [c for c in there if aim.covers(release, c.id)]
        why = {c.id: fit.why_not(release, c.info) for c in meant} if release.state == "rolling" else {}
        if why and all(why.values()) and set(why.values()) != {fit.SILENT}:
            camera = min(c for c, text in why.items() if text != fit.SILENT)
            whom = f"does not fit {camera}" if len(why) == 1 else f"fits none of {len(why)} cameras: {camera}"
            text = f"release {release.number} {whom}: {why[camera]}"
            return [text] if alarms.sound(store, alarms.FITS_NOBODY, text) else []
    alarms.clear(store, alarms.FITS_NOBODY)
    return []


def _left_out(store: Store, rows: Sequence[ReleaseRow], there: Sequence[cameras.Camera]) -> list[str]:
    """An alarm while a camera that is there has no model and none of the releases that it could have fits it; none beside
    FITS_NOBODY, which says so of all.
    """
    newcomers = aim.offered(rows)
    could = [r for r in rows if r.state in ("waiting", "rolling", "paused") or r.number in newcomers]
    why: dict[str, str] = {}
    for c in there if could and not alarms.stands(store, alarms.FITS_NOBODY) else ():
        if not c.online or c.model or c.info is None:
            continue
        reasons = [(r.number, fit.why_not(r, c.info)) for r in could if aim.covers(r, c.id)]
        if reasons and all(reason for _, reason in reasons):
            why[c.id] = "release {} does not fit it ({})".format(*reasons[-1])
    if not why:
        alarms.clear(store, alarms.LEFT_OUT)
        return []
    first, rest = min(why), len(why) - 1
    text = f"{first} has no model: {why[first]}"
    text += f"; nor ha{'s' if rest == 1 else 've'} {rest} other camera{'' if rest == 1 else 's'}" if rest else ""
    return [text] if alarms.sound(store, alarms.LEFT_OUT, text) else []


def _begin(store: Store, release: ReleaseRow, by: Rules, author: str) -> None:
    if release.returns_to is not None:
        by = by.rescuing() if release.actor == BOX else by.trying() if release.actor == GATE else by.returning()
    elif (shared := expected.shared(store, release, by.min_regions)) is not None:
        by = by.expecting(shared)
    for older in replaced(store, release):
        replace(store, older, release.number)
    state = rollout.after(release.number, release.state, "start")
    releases.set_state(store, release.number, state, actor=author)
    releases.set_rules(store, release.number, by.to_row())
    audit.append(
        store, author, "rollout.start", str(release.number), {"rules": {k: str(v) for k, v in by.to_row().items()}}
    )


def replaced(store: Store, release: ReleaseRow) -> list[ReleaseRow]:
    """What ends when this release starts, oldest first."""
    return [
        older for older in releases.all(store)
        if older.number < release.number and older.name == release.name and aim.replaces(release, older)
        and older.state in rollout.ACTS["replace"][0]
    ]  # fmt: skip


def replace(store: Store, older: ReleaseRow, number: int) -> None:
    """A newer release has taken the place of this one; within a transaction."""
    detail = f"release {number} took its place"
    releases.set_state(store, older.number, rollout.after(older.number, older.state, "replace"), detail, BOX)
    for waiting in deliveries.of(store, older.number):
        if waiting.status == "QUEUED":
            _write(store, rollout.ended(_delivery(waiting), "CANCELED", detail, store.clock.now()))


def _act(store: Store, release: ReleaseRow, action: rollout.Action, told: list[Delivery], now: float) -> list[str]:
    what = f"release {release.number}"
    with store.transaction():
        fresh = releases.get(store, release.number)
        if fresh is None or fresh.state != release.state:  # a person was quicker
            return []
        match action:
            case Offer(camera, canary):
                told[:] = [d for d in told if (d.camera, d.release) != (camera, release.number)]
                for older in [d for d in told if d.camera == camera and d.status == "QUEUED"]:
                    detail = f"release {release.number} took its place"
                    _end(store, older.release, camera, "CANCELED", detail, told, now)
                made = Delivery(release.number, camera, "QUEUED", now, now, canary=canary)
                told.append(made)
                _write(store, made)
                return [f"{what} is offered to {camera}" + (" as canary" if canary else "")]
            case Expire(camera, detail):
                _end(store, release.number, camera, "TIMED_OUT", detail, told, now)
                return [f"{what} timed out on {camera}: {detail}"]
            case Withdraw(camera, why):
                _end(store, release.number, camera, "CANCELED", rollout.UNFIT + why, told, now)
                return [f"{what} is taken back from {camera}: {why}"]
            case Halt(reason, cancel):
                for camera in cancel:
                    _end(store, release.number, camera, "CANCELED", "halted", told, now)
                state = rollout.after(release.number, release.state, "halt")
                releases.set_state(store, release.number, state, reason, BOX)
                if not _proven(store, release):
                    blocked.add(store, release.sha256, release=release.number, reason=reason, author=BOX)
                audit.append(store, BOX, "halt", str(release.number), {"canceled": len(cancel)})
                return [f"{what} is halted: {reason}"]
            case Complete(succeeded, waiting, unfit):
                detail = f"{succeeded} camera{'' if succeeded == 1 else 's'} took it" + (
                    f", {waiting} are offline" if waiting else ""
                )
                if not succeeded and not waiting:
                    detail = f"every camera{' that can take it' if unfit else ''} runs these bytes already"
                if unfit:
                    detail += f", {unfit} cannot take it"
                state = rollout.after(release.number, release.state, "complete")
                releases.set_state(store, release.number, state, detail, BOX)
                audit.append(store, BOX, "complete", str(release.number), {"cameras": succeeded})
                return [f"{what} is complete: {detail}"]


def _proven(store: Store, release: ReleaseRow) -> bool:
    """The fleet runs these bytes by another number: what went wrong this time is not theirs alone."""
    return any(
        r.sha256 == release.sha256 and r.state == "complete" and r.number != release.number for r in releases.all(store)
    )


def _end(
    store: Store, number: int, camera: str, status: JobStatus, detail: str, told: list[Delivery], now: float
) -> None:
    for i, d in enumerate(told):
        if d.release == number and d.camera == camera:
            told[i] = rollout.ended(d, status, detail, now)
            _write(store, told[i])


def _left(d: DeliveryRow) -> bool:
    return d.unwell.startswith(rollout.LEFT)


def _delivery(row: DeliveryRow) -> Delivery:
    offered = row.updated if row.offered is None else row.offered
    return Delivery(
        row.release, row.camera, row.status, offered, row.updated, row.progress, row.detail, row.canary, row.health,
        row.unwell, row.signed,
    )  # fmt: skip


def _write(store: Store, d: Delivery) -> None:
    deliveries.upsert(
        store, d.release, d.camera, d.status, progress=d.progress, detail=d.detail, offered=d.offered, canary=d.canary,
        health=d.health, unwell=d.unwell, signed=d.signed,
    )  # fmt: skip
