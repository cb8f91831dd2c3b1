"""Which camera is told about a release, and when. Pure: rows and `now` in, actions out; no IO, no clock.

Every change of a delivery's status stands in TRANSITIONS, every change of a release's state in ACTS, and nothing else may
make one. Guarantees: until `canary` cameras have SUCCEEDED, are well and `wait_s` has passed, nobody else is offered the
release, except in place of a canary that went away before it began; a canary that fails, refuses, falls silent or is not
well halts the release; a camera that is offline stays QUEUED and holds up nobody; one that cannot take the release (fit.py) is
not offered it, and counts for nothing. Does not guarantee: that a camera which says SUCCEEDED sees well; its Health is all
that is known of that.

A delivery's words are those of AWS IoT Jobs for a job's execution on one thing:

    QUEUED       the camera was told (a retained message); it has not begun
    IN_PROGRESS  it fetches, verifies, tests
    SUCCEEDED    the release runs on it               FAILED     it tried and went back to its old model
    REJECTED     it will not take it                  TIMED_OUT  it was silent for `timeout_s`
    CANCELED     the release was halted or replaced   REMOVED    the camera is no longer part of the site

A release is a job; AWS has fewer words for one (AWS_STATUS), so ours stand beside them:

    waiting     signed; nobody is offered it          rolling     it is offered, step after step
    paused      nobody new is offered it              complete    everybody there has it; newcomers are offered it
    halted      given up, its bytes are blocked       superseded  a newer release took its place
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from edged.errors import Refused
from edged.publish.rules import DEFAULTS, Rules
from edged.storage.releases import State
from edged.wire.messages import Desired, Health, JobStatus, Reported

__all__ = ["Rules"]

TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    # AWS lets a job time out only once it is in progress; here also a camera that is there and never answers.
    "QUEUED": frozenset(
        {"QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"}
    ),
    "IN_PROGRESS": frozenset({"IN_PROGRESS", "SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"}),
    "SUCCEEDED": frozenset(),
    "FAILED": frozenset(),
    "REJECTED": frozenset(),
    "TIMED_OUT": frozenset(),
    "CANCELED": frozenset(),
    "REMOVED": frozenset(),
}
CAMERA_SAYS: frozenset[JobStatus] = frozenset(TRANSITIONS) - {"REMOVED"}
BAD: frozenset[JobStatus] = frozenset({"FAILED", "REJECTED", "TIMED_OUT"})
STANDS: frozenset[JobStatus] = frozenset({"QUEUED", "IN_PROGRESS", "SUCCEEDED"})  # it runs on the camera, or may soon

LEFT = "it left the model again"  # why a camera that had SUCCEEDED is unwell
UNFIT = "it cannot take it: "  # how the detail of a delivery begins that was taken back for that

Act = Literal["start", "pause", "resume", "halt", "abort", "complete", "replace"]

ACTS: Mapping[Act, tuple[frozenset[State], State]] = {
    "start": (frozenset({"waiting"}), "rolling"),  # by the box when [rollout] auto, else by a person
    "pause": (frozenset({"rolling"}), "paused"),  # by a person
    "resume": (frozenset({"paused"}), "rolling"),  # by a person
    "halt": (
        frozenset({"rolling", "paused"}),
        "halted",
    ),  # by the box, on the criteria; deliveries go on while it is paused
    "abort": (frozenset({"waiting", "rolling", "paused", "complete"}), "halted"),  # by a person
    "complete": (frozenset({"rolling"}), "complete"),  # by the box
    "replace": (frozenset({"waiting", "rolling", "paused"}), "superseded"),  # by a newer release that starts
}
BY_HAND: tuple[Act, ...] = ("start", "resume", "pause", "abort")
AWS_STATUS: Mapping[State, Literal["SCHEDULED", "IN_PROGRESS", "COMPLETED", "CANCELED"]] = {
    "waiting": "SCHEDULED", "rolling": "IN_PROGRESS", "paused": "IN_PROGRESS", "complete": "COMPLETED",
    "halted": "CANCELED", "superseded": "CANCELED",
}  # fmt: skip


def after(number: int, state: State, act: Act) -> State:
    """The state of a release after an act. Raises Refused("not_now") for one that the table does not allow."""
    before, then = ACTS[act]
    if state not in before:
        may = ", ".join(f"`edged rollout {a} {number}`" for a in BY_HAND if state in ACTS[a][0])
        raise Refused(
            f"release {number} is {state}: {act} needs one that is {' or '.join(sorted(before))}", code="not_now",
            hint=f"what can be done with it: {may or 'nothing more, it has ended for good'}",
        )  # fmt: skip
    return then


def is_final(status: JobStatus) -> bool:
    return not TRANSITIONS[status]


class ReleaseLike(Protocol):
    """What is needed of a release's row."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def state(self) -> State: ...


