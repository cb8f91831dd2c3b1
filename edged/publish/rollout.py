"""Which camera is told about a release, and when. Pure: rows and `now` in, actions out; no IO, no clock.

The words are those of AWS IoT Jobs; every change of a delivery's status stands in TRANSITIONS and nothing else may make
one. Guarantees: until `canary` cameras have SUCCEEDED and `wait_s` has passed, nobody else is offered the release,
except in place of a canary that went away before it began; a canary that fails, refuses or falls silent halts the
release; a camera that is offline stays QUEUED and holds up nobody. Does not guarantee: that a camera which says
SUCCEEDED sees well.

    QUEUED       the camera was told (a retained message); it has not begun
    IN_PROGRESS  it fetches, verifies, tests
    SUCCEEDED    the release runs on it               FAILED     it tried and went back to its old model
    REJECTED     it will not take it                  TIMED_OUT  it was silent for `timeout_s`
    CANCELED     the release was halted or replaced   REMOVED    the camera is no longer part of the site
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edged.wire.messages import Desired, JobStatus, Reported

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
    def state(self) -> str: ...


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


@dataclass(frozen=True)
class Camera:
    """A camera that could take the release. `since` is when `online` last changed, by the box's clock."""

    id: str
    online: bool
    since: float


@dataclass(frozen=True)
class Rules:
    """`steps` are shares of the fleet that are told, one step after the other, once the canary is well."""

    canary: int = 1
    wait_s: float = 3600.0
    timeout_s: float = 900.0
    steps: tuple[float, ...] = (0.5, 1.0)
    abort_failed: float = 0.05  # halt when more than this share of the finished deliveries is bad ...
    abort_min_executed: int = 3  # ... and at least so many have finished


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
class Halt:
    """Stop the release; the cameras in `cancel` have not begun: set them to CANCELED and withdraw their Desired."""

    reason: str
    cancel: tuple[str, ...]


@dataclass(frozen=True)
class Complete:
    """Everybody who can be reached has finished; who is offline finds the offer waiting."""

    succeeded: int
    waiting: int


Action = Offer | Expire | Halt | Complete


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


def plan(
    release: ReleaseLike, deliveries: Sequence[Delivery], cameras: Sequence[Camera], now: float, rules: Rules
) -> list[Action]:
    """What to do next; an empty list means wait. Call it again after any change and every few seconds.

    `deliveries` are those of this release and of any newer one: a camera that has or awaits a newer one is left alone.
    A release that is complete is offered to cameras that have not been told of it yet; one that was halted or
    superseded is offered to nobody; who has begun it may end it, or is given up.
    """
    newer = {d.camera for d in deliveries if d.release > release.number and d.status in STANDS}
    mine = {d.camera: d for d in deliveries if d.release == release.number}
    fleet = [c for c in sorted(cameras, key=lambda c: (not c.online, c.id)) if c.id not in newer]
    untold = [c for c in fleet if c.id not in mine]
    if release.state == "complete":
        return [*_expired(mine, fleet, now, rules), *(Offer(c.id, False) for c in untold)]
    expired = _expired(mine, fleet, now, rules)
    if release.state != "rolling":
        return [e for e in expired if mine[e.camera].status == "IN_PROGRESS"]
    for e in expired:
        mine[e.camera] = replace(mine[e.camera], status="TIMED_OUT", detail=e.detail, updated=now)
    if halt := _halt(mine, rules):
        return [*expired, halt]
    wanted = min(rules.canary, len(fleet))
    well = sorted(d.updated for d in mine.values() if d.status == "SUCCEEDED")
    if len(well) < wanted:
        return [*expired, *_canaries(mine, fleet, untold, wanted, now, rules)]
    if not well or now - well[wanted - 1] < rules.wait_s:
        return [*expired]
    return [*expired, *_rest(mine, fleet, untold, rules)]


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
    """Bad on a canary (any delivery that ended while fewer than `canary` had succeeded), or too many bad ones."""
    good = 0
    reason = ""
    for d in sorted((d for d in mine.values() if is_final(d.status)), key=lambda d: (d.updated, d.status not in BAD)):
        if d.status == "SUCCEEDED":
            good += 1
        elif d.status in BAD and good < rules.canary:
            reason = f"canary {d.camera}: {d.status}" + (f" ({d.detail})" if d.detail else "")
            break
    bad = sum(d.status in BAD for d in mine.values())
    done = bad + sum(d.status == "SUCCEEDED" for d in mine.values())
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
        live += d.status in ("IN_PROGRESS", "SUCCEEDED") or (d.status == "QUEUED" and not gone)
    return [Offer(c.id, True) for c in untold if c.online][: max(0, wanted - live)]


def _rest(
    mine: Mapping[str, Delivery], fleet: Sequence[Camera], untold: Sequence[Camera], rules: Rules
) -> list[Offer | Complete]:
    """The next step once everybody told so far, and there, has finished."""
    online = {c.id for c in fleet if c.online}
    busy = [d for d in mine.values() if d.status == "IN_PROGRESS" or (d.status == "QUEUED" and d.camera in online)]
    if busy:
        return []
    if not untold:
        waiting = sum(d.status == "QUEUED" for d in mine.values())
        return [Complete(sum(d.status == "SUCCEEDED" for d in mine.values()), waiting)]
    told = len(fleet) - len(untold)
    sizes = [math.ceil(step * len(fleet)) for step in (*rules.steps, 1.0)]
    size = next(size for size in sizes if size > told)
    return [Offer(c.id, False) for c in untold[: size - told]]


@dataclass(frozen=True)
class Heard:
    """A delivery after a report; `ignored` says why it changed nothing, "" when it did (or repeats what is known)."""

    delivery: Delivery
    ignored: str = ""


def on_reported(delivery: Delivery, reported: Reported, now: float) -> Heard:
    """The delivery after the camera's word on it. What the table does not allow is ignored and named."""
    if reported.job != job_of(delivery.release):
        return Heard(delivery, f"report on job {reported.job or '(none)'}, not {job_of(delivery.release)}")
    status = reported.status
    if is_final(delivery.status) and status == delivery.status:
        return Heard(delivery)
    if status not in CAMERA_SAYS:
        return Heard(delivery, f"{status} is not for a camera to say")
    if status not in TRANSITIONS[delivery.status]:
        return Heard(delivery, f"{delivery.status} never becomes {status}")
    if status == "SUCCEEDED" and reported.version != delivery.release:
        return Heard(delivery, f"says SUCCEEDED but runs version {reported.version}, not {delivery.release}")
    return Heard(replace(delivery, status=status, progress=reported.progress, detail=reported.detail, updated=now))


def ended(delivery: Delivery, status: JobStatus, detail: str, now: float) -> Delivery:
    """The delivery after the box's decision (Expire, Halt, a newer release, a camera removed); unchanged if final."""
    if status not in TRANSITIONS[delivery.status]:
        return delivery
    return replace(delivery, status=status, detail=detail, updated=now)
