"""What the watch for drift reads: answers, features and labels of one camera under one model, in order of arrival.

Guarantees: every query goes by a number or an index, whatever the store holds. Does not guarantee that features came in
order: what survey looked at late, behind what was read before, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from edged.storage import candidates, labels, reports
from edged.storage.store import Store

MOST_LABELS = 4000


@dataclass(frozen=True)
class Answer:
    """A camera's own answer. `number` grows with arrival; `ts` the camera's time; `margin` 0..1."""

    number: int
    camera: str
    ts: float
    model: str
    class_: str
    margin: float


@dataclass(frozen=True)
class Featured:
    """A sample's last features, little-endian float16, with the camera's own class."""

    number: int
    ts: float
    class_: str
    features: bytes


@dataclass(frozen=True)
class Labelled:
    """A person's word on an answer: the true class, and whether the camera had said so."""

    class_: str
    right: bool
    audit: bool


@dataclass(frozen=True)
class Held:
    """The re-test's word on a model: `right` of `n` on this camera's hold-out, and (right, n) of each class."""

    right: int = 0
    n: int = 0
    classes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def newest(store: Store) -> int:
    """Number of the newest sample, 0 = none."""
    return int(store.value("select coalesce(max(rowid), 0) from sample"))


def newest_label(store: Store) -> int:
    return int(store.value("select coalesce(max(id), 0) from label"))


def answers(store: Store, after: int, until: int) -> list[Answer]:
    """Samples with an answer, numbers in (after, until]."""
    return [
        Answer(*r)
        for r in store.rows(
            "select rowid, camera, ts, model, predicted, margin from sample where rowid > ? and rowid <= ?"
            " and model <> '' and predicted <> '' order by rowid",
            (after, until),
        )
    ]


def looker(store: Store, camera: str) -> str:
    """The model that looked at this camera's newest looked-at crop, "" = none has."""
    found = store.value(
        "select i.model from (select id, ts from sample where camera = ? order by ts desc limit 2000) s"
        " join insight i on i.sample = s.id where i.features is not null order by s.ts desc limit 1",
        (camera,),
    )
    return str(found or "")


def features(store: Store, camera: str, model: str, after: int, limit: int) -> list[Featured]:
    """Of samples with numbers above `after`, as far as survey has looked, at most `limit`."""
    rows = store.rows(
        "select s.rowid, s.ts, s.predicted, i.features from sample s indexed by sample_camera_ts"
        " join insight i on i.sample = s.id"
        " where s.camera = ?2 and s.rowid > ?1 and i.model = ?3 and i.features is not null order by s.rowid limit ?4",
        (after, camera, model, limit),
    )
    return [Featured(*r) for r in rows]


def labelled(store: Store, camera: str, model: str, share: float) -> list[Labelled]:
    """People's newest labels of this camera's answers under this model, by arrival; `share` is the audit set's."""
    rows = store.rows(
        "select s.id, l.class, l.class = s.predicted from (select max(id) as id from (select id, sample from label"
        "  where source = 'human' and undone is null order by id desc limit ?) group by sample) newest"
        " join label l on l.id = newest.id join sample s on s.id = l.sample"
        " where l.class <> '' and s.predicted <> '' and s.camera = ? and s.model = ? order by s.rowid",
        (MOST_LABELS, camera, model),
    )
    return [Labelled(r[1], bool(r[2]), labels.is_audit(r[0], share)) for r in rows]


def held(store: Store, model: str, camera: str) -> Held:
    """Nothing for a model that was not re-tested here."""
    candidate = candidates.find(store, model)
    found = reports.of(store, candidate.id) if candidate else []
    if not found:
        return Held()
    body = json.loads(found[0].body)
    own = (body.get("per_camera") or {}).get(camera) or {}
    classes = {c: (int(s["right"]), int(s["n"])) for c, s in (body.get("per_class") or {}).items() if s.get("n")}
    return Held(int(own.get("right", 0)), int(own.get("n", 0)), classes)