@dataclass(frozen=True)
class Delivery:
    """One release on one camera. Times are seconds since 1970 by the box; `offered` is when the camera was told."""

    release: int
    camera: str
    status: JobStatus
    offered: float
    updated: float
    progress: float = 0.0
    detail: str = ""
    canary: bool = False
    health: Health | None = None
    unwell: str = ""  # why it counts as failed although it SUCCEEDED
    signed: bool | None = None

    @property
    def bad(self) -> bool:
        return self.status in BAD or bool(self.unwell)

    @property
    def good(self) -> bool:
        return self.status == "SUCCEEDED" and not self.unwell


@dataclass(frozen=True)
class Camera:
    """A camera of the site. `since` is when `online` last changed, by the box's clock; `runs` the SHA-256 of what it said it
    runs, "" while that may change; `unfit` why it cannot take the release, "" = it can.
    """

    id: str
    online: bool
    since: float
    runs: str = ""
    unfit: str = ""


@dataclass(frozen=True)
class Offer:
    """Tell this camera (write the row as QUEUED, then publish Desired, retained)."""

    camera: str
    canary: bool


@dataclass(frozen=True)
class Expire:
    """Set this camera's delivery to TIMED_OUT."""

    camera: str
    detail: str


@dataclass(frozen=True)
class Withdraw:
    """The camera has not begun and cannot take it, as it says now: set its delivery to CANCELED and clear its Desired."""

    camera: str
    why: str


@dataclass(frozen=True)
class Halt:
    """Stop the release; the cameras in `cancel` have not begun: set them to CANCELED and withdraw their Desired."""

    reason: str
    cancel: tuple[str, ...]


@dataclass(frozen=True)
class Complete:
    """Everybody who can be reached has finished; who is offline finds the offer waiting."""

    succeeded: int
    waiting: int
    unfit: int = 0


Action = Offer | Expire | Withdraw | Halt | Complete


def job_of(number: int) -> str:
    """The job id of a release on the wire."""
    return f"release-{number}"


def desired(release: ReleaseLike) -> Desired:
    """What a camera is told; a hint only, since what it trusts is the signed metadata."""
    return Desired(
        job=job_of(release.number),
        name=release.name,
        version=release.number,
        target=release.target,
        sha256=release.sha256,
    )


def number_of(job: str) -> int:
    """The release that a job id names, 0 = none."""
    match = re.fullmatch(r"release-(\d{1,12})", job)
    return int(match[1]) if match else 0


