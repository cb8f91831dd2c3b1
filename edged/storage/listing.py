"""What is in the store, for people: counts by camera and day, and the samples and frames that a filter names. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edged.errors import EXIT_NOT_FOUND, Refused
from edged.storage.store import Store


@dataclass(frozen=True)
class Day:
    """Pictures of one camera and UTC day of receipt: how many (whole ones and crops), bytes, crops with a human label."""

    camera: str
    day: str
    pictures: int
    crops: int
    labelled: int
    bytes: int


@dataclass(frozen=True)
class Row:
    """One sample with a picture. `label` is the newest human one, "" = none; `size` bytes of its sealed crop."""

    id: str
    camera: str
    received: float
    predicted: str
    score: float
    label: str
    size: int


@dataclass(frozen=True)
class Filter:
    """ "" and None = any. `since`, `until`: received in [since, until) by the box's clock; `label`, `author`: of a human
    label that was not undone.
    """

    camera: str = ""
    since: float | None = None
    until: float | None = None
    predicted: str = ""
    label: str = ""
    author: str = ""


def days(store: Store, camera: str = "") -> list[Day]:
    """By camera and day."""
    rows = store.rows(
        "select o.camera, k.day, count(*) as n, sum(o.kind = 'crop') as crops, sum(o.size) as bytes,"
        f" sum(exists (select 1 from sample s where s.object = o.id and {_LABELLED})) as labelled"
        " from object o join data_key k on k.id = o.key_id where ?1 = '' or o.camera = ?1 group by 1, 2 order by 1, 2",
        (camera,),
    )
    return [Day(r["camera"], r["day"], r["n"], r["crops"], r["labelled"], r["bytes"]) for r in rows]


def samples(store: Store, wanted: Filter, limit: int = -1) -> list[Row]:
    """Those that have a picture, newest first; `limit` -1 = all."""
    rows = store.rows(
        "select s.id, s.camera, s.received, s.predicted, s.score, coalesce(l.class, '') as label, o.size from sample s"
        " join object o on o.id = s.object left join label l on l.id = (select max(l.id) from label l where"
        " l.sample = s.id and l.source = 'human' and l.undone is null)"
        " where (?1 = '' or s.camera = ?1) and s.received >= ?2 and s.received < ?3 and (?4 = '' or s.predicted = ?4)"
        " and (?5 = '' or l.class = ?5) and (?6 = '' or l.author = ?6) order by s.received desc, s.id limit ?7",
        (wanted.camera, *_span(wanted), wanted.predicted, wanted.label, wanted.author, limit),
    )
    return [Row(*r) for r in rows]


def frames(store: Store, wanted: Filter) -> list[tuple[str, str]]:
    """(camera, id) of the stored frames in that time, with a picture or not; of the filter only camera and time count."""
    rows = store.rows(
        "select camera, id from frame where received >= ?2 and received < ?3 and (?1 = '' or camera = ?1)"
        " and status = 'stored' order by received",
        (wanted.camera, *_span(wanted)),
    )
    return [(r["camera"], r["id"]) for r in rows]


def show(store: Store, id: str) -> dict[str, Any]:
    """The row of a sample ("camera:frame:n") or a frame ("camera:frame"), and which it is. Raises Refused("not_found")."""
    row = store.row("select * from sample where id = ?", (id,))
    if row is not None:
        return {"what": "sample", **dict(row)}
    camera, _, frame = id.partition(":")
    row = store.row("select * from frame where camera = ? and id = ?", (camera, frame))
    if row is None:
        raise Refused(f"no sample and no frame {id[:200]}", code="not_found", exit_code=EXIT_NOT_FOUND)
    return {"what": "frame", **dict(row)}


def count(store: Store) -> int:
    """Pictures, whole ones and crops."""
    return int(store.value("select coalesce(sum(objects), 0) from holding"))


_LABELLED = "exists (select 1 from label l where l.sample = s.id and l.source = 'human' and l.undone is null)"


def _span(wanted: Filter) -> tuple[float, float]:
    return (
        wanted.since if wanted.since is not None else float("-inf"),
        wanted.until if wanted.until is not None else float("inf"),
    )
