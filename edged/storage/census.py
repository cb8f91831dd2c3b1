"""Labels, counted: who said what of which camera, how far the teacher and people agree, how good the cameras are. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from edged.interval import wilson
from edged.storage import labels, teaching
from edged.storage.store import Store


@dataclass(frozen=True)
class Count:
    """Labels that count (the newest of a source on a sample). `class_` "" = cannot say."""

    source: str
    author: str
    class_: str
    camera: str
    n: int


@dataclass(frozen=True)
class Share:
    """`hits` of `n`, with Wilson's interval at 95 %; `share` None of nothing."""

    hits: int
    n: int

    @property
    def share(self) -> float | None:
        return self.hits / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.hits, self.n)


def counts(store: Store) -> list[Count]:
    """By source, author, class and camera."""
    rows = store.rows(
        "select l.source, l.author, l.class, s.camera, count(*) from label l join sample s on s.id = l.sample where l.id in"
        " (select max(id) from label where undone is null group by source, sample) group by 1, 2, 3, 4 order by 1, 2, 3, 4"
    )
    return [Count(*r) for r in rows]


def balance(store: Store) -> dict[str, int]:
    """Samples that people gave each class."""
    rows = store.rows(
        "select class, count(*) from label where id in (select max(id) from label where source = 'human' and undone is null"
        " group by sample) and class <> '' group by class"
    )
    return {r[0]: r[1] for r in rows}


def disagreement(store: Store, share: float = labels.AUDIT_SHARE) -> Share:
    """Audit samples on which the teacher and a person differ."""
    return Share(*teaching.disagreement(store, share))


def audited(store: Store, share: float = labels.AUDIT_SHARE) -> dict[str, Share]:
    """The cameras' own answers against people, on audit samples alone, by camera; "" = all of them."""
    cameras = [r[0] for r in store.rows("select id from camera order by id")]
    found = {c: Share(*labels.accuracy(store, c, 0.0, 1e18, audit=share)) for c in cameras}
    return {"": Share(sum(s.hits for s in found.values()), sum(s.n for s in found.values())), **found}