def plan(
    release: ReleaseLike, deliveries: Sequence[Delivery], cameras: Sequence[Camera], now: float, rules: Rules
) -> list[Action]:
    """What to do next; an empty list means wait. Call it again after any change and every few seconds.

    `deliveries` are those of this release and of any newer one: a camera that has or awaits a newer one is left alone, as
    is one that runs these very bytes by another number. A release that is complete is offered to cameras that have not
    been told of it yet; one that is paused, was halted or superseded is offered to nobody; who has begun it may end it,
    or is given up. Whom it does not fit it is not offered, and taken back from while it has not begun; it is offered, anew
    or for the first time, once it does. While it fits nobody it is not complete.
    """
    newer = {d.camera for d in deliveries if d.release > release.number and d.status in STANDS}
    mine = {d.camera: d for d in deliveries if d.release == release.number and not _taken_back(d)}
    known = [c for c in sorted(cameras, key=lambda c: (not c.online, c.id)) if c.id not in newer]
    back = _withdrawn(mine, known) if release.state in ("rolling", "paused", "complete") else []
    for w in back:
        del mine[w.camera]
    able = [c for c in known if c.id in mine or not c.unfit]
    fleet = [c for c in able if c.id in mine or c.runs != release.sha256]
    untold = [c for c in fleet if c.id not in mine]
    late = _expired(mine, fleet, now, rules)
    expired: list[Action] = [*back, *late]
    if release.state == "complete":
        return [*expired, *(Offer(c.id, False) for c in untold)]
    if release.state not in ("rolling", "paused"):
        return [e for e in late if mine[e.camera].status == "IN_PROGRESS"]
    for e in late:
        mine[e.camera] = replace(mine[e.camera], status="TIMED_OUT", detail=e.detail, updated=now)
    if halt := _halt(mine, rules):
        return [*expired, halt]
    if release.state == "paused":
        return expired
    unfit = len(known) - len(able)
    if not fleet:
        return [*expired, Complete(0, 0, unfit)] if able else expired
    wanted = min(rules.canary, len(fleet))
    well = sorted(d.updated for d in mine.values() if d.good)
    if len(well) < wanted:
        return [*expired, *_canaries(mine, fleet, untold, wanted, now, rules)]
    if wanted and now - well[wanted - 1] < rules.wait_s:
        return expired
    return [*expired, *_rest(mine, fleet, untold, rules, unfit)]


def _taken_back(d: Delivery) -> bool:
    """Before the camera had begun, since the release did not fit it: as if it had not been told."""
    return d.status == "CANCELED" and d.detail.startswith(UNFIT)


def _withdrawn(mine: Mapping[str, Delivery], known: Sequence[Camera]) -> list[Withdraw]:
    return [Withdraw(c.id, c.unfit) for c in known if c.unfit and c.id in mine and mine[c.id].status == "QUEUED"]


def _expired(mine: Mapping[str, Delivery], fleet: Sequence[Camera], now: float, rules: Rules) -> list[Expire]:
    """Begun and silent, or there all the time and never begun."""
    online = {c.id: c for c in fleet if c.online}
    found = []
    for d in mine.values():
        if d.status == "IN_PROGRESS" and now - d.updated > rules.timeout_s:
            found.append(Expire(d.camera, f"began and was then silent for {now - d.updated:.0f} s"))
        elif d.status == "QUEUED" and d.camera in online:
            told = max(d.offered, online[d.camera].since)
            if now - told > rules.timeout_s:
                found.append(Expire(d.camera, f"was online and did not begin within {now - told:.0f} s"))
    return found


def _halt(mine: Mapping[str, Delivery], rules: Rules) -> Halt | None:
    """Bad on a canary (any delivery that ended while fewer than `canary` were well), or too many bad ones."""
    good = 0
    reason = ""
    for d in sorted((d for d in mine.values() if is_final(d.status)), key=lambda d: (d.updated, not d.bad)):
        if d.good:
            good += 1
        elif d.bad and good < rules.canary:
            why = d.unwell or d.detail
            reason = f"canary {d.camera}: {d.status}" + (f" ({why})" if why else "")
            break
    bad = sum(d.bad for d in mine.values())
    done = bad + sum(d.good for d in mine.values())
    if not reason and done >= rules.abort_min_executed and bad / done > rules.abort_failed:
        reason = f"{bad} of {done} cameras that finished did not take it (at most {rules.abort_failed:.0%} may fail)"
    if not reason:
        return None
    return Halt(reason, tuple(sorted(d.camera for d in mine.values() if d.status == "QUEUED")))


