"""What the stage `survey` saw in crops: a hash, the present model's answer, its last features.

Guarantees: an insight is there only while its crop is; nothing of one outlives the picture, neither here nor in a copy of
the catalogue. Written again when another model looks. Does not guarantee that every crop has one: the newest come first,
and a rebuilt or restored catalogue has none until they were looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edged.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 20_000  # newest samples among which `missing` and `waiting` look
_BATCH = 500


@dataclass(frozen=True)
class Insight:
    """One row. `hash` is a 64-bit difference hash as a signed number. `model` is the sha256 of who looked ("" = there was
    none yet), `answer` its class ("" = none of the task's), `score` and `margin` 0..1. `features` little-endian float16,
    None = none; they compare with those of the same model only. `ts` seconds since 1970.
    """

    sample: str
    hash: int
    model: str = ""
    answer: str = ""
    score: float = 0.0
    margin: float = 0.0
    features: bytes | None = None
    ts: float = 0.0


_COLUMNS = "i.sample, i.hash, i.model, i.answer, i.score, i.margin, i.features, i.ts"
_LACKS = "(i.sample is null or (?1 <> '' and i.model <> ?1))"
_NEWEST = "(select id, object, received from sample order by received desc limit ?2)"


def add_many(store: Store, insights: Iterable[Insight]) -> int:
    """Write them, in place of older ones of the same samples; returns how many. Left out: one whose crop is gone, and one
    that no model looked at where a model did before. `ts` is now, whatever they say.
    """
    listed, now = list(insights), store.clock.now()
    written = 0
    with store.transaction():
        for i in listed:
            written += store.execute(
                "insert into insight (sample, hash, model, answer, score, margin, features, ts)"
                " select id, ?2, ?3, ?4, ?5, ?6, ?7, ?8 from sample where id = ?1 and object is not null"
                " on conflict (sample) do update set hash = excluded.hash, model = excluded.model,"
                " answer = excluded.answer, score = excluded.score, margin = excluded.margin,"
                " features = excluded.features, ts = excluded.ts where excluded.model <> '' or insight.model = ''",
                (i.sample, i.hash, i.model, i.answer, i.score, i.margin, i.features, now),
            )
    return written


def of(store: Store, ids: Iterable[str]) -> dict[str, Insight]:
    """The insights of those samples that have one."""
    found = {}
    for batch in _batches(ids):
        for row in store.rows(f"select {_COLUMNS} from insight i where i.sample in ({_marks(batch)})", batch):
            found[row["sample"]] = Insight(*row)
    return found


def hashes(store: Store, ids: Iterable[str] | None = None) -> dict[str, int]:
    """Hash by sample; of all that have one when `ids` is None."""
    if ids is None:
        return {r[0]: r[1] for r in store.rows("select sample, hash from insight")}
    return {
        r[0]: r[1]
        for batch in _batches(ids)
        for r in store.rows(f"select sample, hash from insight where sample in ({_marks(batch)})", batch)
    }


def features(store: Store, ids: Iterable[str], model: str) -> tuple[list[str], NDArray[np.float32]]:
    """Features of those samples that this model (sha256) looked at: their ids, in the order given, and float32 [n, d].

    Empty ([], [0, 0]) when there are none.
    """
    import numpy as np

    listed = list(ids)
    rows: dict[str, bytes] = {}
    for batch in _batches(listed):
        marks = ", ".join(f"?{n}" for n in range(2, len(batch) + 2))
        rows |= {
            r[0]: r[1]
            for r in store.rows(
                f"select sample, features from insight where model = ?1 and features is not null and sample in ({marks})",
                (model, *batch),
            )
        }
    kept = [i for i in listed if i in rows]
    if not kept:
        return [], np.zeros((0, 0), np.float32)
    return kept, np.stack([np.frombuffer(rows[i], "<f2") for i in kept]).astype(np.float32)


def missing(store: Store, limit: int, model: str = "", *, window: int = WINDOW) -> list[str]:
    """Samples with a picture and no insight by this model ("" = none by any), newest first, of the newest `window` samples."""
    return [
        r[0]
        for r in store.rows(
            f"select s.id from {_NEWEST} s left join insight i on i.sample = s.id where s.object is not null and {_LACKS}"
            " order by s.received desc, s.id limit ?3",
            (model, window, limit),
        )
    ]


def waiting(store: Store, model: str = "", *, window: int = WINDOW) -> tuple[int, float]:
    """How many `missing` would name without a limit, and when the first of them came in (box time; 0.0 = none waits)."""
    row = store.row(
        f"select count(*), min(s.received) from {_NEWEST} s left join insight i on i.sample = s.id"
        f" where s.object is not null and {_LACKS}",
        (model, window),
    )
    return (0, 0.0) if row is None else (int(row[0]), float(row[1] or 0.0))


def unhashed(store: Store, limit: int) -> list[str]:
    """Samples with a picture and a label of a person that no survey has seen yet, whatever their age; newest first."""
    return [
        r[0]
        for r in store.rows(
            "select s.id from sample s where s.object is not null and s.id in"
            " (select sample from label where source = 'human' and undone is null)"
            " and not exists (select 1 from insight i where i.sample = s.id) order by s.received desc, s.id limit ?",
            (limit,),
        )
    ]


def unasked(store: Store, author: str, limit: int, *, window: int = WINDOW) -> list[str]:
    """Samples with a picture that this teacher never labelled, also not with a label that was taken back; newest first, of
    the newest `window` samples.
    """
    return [
        r[0]
        for r in store.rows(
            f"select s.id from {_NEWEST} s where s.object is not null and s.id not in"
            " (select sample from label where source = 'teacher' and author = ?1)"
            " order by s.received desc, s.id limit ?3",
            (author, window, limit),
        )
    ]


def asked(store: Store, author: str, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that this teacher labelled once, whether it holds or was taken back."""
    answered = {r[0] for r in store.rows("select sample from label where source = 'teacher' and author = ?", (author,))}
    return answered.intersection(ids)


def marker(store: Store) -> tuple[int, int]:
    """Grows with each new sample, and with each new label: while it stands, nothing more is missing than was. Cheap."""
    row = store.row("select (select coalesce(max(rowid), 0) from sample), (select coalesce(max(id), 0) from label)")
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _batches(ids: Iterable[str]) -> Iterator[Sequence[str]]:
    listed = list(ids)
    for start in range(0, len(listed), _BATCH):
        yield listed[start : start + _BATCH]


def _marks(batch: Sequence[str]) -> str:
    return ", ".join("?" * len(batch))
