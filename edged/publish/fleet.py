"""Rollouts on rows: what rollout.py decides is written here, and what each camera should be told is read from here.

Guarantees: `standing` follows from the rows alone, so that after a kill, or on a new broker, publishing what it says
(and clearing what it says is None) puts every camera right. Does not guarantee: anything about who reads the messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.publish import rollout
from edged.publish.rollout import Camera, Complete, Delivery, Expire, Halt, Offer, Rules
from edged.storage import audit, cameras, counters, deliveries, releases
from edged.storage.deliveries import DeliveryRow
from edged.storage.releases import ReleaseRow
from edged.storage.store import Store
from edged.wire.messages import Desired, JobStatus, Reported


class Presence:
    """Since when each camera is there or away, as seen by this process; starts anew with it."""

    def __init__(self) -> None:
        self._seen: dict[str, Camera] = {}

    def look(self, rows: Sequence[cameras.Camera], now: float) -> list[Camera]:
        for row in rows:
            known = self._seen.get(row.id)
            if known is None or known.online != row.online:
                self._seen[row.id] = Camera(row.id, row.online, now)
        return [self._seen[row.id] for row in rows]


def advance(store: Store, presence: Presence, rules: Rules, now: float) -> list[str]:
    """Take every step that is due; returns sentences on what happened, [] mostly. Cheap enough for every tick."""
    fleet = presence.look(cameras.all(store), now)
    told = [_delivery(d) for d in deliveries.all(store)]
    open_ = {d.release for d in told if not rollout.is_final(d.status)}
    rows = releases.all(store)
    newest = [r.number for r in rows if r.state == "complete"][-1:]
    said: list[str] = []
    for release in reversed(rows):
        if release.state != "rolling" and release.number not in open_ and release.number not in newest:
            continue
        offers = release.state != "complete" or release.number in newest
        for action in rollout.plan(release, [d for d in told if d.release >= release.number], fleet, now, rules):
            if offers or not isinstance(action, Offer):
                said.append(_act(store, release, action, told, now))
    return said


def record(store: Store, camera: str, reported: Reported, now: float) -> str:
    """Write a camera's word on its delivery; returns why it was ignored, or ""."""
    row = next((d for d in deliveries.all(store) if d.camera == camera and _job(d) == reported.job), None)
    if row is None:
        return "" if not reported.job else f"report on {reported.job}, which {camera} was never told of"
    before = _delivery(row)
    heard = rollout.on_reported(before, reported, now)
    if heard.ignored:
        counters.bump(store, "reported:ignored")
    elif heard.delivery != before:
        _write(store, heard.delivery)
    return heard.ignored


def standing(store: Store) -> dict[str, Desired | None]:
    """What each camera's retained `model/desired` must say now; None = it must be empty.

    The newest release that the camera was told of and that was not taken back, failed or refused. A camera that is in
    the middle of a halted release is to stop; one that runs it goes on.
    """
    known = {r.number: r for r in releases.all(store)}
    newest: dict[str, Desired | None] = {c.id: None for c in cameras.all(store)}
    for d in deliveries.all(store):  # by release: later ones win
        if d.status == "SUCCEEDED" or (d.status in rollout.STANDS and known[d.release].state != "halted"):
            newest[d.camera] = rollout.desired(known[d.release])
    return newest


def _act(store: Store, release: ReleaseRow, action: rollout.Action, told: list[Delivery], now: float) -> str:
    what = f"release {release.number}"
    with store.transaction():
        match action:
            case Offer(camera, canary):
                for older in [d for d in told if d.camera == camera and d.status == "QUEUED"]:
                    detail = f"release {release.number} took its place"
                    _end(store, older.release, camera, "CANCELED", detail, told, now)
                made = Delivery(release.number, camera, "QUEUED", now, now, detail="canary" if canary else "")
                told.append(made)
                _write(store, made)
                return f"{what} is offered to {camera}" + (" as canary" if canary else "")
            case Expire(camera, detail):
                _end(store, release.number, camera, "TIMED_OUT", detail, told, now)
                return f"{what} timed out on {camera}: {detail}"
            case Halt(reason, cancel):
                for camera in cancel:
                    _end(store, release.number, camera, "CANCELED", "halted", told, now)
                releases.set_state(store, release.number, "halted", reason)
                audit.append(store, "rollout", "halt", str(release.number), {"canceled": len(cancel)})
                return f"{what} is halted: {reason}"
            case Complete(succeeded, waiting):
                detail = f"{succeeded} cameras took it" + (f", {waiting} are offline" if waiting else "")
                releases.set_state(store, release.number, "complete", detail)
                audit.append(store, "rollout", "complete", str(release.number), {"cameras": succeeded})
                return f"{what} is complete: {detail}"


def _end(
    store: Store, number: int, camera: str, status: JobStatus, detail: str, told: list[Delivery], now: float
) -> None:
    for i, d in enumerate(told):
        if d.release == number and d.camera == camera:
            told[i] = rollout.ended(d, status, detail, now)
            _write(store, told[i])


def _delivery(row: DeliveryRow) -> Delivery:
    offered = row.updated if row.offered is None else row.offered
    return Delivery(row.release, row.camera, row.status, offered, row.updated, row.progress, row.detail)


def _write(store: Store, d: Delivery) -> None:
    deliveries.upsert(store, d.release, d.camera, d.status, progress=d.progress, detail=d.detail, offered=d.offered)


def _job(row: DeliveryRow) -> str:
    return rollout.job_of(row.release)