def _canaries(
    mine: Mapping[str, Delivery],
    fleet: Sequence[Camera],
    untold: Sequence[Camera],
    wanted: int,
    now: float,
    rules: Rules,
) -> list[Offer]:
    """As many online cameras as are wanted; one that went away before it began is replaced after `timeout_s`."""
    offline = {c.id: c for c in fleet if not c.online}
    known = {c.id for c in fleet}
    live = 0
    for d in mine.values():
        if d.status == "QUEUED" and d.camera not in known:
            continue
        gone = d.camera in offline and now - max(d.offered, offline[d.camera].since) > rules.timeout_s
        live += d.status == "IN_PROGRESS" or d.good or (d.status == "QUEUED" and not gone)
    return [Offer(c.id, True) for c in untold if c.online][: max(0, wanted - live)]


def _rest(
    mine: Mapping[str, Delivery], fleet: Sequence[Camera], untold: Sequence[Camera], rules: Rules, unfit: int
) -> list[Offer | Complete]:
    """The next step once everybody told so far, and there, has finished."""
    online = {c.id for c in fleet if c.online}
    busy = [d for d in mine.values() if d.status == "IN_PROGRESS" or (d.status == "QUEUED" and d.camera in online)]
    if busy:
        return []
    if not untold:
        waiting = sum(d.status == "QUEUED" for d in mine.values())
        return [Complete(sum(d.good for d in mine.values()), waiting, unfit)]
    told = len(fleet) - len(untold)
    sizes = [math.ceil(step * len(fleet)) for step in (*rules.steps, 1.0)]
    size = next(size for size in sizes if size > told)
    return [Offer(c.id, False) for c in untold[: size - told]]


@dataclass(frozen=True)
class Heard:
    """A delivery after a report; `ignored` says why it changed nothing, "" when it did (or repeats what is known)."""

    delivery: Delivery
    ignored: str = ""


def on_reported(
    delivery: Delivery,
    reported: Reported,
    now: float,
    rules: Rules = DEFAULTS,
    *,
    sha256: str = "",
    signed: bool | None = None,
) -> Heard:
    """The delivery after the camera's word on it. What the table does not allow is ignored and named.

    A camera that has SUCCEEDED and later says that it runs something older again has left the model: it is unwell from
    then on, as is one whose new model is beyond the limits of `rules`. `sha256` are the release's bytes, "" = not compared.
    """
    if reported.job != job_of(delivery.release):
        return Heard(delivery, f"report on job {reported.job or '(none)'}, not {job_of(delivery.release)}")
    status = reported.status
    if is_final(delivery.status) and status == delivery.status:
        return Heard(_again(delivery, reported, rules))
    if status not in CAMERA_SAYS:
        return Heard(delivery, f"{status} is not for a camera to say")
    if status not in TRANSITIONS[delivery.status]:
        return Heard(delivery, f"{delivery.status} never becomes {status}")
    if status == "SUCCEEDED" and reported.version != delivery.release:
        return Heard(delivery, f"says SUCCEEDED but runs version {reported.version}, not {delivery.release}")
    if status == "SUCCEEDED" and sha256 and reported.sha256 != sha256:
        return Heard(delivery, f"says SUCCEEDED but runs {reported.sha256[:12]}, not {sha256[:12]}")
    unwell = rules.unwell(reported.health) if status == "SUCCEEDED" else ""
    made = replace(delivery, status=status, progress=reported.progress, detail=reported.detail, updated=now)
    return Heard(replace(made, health=reported.health, unwell=unwell, signed=signed))


def _again(delivery: Delivery, reported: Reported, rules: Rules) -> Delivery:
    """A camera says once more how it ended."""
    if delivery.status != "SUCCEEDED" or delivery.unwell:
        return delivery
    if reported.version < delivery.release:
        return replace(delivery, unwell=f"{LEFT} and runs version {reported.version}")
    health = reported.health or delivery.health
    return replace(delivery, health=health, unwell=rules.unwell(health))


def ended(delivery: Delivery, status: JobStatus, detail: str, now: float) -> Delivery:
    """The delivery after the box's decision (Expire, Halt, a newer release, a camera removed); unchanged if final."""
    if status not in TRANSITIONS[delivery.status]:
        return delivery
    return replace(delivery, status=status, detail=detail, updated=now)
