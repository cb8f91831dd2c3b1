"""What /metrics and the verdict read: a few rows each, whatever the store holds. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from edged.storage.store import Store

NEWEST = 20_000  # regions among which those without a label are counted
MOST = 1000


@dataclass(frozen=True)
class Heard:
    """A camera; times as in storage.cameras."""

    id: str
    online: bool
    first_seen: float
    last_seen: float
    last_frame: float | None


@dataclass(frozen=True)
class Held:
    """What a camera has in the store."""

    camera: str
    objects: int
    bytes: int


def heard(store: Store) -> list[Heard]:
    """By id."""
    rows = store.rows("select id, online, first_seen, last_seen, last_frame from camera order by id")
    return [Heard(r["id"], bool(r["online"]), r["first_seen"], r["last_seen"], r["last_frame"]) for r in rows]


def held(store: Store) -> list[Held]:
    """By camera."""
    return [Held(*r) for r in store.rows("select camera, objects, bytes from holding order by camera")]


def segments(store: Store) -> dict[str, int]:
    """By state; states of which there is none are not in it."""
    return {r[0]: r[1] for r in store.rows("select state, count(*) from segment group by state")}


def unlabelled(store: Store) -> int:
    """Of the newest regions, those with a picture and no human label: counted up to MOST. Takes up to 0.1 s."""
    return int(
        store.value(
            "select count(*) from (select 1 from (select id, object from sample order by received desc limit ?) s"
            " where s.object is not null and not exists"
            " (select 1 from label l where l.sample = s.id and l.source = 'human' and l.undone is null) limit ?)",
            (NEWEST, MOST),
        )
    )


def last_release(store: Store) -> float | None:
    """When a cycle ended in a release last."""
    ended = store.value("select max(ended) from cycle where state = 'released'")
    return None if ended is None else float(ended)
